"""Make a shipped learner again: train, export, evaluate.

    python tools/pretrain.py glyphs_5way_1shot

Writes `metalearn_tut/pretrained/NAME.safetensors` and `results/pretrained/NAME.json` (both
norm modes, 600 tasks). An interrupted training goes on where it stopped. With `--evaluate-only`
the shipped file is measured as it is.

What a learner is reported on has chosen nothing. The glyph learners' checkpoints are chosen on
the validation scripts and reported on the test scripts. Omniglot's evaluation set is not used
here at all, so its five validation alphabets are shared out: the tasks of two choose the
checkpoint, those of the three others are reported. It needs METALEARN_TUT_DATA.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from metalearn_tut import evaluate as measure
from metalearn_tut import meta_train, pretrained, runs
from metalearn_tut.files.provenance import write_result
from metalearn_tut.tasks import ClassSource
from metalearn_tut.tasks.omniglot.source import VALIDATION_ALPHABETS

ROOT = Path(__file__).parent.parent
COMMON = (
    "--ways 5 --queries 5 --norm support --inner-steps 2 --rate-mode per_layer_and_step "
    "--zero-head --tasks-per-step 4 --outer-lr 2e-3 --seed 0 --processes 2"
)
# What to train the glyph learners with, where it is not as in COMMON.
GLYPHS = {
    "glyphs_5way_1shot": "--data glyphs --shots 1 --steps 6500 --validate-every 1625",
    "glyphs_5way_1shot_small": (
        "--data glyphs --shots 1 --width 8 --rate-mode fixed --engine vectorised --steps 1000 "
        "--outer-lr 4e-3 --validate-every 500 --validation-tasks 60 --processes 1"
    ),
    "glyphs_5way_5shot": "--data glyphs --shots 5 --steps 1500 --validate-every 750",
}
OMNIGLOT = {
    "data": {"name": "omniglot", "rotations": True},
    "tasks": {"ways": 5, "shots": 1, "queries": 5, "seed": 0},
    "model": {
        **{"name": "Conv4", "in_channels": 1, "ways": 5, "width": 32},
        **{"norm": "support", "image_size": 28},
    },
    "algorithm": {
        **{"name": "maml", "inner_lr": 0.4, "inner_steps": 2, "engine": "functional"},
        **{"zero_head": True, "multi_step_loss": 0.0, "rate_mode": "per_layer_and_step"},
    },
}
LEARNERS = (*GLYPHS, "omniglot_5way_1shot")
# An invented and an African script choose; runes, a European and an Indic one are reported.
CHOOSING = ("Futurama", "N_Ko")
REPORTED = tuple(a for a in VALIDATION_ALPHABETS if a not in CHOOSING)


def run(arguments: str) -> None:
    """Call the command line of the package, and stop if it fails."""
    command = [sys.executable, "-m", "metalearn_tut", *shlex.split(arguments)]
    subprocess.run(command, check=True, cwd=ROOT)


def train(name: str) -> float:
    """Train and export; returns the seconds that training took."""
    if name in GLYPHS:
        start = time.perf_counter()
        run(f"train {COMMON} {GLYPHS[name]} --out runs/{name} --resume")
        seconds = time.perf_counter() - start
    else:
        seconds = train_on_omniglot(ROOT / "runs" / name)
    run(f"export runs/{name} metalearn_tut/pretrained/{name}.safetensors")
    return seconds


def train_on_omniglot(folder: Path) -> float:
    """In one process: the command line can only validate on all alphabets of the split.

    Returns processor seconds, which do not count what else the machine does meanwhile.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = runs.build_learner(OMNIGLOT)
    sampler = runs.build_source(OMNIGLOT["data"], "train").sampler(**OMNIGLOT["tasks"])
    start = time.process_time()
    meta_train(
        learner,
        sampler,
        steps=6500,
        outer_lr=2e-3,
        validation=alphabets(CHOOSING).sampler(**OMNIGLOT["tasks"]),
        validate_every=1625,
        out=folder,
        config=OMNIGLOT,
        resume=True,
    )
    return time.process_time() - start


def alphabets(names: tuple[str, ...]) -> ClassSource:
    """The characters of some validation alphabets, as they are (not turned)."""
    source = runs.build_source({"name": "omniglot"}, "validation")
    chosen = [c for c, alphabet in enumerate(source.groups) if alphabet in names]
    return source.select(chosen, f"omniglot validation: {', '.join(names)}")


def reported(name: str) -> ClassSource:
    """The classes on which a learner is reported; none of them chose its checkpoint."""
    return runs.build_source({"name": "glyphs"}, "test") if name in GLYPHS else alphabets(REPORTED)


def evaluate(name: str, seconds: float | None) -> None:
    """Measure the shipped learner in both norm modes on paired tasks."""
    config = runs.load_config(pretrained.path(name))
    source = reported(name)
    sampler = source.sampler(5, config["tasks"]["shots"], 15, seed=1)
    values: dict = {} if seconds is None else {"training_seconds": round(seconds)}
    for norm in ("support", "batch"):
        learner = pretrained.load(name)
        learner.model.norm = norm
        result = measure(learner, sampler, 600)
        print(f"{name} on {source.name}: {result}", flush=True)
        values[norm] = result.to_dict()
    where = {"split": "test"} if name in GLYPHS else {"split": "validation", "groups": REPORTED}
    chosen = {} if name in GLYPHS else {"chosen_on": CHOOSING}
    command = f"python tools/pretrain.py {name}"
    write_result(
        ROOT / "results" / "pretrained" / f"{name}.json",
        config={"command": command, **where, **chosen, "seed": 1, "trained": config},
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
