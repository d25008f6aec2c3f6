"""``metalearn-tut prune | export``: how they are spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.cli.options import shared
from metalearn_tut.runs.options import option


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Remove most weights of a trained learner, such that it still learns new tasks.

    RUN is the folder of a run, a checkpoint file or pretrained:NAME. In rounds, weights are
    scored on training tasks (anp: after adapting to them), those worth least are removed, the
    others make up for them and are meta-trained further. The result is pruned.safetensors in
    --out, which holds the weights that are left and is evaluated like any run. An interrupted
    run goes on with the same command and --resume.

    \b
    Examples:
      metalearn-tut prune runs/maml --out runs/pruned
      metalearn-tut prune runs/maml --out runs/spared --spare blocks.0.conv --spare head
      metalearn-tut evaluate runs/pruned
    """

    run: str = shared.RUN()
    out: Path = option(help="Folder for the rounds and the result.")
    root: Path | None = shared.ROOT()
    keep: float = option(0.15, "Share of the weights to keep.")
    step: float = option(0.1, "Share to remove in a round.")
    score: str = option(
        "anp",
        "What a weight is worth; anp adapts to tasks first.",
        choices=("anp", "lobs", "magnitude", "random", "snip", "meta_snip", "meta_taylor"),
    )
    allocation: str = option(
        "uniform",
        "Who gives: every layer its share, or the layers with the least.",
        choices=("uniform", "global", "lamp"),
    )
    spare: list[str] | None = option(None, "A layer that keeps its weights (repeatable).")
    tasks: int = option(20, "Tasks to score by in each round.", min=1)
    steps: int = option(500, "Outer steps of training after each round.", min=0)
    tasks_per_step: int = shared.TASKS_PER_STEP()
    outer_lr: float = option(1e-3, "Adam's rate at the start of each round.")
    seed: int = shared.SEED(1, "Names the tasks.")
    resume: bool = option(False, "Go on with the run in --out.")
    threads: int | None = shared.THREADS()
    device: str = shared.DEVICE()


@dataclass(frozen=True, kw_only=True)
class Export:
    """Keep of a run what is needed to use it.

    RUN is the folder of a run, a checkpoint file or pretrained:NAME. If FILE ends in
    .safetensors, it gets weights and configuration, without what only training needs. If it
    ends in .onnx, the learner adapts to one task, which the options name, and FILE gets the
    adapted network: it runs in onnxruntime, where it is checked and timed (this needs the
    extra deploy). Of a tsmd run that is the student alone.

    With --learner, FILE.onnx gets the learner itself: it takes a support set and queries, learns
    and answers, without PyTorch. --classify names a second file: FILE then gives the weights of
    a task, and that one answers by them.

    \b
    Examples:
      metalearn-tut export runs/maml my_learner.safetensors
      metalearn-tut evaluate my_learner.safetensors
      metalearn-tut export runs/maml task_7.onnx --task 7
      metalearn-tut export --learner runs/maml learns.onnx
      metalearn-tut export --learner glyphs_5way_1shot adapt.onnx --classify classify.onnx
    """

    run: str = shared.RUN()
    file: Path = option(positional=True)
    learner: bool = option(False, "Write the learner itself: a file that learns.")
    classify: Path | None = option(None, "With --learner: a second file, which answers.")
    steps: int | None = option(
        None, "With --learner: inner steps.  [default: as in training]", min=0
    )
    max_shots: int | None = option(
        None, "With --learner: images of a class that the file is tested with.", min=1
    )
    uint8: bool = option(False, "With --learner: take images as bytes 0..255.")
    half: bool = option(False, "With --learner: keep numbers as float16.")
    data: str | None = option(
        None, "Where the task comes from.  [default: as in training]", choices=shared.SOURCES
    )
    root: Path | None = shared.ROOT()
    split: str = option("test", "Which classes.", choices=shared.SPLITS)
    ways: int | None = option(None, "Its classes.  [default: as in training]", min=2)
    shots: int | None = option(None, "Support images of each.  [default: as in training]", min=1)
    seed: int = shared.SEED(1, "Names the tasks.")
    task: int = option(0, "Number of the task.", min=0)
