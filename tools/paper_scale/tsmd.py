"""TSMD on mini-ImageNet, teacher ResNet-12, student Conv4-32, 1-shot and 5-shot. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/tsmd.py --device cuda

The paper's teacher is a ResNet-50, ours is smaller. A teacher per seed is meta-trained for 5,000
steps of 4 tasks: the fixed teacher. Then 15,000 steps of the student alone, of the student guided
by the fixed teacher, of both together (TSMD), and of the teacher alone (Oracle). Five inner steps,
learned inner rates; guidance at temperature 1 with weights 0.5 and 0.5 and, as public distillation
code has it, at temperature 4 with weights 1 and 1. 600 test tasks. Interrupted, the same command
goes on. Accuracies and paired differences of neighbors go to `results/paper_scale/tsmd_1shot.json`
and `tsmd_5shot.json`. With `--tiny` all of it takes a minute on a processor, measures nothing, and
is written to `--out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from at_scale import MAML, complete, options
from metalearn_tut.claims.arms import Arms
from metalearn_tut.claims.tsmd.arms import CHOSEN, RECONSTRUCTED
from metalearn_tut.claims.tsmd.jobs import taught

from metalearn_tut.claims import Job, Results
from metalearn_tut.claims.learners import train_and_test

SEEDS, QUERIES = (0, 1), 15
GUIDED = {
    "fixed": {**CHOSEN, "fixed_teacher": True},
    "fixed T=4": {**RECONSTRUCTED, "fixed_teacher": True},
    "tsmd": CHOSEN,
    "tsmd T=4": RECONSTRUCTED,
}
PAIRS = (("fixed", "student"), ("tsmd", "fixed"), ("oracle", "tsmd"), ("tsmd", "student"))


def learner(
    name: str, model: dict[str, Any], steps: int, seed: int, shots: int, device: str, tiny: bool
) -> dict[str, Any]:
    """How a network is meta-trained alone."""
    size, queries = (16, 2) if tiny else (84, QUERIES)
    common = {"in_channels": 3, "ways": 5, "norm": "support"}
    return {
        "name": f"{name.replace(' ', '-').replace('=', '')}-{seed}",
        "model": {**model, **common},
        "algorithm": {**MAML, "first_order": model["name"] == "ResNet12"},
        "data": {
            "source": {"name": "mini_imagenet", "size": size},
            "shots": shots,
            "queries": queries,
        },
        "training": {"steps": 3 if tiny else steps, "tasks_per_step": 4, "outer_lr": 1e-3},
        "test": {
            "test": {"split": "test", "tasks": 10 if tiny else 600, "queries": queries, "seed": 1}
        },
        "seed": seed,
        "device": device,
    }


def jobs(shots: int, device: str, tiny: bool) -> list[Job]:
    """The learners alone, then the guided ones."""
    widths = [4, 4, 8, 8] if tiny else [64, 128, 256, 512]
    large = {"name": "ResNet12", "widths": widths}
    small = {"name": "Conv4", "width": 4 if tiny else 32, "image_size": 16 if tiny else 84}
    found = []
    for seed in SEEDS:
        rest = seed, shots, device, tiny
        start = learner("start", large, 5_000, *rest)
        oracle = {**learner("oracle", large, 15_000, *rest), "start": start}
        student = learner("student", small, 15_000, *rest)
        found += [Job(c["name"], c, train_and_test) for c in (start, oracle, student)]
        for arm, distil in GUIDED.items():
            named = learner(arm, small, 15_000, *rest)["name"]
            config = {**student, "name": named, "teacher": start, "distil": distil}
            found.append(Job(named, config, taught))
    return found


def summary(values: dict[str, dict[str, Any]], jobs: Sequence[Job]) -> dict[str, Any]:
    """Accuracy of each arm, and paired differences of neighbors."""
    arms = Arms(Results(values), SEEDS, 5 * jobs[0].config["data"]["queries"])
    names = sorted({name.rpartition("-")[0] for name in values})
    return {
        "accuracy": {arm: arms.mean(arm) for arm in names},
        "differences": {f"{a} - {b}": arms.minus(a, b).to_dict() for a, b in PAIRS},
    }


def main() -> None:
    """Run what is missing, then write what came out."""
    parser = options(__doc__, "tsmd")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5], choices=[1, 5])
    given = parser.parse_args()
    for shots in given.shots:
        complete(f"tsmd_{shots}shot", jobs, shots, summary, given, part=f"{shots}shot")


if __name__ == "__main__":
    main()
