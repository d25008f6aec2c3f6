"""ANP on mini-ImageNet, Conv4-32, 5-way 1-shot and 5-shot, down to 15 % of weights. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/anp.py --device cuda

A dense learner per seed (15,000 steps of 4 tasks, five inner steps), then the authors' schedule of
nine rounds with 1,500 steps of masked meta-training after each: every layer cut alike as in their
code, first convolution and head spared, and the dense learner with the same further training. 600
test tasks, a fixed number of inner steps. Interrupted, the same command goes on. Accuracies and
paired differences go to `results/paper_scale/anp_1shot.json` and `anp_5shot.json`, beside what the
names of the authors' checkpoints say (another protocol: the best over steps, transductive). With
`--tiny` all of it takes two minutes on a processor, measures nothing, and is written to `--out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from at_scale import MAML, complete, engine, options
from metalearn_tut.claims.anp.jobs import pruned
from metalearn_tut.claims.arms import Arms

from metalearn_tut.claims import Job, Results
from metalearn_tut.claims.learners import train_and_test

SEEDS, QUERIES = (0, 1), 15
ARMS = {
    "dense": (None, []),
    "uniform": ("anp", []),
    "spared": ("anp", ["blocks.0.conv", "head"]),
}
SCHEDULE = (*[0.1] * 8, 0.05)
AUTHORS = {  # test accuracy in percent, from the names of the stored checkpoints
    1: {"ANP-MAML, conv32_br, kept 0.16": 41.82, "kept 0.21, plain conv32, all instances": 45.29},
    5: {"ANP-MAML, conv32, kept 0.41": 61.33, "kept 0.31": 55.62},
}


def base(seed: int, shots: int, device: str, tiny: bool) -> dict[str, Any]:
    """How the dense learner of a seed is trained."""
    size = 16 if tiny else 84
    model = {"name": "Conv4", "in_channels": 3, "ways": 5, "width": 16 if tiny else 32}
    return {
        "name": f"base-{seed}",
        "model": {**model, "norm": "support", "image_size": size},
        "algorithm": {**MAML, "engine": engine(device)},
        "data": {
            "source": {"name": "mini_imagenet", "size": size},
            "shots": shots,
            "queries": 2 if tiny else QUERIES,
        },
        "training": _loop(4 if tiny else 15_000),
        "test": {"test": _test(tiny)},
        "seed": seed,
        "device": device,
    }


def jobs(shots: int, device: str, tiny: bool) -> list[Job]:
    """The dense learners, then the arms."""
    bases = {seed: base(seed, shots, device, tiny) for seed in SEEDS}
    found = [Job(config["name"], config, train_and_test) for config in bases.values()]
    shares = [f"{sum(SCHEDULE[: r + 1]):.2f}" for r in range(len(SCHEDULE))]
    for seed in SEEDS:
        for arm, (score, spare) in ARMS.items():
            config = {
                "dense": bases[seed],
                "score": score,
                "schedule": list(SCHEDULE),
                "options": {"n_tasks": 2 if tiny else 20, "patch_stride": 5, "spare": spare},
                "retrain": {**_loop(0), "steps": [2 if tiny else 1_500] * len(SCHEDULE)},
                "test": dict.fromkeys(shares, _test(tiny)),
            }
            found.append(Job(f"{arm}-{seed}", config, pruned))
    return found


def _loop(steps: int) -> dict[str, Any]:
    return {"steps": steps, "tasks_per_step": 4, "outer_lr": 1e-3}


def _test(tiny: bool) -> dict[str, Any]:
    queries = 2 if tiny else QUERIES
    return {"split": "test", "tasks": 10 if tiny else 600, "queries": queries, "seed": 1}


def summary(values: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Accuracy at each share, and the paired difference to dense at 85 %."""
    data = jobs[0].config["data"]
    arms = Arms(Results(values), SEEDS, 5 * data["queries"])
    shares = [s for s in values["dense-0"] if s.startswith("0.")]
    return {
        "accuracy": {arm: {share: arms.mean(arm, share) for share in shares} for arm in ARMS},
        "minus_dense": {
            arm: arms.minus(arm, "dense", "0.85").to_dict() for arm in ARMS if arm != "dense"
        },
        "authors": AUTHORS[data["shots"]],
    }


def main() -> None:
    """Run what is missing, then write what came out."""
    parser = options(__doc__, "anp")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5], choices=[1, 5])
    given = parser.parse_args()
    for shots in given.shots:
        complete(f"anp_{shots}shot", jobs, shots, summary, given, part=f"{shots}shot")


if __name__ == "__main__":
    main()
