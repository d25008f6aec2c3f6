"""Which learners the comparison has: each draws as many training tasks in all, 960."""

from __future__ import annotations

from metalearn_tut.claims.arms import SEEDS
from metalearn_tut.claims.compact.jobs import times, train_and_measure
from metalearn_tut.claims.learners import CONV4, first_tasks
from metalearn_tut.claims.study import Config, Job

# Networks

CONV8, CONV16, CONV32 = ({**CONV4, "width": width} for width in (8, 16, 32))
GATED32: Config = {**CONV32, "name": "ChannelGatedConv4"}
RESIDUAL: Config = {**CONV4, "name": "ResNet12", "widths": [4, 8, 16, 32]}

# Algorithms

MAML: Config = {
    "name": "maml",
    "inner_lr": 0.1,
    "inner_steps": 2,
    "rate_mode": "per_layer_and_step",
}
FIXED: Config = {**MAML, "rate_mode": "fixed"}  # blocks that go would take their rates along
PROTOTYPES: Config = {"name": "protonet"}
GATES: Config = {
    "name": "metagater",
    "inner_lr": 0.1,
    "gate_lr": 1.0,
    "stages": ["backbone", "backbone", "gates"],
    "warmup": 0.2,
}

# Tasks, and the loop over them: clean, or with random labels in 30 % of the support sets

GLYPHS: Config = {"data": {"name": "glyphs"}, "shots": 1, "queries": 5}
CLEAN: Config = {
    "tasks": {**GLYPHS, "kind": "clean", "rate": 0.0},
    "aggregate": {"name": "mean"},
    "training": {"tasks_per_step": 4, "outer_lr": 0.003},
}
CLEAN_GATED: Config = {
    **CLEAN,
    "training": {
        "tasks_per_step": 4,
        "outer_lr": {"blocks": 0.003, "head": 0.003, "gates": 0.01},
    },
}
NOISY: Config = {
    "tasks": {**GLYPHS, "kind": "labels", "rate": 0.3},
    "aggregate": {"name": "mean"},
    "training": {"tasks_per_step": 16, "outer_lr": 0.01},  # ranks need many tasks a step
}
RANKED: Config = {**NOISY, "aggregate": {"name": "range", "m": 5, "k": 16}}

# How a learner is made

TRAINED: Config = {"recipe": "trained"}
GATED: Config = {"recipe": "trained", "model": GATED32}
PRUNED: Config = {
    "recipe": "pruned",
    "options": {"n_tasks": 20, "spare": ["blocks.0.conv", "head"]},
}
TAUGHT: Config = {
    "recipe": "taught",
    "model": CONV8,
    "algorithm": MAML,
    "teacher": "maml32",
    "distil": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5},
}
# Share of the weights that goes in each round, and steps after it; noisy ones have bigger batches.
ANP50: Config = {**PRUNED, "schedule": [0.5], "steps": [80]}
ANP75: Config = {**PRUNED, "schedule": [0.5, 0.25], "steps": [40, 40]}
ANP90: Config = {**PRUNED, "schedule": [0.5, 0.25, 0.15], "steps": [24, 24, 32]}
NOISY_ANP75: Config = {**PRUNED, "schedule": [0.5, 0.25], "steps": [10, 10]}

# What others start from stands before them
ARMS: dict[str, Config] = {
    "maml8": {**TRAINED, "model": CONV8, "algorithm": MAML, "steps": 240, **CLEAN},
    "maml16": {**TRAINED, "model": CONV16, "algorithm": MAML, "steps": 240, **CLEAN},
    "maml32": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 240, **CLEAN},
    "proto8": {**TRAINED, "model": CONV8, "algorithm": PROTOTYPES, "steps": 240, **CLEAN},
    "proto32": {**TRAINED, "model": CONV32, "algorithm": PROTOTYPES, "steps": 240, **CLEAN},
    "before": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 160, **CLEAN},
    "residual": {**TRAINED, "model": RESIDUAL, "algorithm": FIXED, "steps": 240, **CLEAN},
    "blocks-before": {
        "recipe": "gated_blocks",
        "model": RESIDUAL,
        "algorithm": FIXED,
        "steps": 160,
        **CLEAN,
    },
    "gated0.5": {**GATED, "algorithm": {**GATES, "sparsity": 0.5}, "steps": 240, **CLEAN_GATED},
    "gated1": {**GATED, "algorithm": {**GATES, "sparsity": 1.0}, "steps": 240, **CLEAN_GATED},
    "gated2": {**GATED, "algorithm": {**GATES, "sparsity": 2.0}, "steps": 240, **CLEAN_GATED},
    "noisy-mean": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 60, **NOISY},
    "noisy-mean-before": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 40, **NOISY},
    "noisy-hetrom": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 60, **RANKED},
    "noisy-hetrom-before": {**TRAINED, "model": CONV32, "algorithm": MAML, "steps": 40, **RANKED},
    "anp50": {**ANP50, "base": "before", **CLEAN},
    "anp75": {**ANP75, "base": "before", **CLEAN},
    "anp90": {**ANP90, "base": "before", **CLEAN},
    "filters": {
        "recipe": "narrowed",
        "base": "before",
        "kept": 0.5,
        "options": {"n_tasks": 20},
        "steps": 80,
        **CLEAN,
    },
    "abp": {
        "recipe": "shortened",
        "base": "blocks-before",
        "voting": {"n_prune": 2, "n_tasks": 100},
        "steps": [28, 28, 24],
        **CLEAN,
    },
    "tsmd": {**TAUGHT, "steps": 240, **CLEAN},
    "tsmd-before": {**TAUGHT, "steps": 160, **CLEAN},
    "noisy-mean-anp75": {**NOISY_ANP75, "base": "noisy-mean-before", **NOISY},
    "noisy-hetrom-anp75": {**NOISY_ANP75, "base": "noisy-hetrom-before", **RANKED},
    "tsmd-anp50": {**ANP50, "base": "tsmd-before", **CLEAN},
}


def all_jobs(quick: bool) -> list[Job]:
    """All learners with every seed, those that others start from first; then their times."""
    seeds = SEEDS[:1] if quick else SEEDS
    made = [config for seed in seeds for config in configurations(seed, quick).values()]
    compared = {n: c for n, c in configurations(SEEDS[0], quick).items() if "before" not in n}
    config = {
        "learners": compared,
        "data": {"shots": 1},
        "test": compared["maml8"]["test"]["test"],
        "turns": 3 if quick else 25,
    }
    jobs = [Job(each["name"], each, train_and_measure) for each in made]
    return [*jobs, Job("times", config, times)]


def configurations(seed: int, quick: bool) -> dict[str, Config]:
    """All arms with one seed; quick: a tenth of the steps, and fewer test tasks."""
    found: dict[str, Config] = {}
    for name, arm in ARMS.items():
        config = {
            **arm,
            "name": f"{name}-{seed}",
            "data": {"shots": 1},
            "test": {"test": first_tasks(50 if quick else 600)},
            "seed": seed,
        }
        for part in ("base", "teacher"):
            if part in arm:
                config[part] = found[arm[part]]
        if quick:
            steps = arm["steps"]
            config["steps"] = [n // 10 for n in steps] if isinstance(steps, list) else steps // 10
        found[name] = config
    return found
