"""Which learners the comparison has: each draws as many training tasks in all, 960."""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.compact.jobs import times, train_and_measure
from metalearn_tut.claims.hetrom.jobs import HETROM, kind_of_tasks, ranked
from metalearn_tut.claims.study import Job

Config = dict[str, Any]
SEEDS, QUERIES = (0, 1, 2), 50
STEPS, BEFORE = 240, 160  # of a whole training, and of one before a prune
NOISE = 0.3
PRICES = (0.5, 1.0, 2.0)  # of all filters open

_CONV4: Config = {"name": "Conv4", "in_channels": 1, "ways": 5, "norm": "support"}
CONV: dict[int, Config] = {width: {**_CONV4, "width": width} for width in (8, 16, 32)}
RESIDUAL: Config = {**_CONV4, "name": "ResNet12", "widths": [4, 8, 16, 32]}
MAML: Config = {
    "name": "maml",
    "inner_lr": 0.1,
    "inner_steps": 2,
    "rate_mode": "per_layer_and_step",
}
FIXED: Config = {**MAML, "rate_mode": "fixed"}  # blocks that go would take their rates along
GATES: Config = {
    "name": "metagater",
    "inner_lr": 0.1,
    "gate_lr": 1.0,
    "stages": ["backbone", "backbone", "gates"],
    "warmup": 0.2,
}
DISTIL: Config = {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}
SPARED = ["blocks.0.conv", "head"]
# Share that goes in each round, and steps after it
ROUNDS: dict[str, tuple[list[float], list[int]]] = {
    "50": ([0.5], [80]),
    "75": ([0.5, 0.25], [40, 40]),
    "90": ([0.5, 0.25, 0.15], [24, 24, 32]),
}


def all_jobs(quick: bool) -> list[Job]:
    """All learners with every seed, those that others start from first; then their times."""
    seeds = SEEDS[:1] if quick else SEEDS
    each = [sorted(learners(seed, quick).values(), key=_depth) for seed in seeds]
    made = [
        Job(config["name"], config, train_and_measure) for configs in each for config in configs
    ]
    timed = {name: c for name, c in learners(SEEDS[0], quick).items() if "before" not in name}
    first = next(iter(timed.values()))
    config = {
        "learners": timed,
        "data": first["data"],
        "test": first["test"]["test"],
        "turns": 3 if quick else 25,
    }
    return [*made, Job("times", config, times)]


def _depth(config: Config) -> int:
    """How many learners must be made one after another before this one."""
    return max(
        (1 + _depth(config[part]) for part in ("base", "teacher") if part in config), default=0
    )


def learners(seed: int, quick: bool) -> dict[str, Config]:
    """The configuration of every learner of a seed, by its name without the seed."""
    found: dict[str, Config] = {}
    scale = 10 if quick else 1

    def add(name: str, **parts: Any) -> None:
        steps = parts.pop("steps", STEPS)
        few = [n // scale for n in steps] if isinstance(steps, list) else steps // scale
        common = _noisy(NOISE) if "noisy" in name else _clean()
        found[name] = {
            "name": f"{name}-{seed}",
            "recipe": "trained",
            **common,
            **parts,
            "steps": few,
            "data": {"shots": 1},
            "test": {"test": _drawn(50 if quick else 600)},
            "seed": seed,
        }

    for width, model in CONV.items():
        add(f"maml{width}", model=model, algorithm=MAML)
    for width in (8, 32):
        add(f"proto{width}", model=CONV[width], algorithm={"name": "protonet"})
    add("before", model=CONV[32], algorithm=MAML, steps=BEFORE)
    for share, (schedule, steps) in ROUNDS.items():
        add(f"anp{share}", **_pruned(found["before"], schedule), steps=steps)
    filters = {"base": found["before"], "kept": 0.5, "options": {"n_tasks": 20}}
    add("filters", recipe="narrowed", **filters, steps=STEPS - BEFORE)
    add("residual", model=RESIDUAL, algorithm=FIXED)
    blocks = {"recipe": "gated_blocks", "model": RESIDUAL, "algorithm": FIXED}
    add("blocks-before", **blocks, steps=BEFORE)
    voting = {"n_prune": 2, "n_tasks": 100}
    short = {"recipe": "shortened", "base": found["blocks-before"], "voting": voting}
    add("abp", **short, steps=[28, 28, 24])
    student = {"recipe": "taught", "model": CONV[8], "algorithm": MAML, "distil": DISTIL}
    add("tsmd", **student, teacher=found["maml32"])
    add("tsmd-before", **student, teacher=found["maml32"], steps=BEFORE)
    schedule, steps = ROUNDS["50"]
    add("tsmd-anp50", **_pruned(found["tsmd-before"], schedule), steps=steps)
    rates = {"blocks": 0.003, "head": 0.003, "gates": 0.01}
    for price in PRICES:
        gated = {**CONV[32], "name": "ChannelGatedConv4"}
        training = {**_clean()["training"], "outer_lr": rates}
        algorithm = {**GATES, "sparsity": price}
        add(f"gated{price:g}", model=gated, algorithm=algorithm, training=training)
    schedule, steps = ROUNDS["75"]
    for name, how in (("mean", {"name": "mean"}), ("hetrom", ranked(*HETROM[NOISE]))):
        noisy = {"model": CONV[32], "algorithm": MAML, "aggregate": how}
        add(f"noisy-{name}", **noisy, steps=STEPS // 4)
        add(f"noisy-{name}-before", **noisy, steps=BEFORE // 4)
        base = found[f"noisy-{name}-before"]
        fewer = [n // 4 for n in steps]
        add(f"noisy-{name}-anp75", **_pruned(base, schedule), aggregate=how, steps=fewer)
    return found


def _clean() -> Config:
    return {
        "tasks": kind_of_tasks("clean", 0.0),
        "aggregate": {"name": "mean"},
        "training": {"tasks_per_step": 4, "outer_lr": 0.003},
    }


def _noisy(rate: float) -> Config:
    """Random labels in some support sets; ranks need many tasks a step."""
    return {
        "tasks": kind_of_tasks("labels", rate),
        "aggregate": {"name": "mean"},
        "training": {"tasks_per_step": 16, "outer_lr": 0.01},
    }


def _pruned(base: Config, schedule: list[float]) -> Config:
    options = {"n_tasks": 20, "spare": SPARED}
    return {"recipe": "pruned", "base": base, "schedule": schedule, "options": options}


def _drawn(tasks: int) -> Config:
    """The first test tasks, the same for every learner."""
    return {"split": "test", "tasks": tasks, "queries": QUERIES // 5, "seed": 1}
