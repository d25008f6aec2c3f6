"""Which arms an ABP study has. Every arm has as many epochs in all, and as many of distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metalearn_tut.claims.abp import jobs as abp_jobs
from metalearn_tut.claims.arms import SEEDS
from metalearn_tut.claims.study import Config, Job

PRUNED = {"0.4": 3, "0.6": 5}  # blocks of the nine of a ResNet-20
ROUNDS = max(PRUNED.values())
KEPT = {"abp": (0.7, 0.5, 0.35, 0.25), "alone": (0.45, 0.3, 0.2)}  # share of the filters

CHARACTERS: Config = {
    "data": {"name": "characters", "classes": 100, "per_class": [8, 4]},
    "classes": 100,
    "depth": 20,
    "gate": "soft1",
    "batch": 32,
    "augment": {"padding": 2, "flip": False},
    "recipes": {
        "gates": {"epochs": 14, "lr": 0.1},
        "round": {"epochs": 3, "lr": 0.02},
        "final": {"epochs": 8, "lr": 0.03},
        "filters": {"epochs": 10, "lr": 0.03},
        "narrow": {"epochs": 5, "lr": 0.03},
    },
}
_FEW = {"gates": 3, "round": 1, "final": 2, "filters": 2, "narrow": 1}
VARIANTS: dict[str, Config] = {
    "abp": {},
    "random": {"rule": "random"},
    "mean": {"rule": "mean"},
    "undistilled": {"kd_weight": 0.0},
    "oneshot": {"rule": "bottom_q", "per_round": PRUNED["0.4"]},
}


def all_jobs(quick: bool) -> list[Job]:
    """All arms with every seed; quick: fewer characters and epochs, and one seed."""
    seeds = SEEDS[:1] if quick else SEEDS
    setup = fewer(CHARACTERS) if quick else CHARACTERS
    first = [Job(f"gates-{s}", gated_config(setup, s), abp_jobs.train_gated) for s in seeds]
    kept = {way: shares[1:2] for way, shares in KEPT.items()} if quick else KEPT
    arms = [job for s in seeds for job in (*arm_jobs(setup, s), *filter_jobs(setup, s, kept))]
    return [*first, *arms, Job("latency", _latency(quick), abp_jobs.latency)]


def arm_jobs(setup: Config, seed: int) -> list[Job]:
    """The arms of one seed, those that others start from first."""
    arms = {f"{variant}-0.4": (variant, "0.4") for variant in VARIANTS}
    arms["abp-0.6"] = "abp", "0.6"
    configs = {name: _arm(setup, *arm, seed) for name, arm in arms.items()}
    jobs = [Job(f"{name}-{seed}", config, abp_jobs.pruned) for name, config in configs.items()]
    for ratio in PRUNED:
        whole = _unpruned(setup, ratio, seed)
        jobs.append(Job(f"unpruned-{ratio}-{seed}", whole, abp_jobs.unpruned))
        made = {"of": f"abp-{ratio}-{seed}", "arm": configs[f"abp-{ratio}"]}
        jobs.append(Job(f"scratch-{ratio}-{seed}", made, abp_jobs.scratch))
    return jobs


def fewer(setup: Config) -> Config:
    """For a quick run."""
    recipes = {n: {**how, "epochs": _FEW[n]} for n, how in setup["recipes"].items()}
    data = {**setup["data"], "classes": 20}
    return {**setup, "data": data, "classes": 20, "recipes": recipes}


def gated_config(setup: Config, seed: int) -> Config:
    """Stage 1; ``name`` is that of its job."""
    return {**setup, "name": f"gates-{seed}", "seed": seed}


def _arm(setup: Config, variant: str, ratio: str, seed: int) -> Config:
    """Epochs that a smaller ratio does not need for rounds go to the last training."""
    rounds, each = PRUNED[ratio], setup["recipes"]["round"]["epochs"]
    voting = {"n_prune": rounds, **VARIANTS[variant]}
    at_once = voting.get("per_round", 1)
    return {
        "gates": gated_config(setup, seed),
        "voting": voting,
        "epochs": each * at_once,
        "final": setup["recipes"]["final"]["epochs"] + each * (ROUNDS - rounds),
    }


def _unpruned(setup: Config, ratio: str, seed: int) -> Config:
    """As many epochs of each kind as ABP's arm."""
    arm = _arm(setup, "abp", ratio, seed)
    return {n: arm[n] for n in ("gates", "epochs", "final")} | {"rounds": PRUNED[ratio]}


def filter_jobs(
    setup: Config,
    seed: int,
    kept: Mapping[str, Sequence[float]],
    title: str = "filters",
    **recipes: Config,
) -> list[Job]:
    """Filters of ABP's shorter network and of the unpruned one; ``recipes`` replace its own."""
    arms = {
        "abp": (f"abp-0.6-{seed}", _arm(setup, "abp", "0.6", seed)),
        "alone": (f"unpruned-0.6-{seed}", _unpruned(setup, "0.6", seed)),
    }
    more = {"recipes": recipes} if recipes else {}
    return [
        Job(
            f"{title}-{way}-{share}-{seed}",
            {"of": of, "arm": arm, "kept": share, **more},
            abp_jobs.prune_filters,
        )
        for way, (of, arm) in arms.items()
        for share in kept[way]
    ]


def _latency(quick: bool) -> Config:
    return {
        "depths": [20] if quick else [20, 32, 56],
        "ratios": [0.4, 0.6],
        "batches": [1, 64],
        "turns": 3 if quick else 15,
    }
