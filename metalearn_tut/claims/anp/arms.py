"""Which arms the ANP study has: networks, scores, schedules, and the tasks they are tested on."""

from __future__ import annotations

from metalearn_tut.claims.anp.jobs import filters, naive, pruned
from metalearn_tut.claims.arms import SEEDS
from metalearn_tut.claims.learners import CONV4, first_tasks, train_and_test
from metalearn_tut.claims.study import Config, Job

SCHEDULE = (0.45, 0.25, 0.15, 0.05, 0.05)
SHARES = ("0.45", "0.70", "0.85", "0.90", "0.95")
DECIDING = ("0.85", "0.90")  # where 600 tasks are asked, and 300 elsewhere
SPARED = {
    "conv": ["blocks.0.conv", "head"],
    "resnet": ["blocks.0.convs.0", "blocks.0.shortcut", "head"],
}
OTHERS = ("lobs", "magnitude", "random", "snip", "meta_snip")

MODELS: dict[str, Config] = {
    "conv64": {**CONV4, "width": 64},
    "conv32": {**CONV4, "width": 32},
    "resnet": {**CONV4, "name": "ResNet12", "widths": [8, 16, 32, 64]},
}
LEARNER = {"name": "maml", "inner_lr": 0.1, "inner_steps": 2, "rate_mode": "per_layer_and_step"}
NETWORKS: dict[str, tuple[Config, Config]] = {
    "conv64": (MODELS["conv64"], LEARNER),
    "conv32": (MODELS["conv32"], LEARNER),
    "resnet": (MODELS["resnet"], LEARNER),
    "anil64": (MODELS["conv64"], {**LEARNER, "name": "anil"}),
}
SCORES = {"dense": None, "anp": "anp", **{score: score for score in OTHERS}}


def all_jobs(quick: bool) -> list[Job]:
    """Dense learners first, from which the arms start; then the arms, one seed after another."""
    seeds = SEEDS[:1] if quick else SEEDS
    networks = ("conv32",) if quick else tuple(NETWORKS)
    bases = [
        Job(f"{n}-base-{s}", _base(n, s, quick), train_and_test) for s in seeds for n in networks
    ]
    arms = [_arm(*arm, s, quick) for s in seeds for arm in _arms() if arm[0] in networks]
    first = ("magnitude", "0.85") if quick else None
    ways = [(score, share) for score in ("magnitude", "lobs") for share in DECIDING]
    naives = [_naive(*way, s, quick) for s in seeds for way in ways if first in (None, way)]
    return [*bases, Job("filters", _filters(quick), filters), *arms, *naives]


def _arms() -> list[tuple[str, str, str | None, Config]]:
    """Network, name, score, and other options of pruning."""
    spared = {n: {"spare": SPARED.get(n, SPARED["conv"])} for n in NETWORKS}
    arms = [("conv32", name, score, spared["conv32"]) for name, score in SCORES.items()]
    arms.append(("conv32", "downdated", "anp", {**spared["conv32"], "update_hinv": True}))
    for network in ("conv64", "resnet", "anil64"):
        arms += [(network, name, SCORES[name], spared[network]) for name in ("dense", "anp")]
    return arms + [(network, "uniform", "anp", {"spare": []}) for network in ("conv64", "conv32")]


def _base(network: str, seed: int, quick: bool) -> Config:
    model, algorithm = NETWORKS[network]
    return base(f"{network}-base-{seed}", model, algorithm, seed, 1, 60 if quick else 400, quick)


def base(
    name: str, model: Config, algorithm: Config, seed: int, shots: int, steps: int, quick: bool
) -> Config:
    """How a dense learner is trained; ``name`` is that of its job."""
    return {
        "name": name,
        "model": model,
        "algorithm": algorithm,
        "data": {"shots": shots, "queries": 5},
        "training": {"steps": steps, "tasks_per_step": 4, "outer_lr": 0.003},
        "test": {"test": first_tasks(100 if quick else 600)},
        "seed": seed,
    }


def _arm(
    network: str, name: str, score: str | None, options: Config, seed: int, quick: bool
) -> Job:
    rounds = SCHEDULE if network == "conv32" else SCHEDULE[:3]
    test = {}
    for share in SHARES if network == "conv32" else ("0.85",):
        n = 600 if share in DECIDING else 200
        test |= {
            f"before {share}": first_tasks(50 if quick else 200),
            share: first_tasks(50 if quick else n),
        }
    if network in MODELS and name in ("anp", "uniform"):
        test["validation 0.85"] = first_tasks(50 if quick else 300, "validation")
    config = {
        "dense": _base(network, seed, quick),
        "score": score,
        "schedule": list(rounds),
        "options": {"n_tasks": 20, **options},
        "retrain": retraining(quick, len(rounds)),
        "test": test,
    }
    return Job(f"{network}-{name}-{seed}", config, pruned)


def retraining(quick: bool, rounds: int) -> Config:
    """Masked training after each round, of every arm: more after the third, down to 15 %."""
    steps = [10 if quick else 50] * rounds
    steps[2] *= 2
    return {"steps": steps, "tasks_per_step": 4, "outer_lr": 0.002}


def _filters(quick: bool) -> Config:
    """As much training as the arms down to 15 % have in all."""
    return {
        "dense": _base("conv32" if quick else "conv64", 0, quick),
        "n_tasks": 20,
        "keep": [0.5, 0.25],
        "retrain": {**retraining(quick, 3), "steps": sum(retraining(quick, 3)["steps"])},
        "test": first_tasks(100 if quick else 600),
    }


def _naive(score: str, share: str, seed: int, quick: bool) -> Job:
    """As many weights fewer as ANP's arm, and as many steps of meta-training in all."""
    base, rounds = _base("conv32", seed, quick), SHARES.index(share) + 1
    steps = base["training"]["steps"] + sum(retraining(quick, rounds)["steps"])
    config = {
        "dense": base,
        "score": score,
        "schedule": list(SCHEDULE[:rounds]),
        "options": {"n_tasks": 20, "spare": SPARED["conv"]},
        "ordinary": {"training": _ordinary(160), "retrain": _ordinary(80)},
        "training": {**base["training"], "steps": steps},
        "test": first_tasks(50 if quick else 600),
    }
    return Job(f"naive-{score}-{share}-{seed}", config, naive)


def _ordinary(steps: int) -> Config:
    """Steps of 50 of the task's 100 images: 40 epochs are 80 of them."""
    return {"steps": steps, "tasks_per_step": 1, "outer_lr": 0.003}
