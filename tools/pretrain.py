"""Make a shipped learner again: train, export, evaluate.

    python tools/pretrain.py glyphs_5way_1shot

Writes `metalearn_tut/pretrained/NAME.safetensors` and `results/pretrained/NAME.json` (both
norm modes, 600 tasks). An interrupted training goes on where it stopped. The Omniglot learner
needs METALEARN_TUT_DATA; its evaluation is on the validation alphabets, and no choice was
made on test classes. With `--evaluate-only` the shipped file is measured as it is.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMON = (
    "--ways 5 --queries 5 --norm support --inner-steps 2 --rates step --zero-head "
    "--tasks-per-step 4 --outer-lr 2e-3 --seed 0 --processes 2"
)
# What to train with (where it is not as in COMMON), and the split that stands in results/.
LEARNERS = {
    "glyphs_5way_1shot": ("--data glyphs --shots 1 --steps 6500 --validate-every 1625", "test"),
    "glyphs_5way_1shot_small": (
        "--data glyphs --shots 1 --width 8 --rates fixed --engine vectorised --steps 1000 "
        "--outer-lr 4e-3 --validate-every 500 --validation-tasks 60 --processes 1",
        "test",
    ),
    "glyphs_5way_5shot": ("--data glyphs --shots 5 --steps 1500 --validate-every 750", "test"),
    "omniglot_5way_1shot": (
        "--data omniglot --rotations --shots 1 --steps 6500 --validate-every 1625",
        "validation",
    ),
}


def run(arguments: str) -> None:
    """Call the command line of the package, and stop if it fails."""
    command = [sys.executable, "-m", "metalearn_tut", *shlex.split(arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


def train(name: str) -> float:
    """Train and export; returns the seconds that training took."""
    start = time.perf_counter()
    run(f"train {COMMON} {LEARNERS[name][0]} --out runs/{name} --resume")
    seconds = time.perf_counter() - start
    run(f"export runs/{name} metalearn_tut/pretrained/{name}.safetensors")
    return seconds


def evaluate(name: str, seconds: float | None) -> None:
    """Measure the shipped learner in both norm modes on paired tasks."""
    from metalearn_tut import evaluate as measure
    from metalearn_tut import pretrained, runs
    from metalearn_tut.results import write_result

    config = runs.load_config(pretrained.path(name))
    split = LEARNERS[name][1]
    shots = config["tasks"]["shots"]
    plain = {"name": config["data"]["name"]}
    sampler = runs.build_source(plain, split).sampler(5, shots, 15, seed=1)
    values: dict = {} if seconds is None else {"training_seconds": round(seconds)}
    for norm in ("support", "batch"):
        learner = pretrained.load(name)
        learner.model.norm = norm
        result = measure(learner, sampler, 600)
        print(f"{name} on {split}: {result}", flush=True)
        values[norm] = result.to_dict()
    command = f"python tools/pretrain.py {name}"
    write_result(
        ROOT / "results" / "pretrained" / f"{name}.json",
        config={"command": command, "split": split, "seed": 1, "trained": config},
        values=values,
    )


def main() -> None:
    """Make or measure the learners that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", choices=LEARNERS)
    parser.add_argument("--evaluate-only", action="store_true")
    parser.add_argument(
        "--seconds", type=float, help="with --evaluate-only: how long training took"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        evaluate(name, arguments.seconds if arguments.evaluate_only else train(name))


if __name__ == "__main__":
    main()
