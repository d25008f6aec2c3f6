"""Which arms the MetaGater study has. Every arm trains for as many rounds, or as many steps."""

from __future__ import annotations

from typing import Any

from metalearn_tut.claims.arms import SEEDS
from metalearn_tut.claims.metagater import filters as metagater_filters
from metalearn_tut.claims.metagater import jobs as metagater_jobs
from metalearn_tut.claims.study import Config, Job

SUPPORTS = (5, 10, 20)
MAIN = "gated-0.5"
TARGETS = (0.7, 0.5, 0.35)  # share of open filters
KEPT = {"static-12": 12 / 16, "static-10": 10 / 16, "static-8": 8 / 16, "static-6": 6 / 16}
GATES: Config = {"inner_lr": 0.1, "gate_lr": 1.0, "sparsity": 1.0, "target": 0.5, "warmup": 0.2}

SETUP: Config = {
    "width": 16,
    "inner_lr": 0.1,
    "nodes": {"train": 192, "validation": 20, "test": 48},
    "within_script": True,
    "plan": {
        "rounds": 30,
        "local_steps": 4,
        "fraction": 16 / 192,
        "support": 10,
        "query": 20,
        "outer_lr": 0.3,
        "gate_outer_lr": 5.0,
    },
    "watch": None,
    "validation": {"support": 10, "tasks": 40},
    "test": {"supports": list(SUPPORTS), "query": 30, "draws": 3, "seed": 0},
}
WATCH = {"every": 3, "nodes": 24}  # rounds between two looks at the gradient of 24 nodes
RATES = [[0.1, 0.2, 0.4], [0.1, 1.0, 10.0]]  # of the backbone and the gates, for FedAvg
ALONE = 15.0  # step size of gates that learn on a backbone that does not
SCRATCH = {"lr": [1.0, 10.0, 100.0], "steps": [1, 10]}


def all_jobs(quick: bool) -> list[Job]:
    """All arms with every seed; quick: few nodes and rounds, and one seed."""
    setup, seeds = (_fewer(SETUP), SEEDS[:1]) if quick else (SETUP, SEEDS)
    made = [job for seed in seeds for job in arms(setup, seed)]
    return [*made, Job("latency", _latency(quick), metagater_filters.latency)]


def _fewer(setup: Config) -> Config:
    """For a quick run."""
    return {
        **setup,
        "nodes": {"train": 20, "validation": 5, "test": 8},
        "plan": {**setup["plan"], "rounds": 8, "fraction": 0.2, "gate_outer_lr": 15.0},
        "validation": {"support": 10, "tasks": 3},
        "test": {**setup["test"], "draws": 1},
    }


def arms(setup: Config, seed: int) -> list[Job]:
    """The arms of one seed, those that others start from first."""
    base = {**setup, "seed": seed, "plan": {**setup["plan"], "seed": seed}}
    gates = {**GATES, "seed": 0}
    watch = WATCH if setup is SETUP else {"every": 1, "nodes": 4}
    half = {**_plan(base, rounds=setup["plan"]["rounds"] // 2), "name": f"half-{seed}"}
    # The other half of the rounds, with other tasks
    rest = {**_plan(half, seed=seed + 1000), "start": half}
    rest.pop("name")
    main = {**base, "gates": gates, "watch": watch}
    once = _one_step(main)
    found = {
        "half": half,
        MAIN: main,
        "dense": base,
        **{
            f"gated-{t}": {**main, "gates": {**gates, "target": t}, "watch": None}
            for t in TARGETS
            if t != gates["target"]
        },
        "fedavg": {**base, "gates": {**gates, "stages": []}, "rates": RATES},
        "separate": {
            **_plan(rest, outer_lr=0.0, gate_outer_lr=ALONE),
            "gates": {**gates, "warmup": 0.0},
        },
        **{name: {**rest, "kept": kept} for name, kept in KEPT.items()},
        "one-step": once,
        "mixed": {**main, "within_script": False, "watch": None},
        "mixed-one-step": {**once, "within_script": False, "watch": None},
    }
    made = [Job(f"{n}-{seed}", config, metagater_jobs.federated) for n, config in found.items()]
    choices = {"of": f"{MAIN}-{seed}", "arm": main, "scratch": SCRATCH}
    return [*made, Job(f"choices-{seed}", choices, metagater_filters.choices)]


def _plan(config: Config, **changes: Any) -> Config:
    return {**config, "plan": {**config["plan"], **changes}}


def _one_step(config: Config) -> Config:
    """As many local steps in all, and an average after every one."""
    steps = config["plan"]["local_steps"]
    watch = {**config["watch"], "every": config["watch"]["every"] * steps}
    changed = _plan(config, local_steps=1, rounds=config["plan"]["rounds"] * steps)
    return {**changed, "watch": watch}


def _latency(quick: bool) -> Config:
    return {
        "networks": {
            "Conv4-16, 28x28": [1, 16, 28],
            "Conv4-64, 28x28": [1, 64, 28],
            "Conv4-64, 84x84": [3, 64, 84],
        },
        "open": [0.5] if quick else [0.5, 0.25],
        "calls": 5 if quick else 20,
        "turns": 5 if quick else 40,
    }
