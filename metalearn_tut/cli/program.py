"""The command line, ``metalearn-tut``: ``data | train | federate | evaluate | prune | ...``.

Each command's options are here, those of ``federate`` in federate.py.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from metalearn_tut.cli.federate import federate
from metalearn_tut.cli.options import (
    SEEDS,
    Command,
    Device,
    Norm,
    Root,
    Rotations,
    Run,
    Stopped,
    Threads,
    TrainData,
    WithinGroup,
    choice,
    command,
    flag,
    option,
    typer,
)

Data = choice("Data", "emoji", "glyphs", "omniglot", "mini_imagenet", "cifar10", "image_folder")
EvaluationData = choice(
    "EvaluationData",
    "emoji",
    "glyphs",
    "omniglot",
    "mini_imagenet",
    "image_folder",
    "omniglot_runs",
)
Split = choice("Split", "train", "validation", "test")
Algorithm = choice("Algorithm", "maml", "fomaml", "anil", "reptile", "metasgd", "protonet", "tsmd")
EvaluationNorm = choice("EvaluationNorm", "batch", "support")
RateMode = choice("RateMode", "fixed", "shared", "per_layer", "per_layer_and_step", "per_weight")
Engine = choice("Engine", "functional", "vectorised", "higher")
Background = choice("Background", "full", "small1", "small2")
Schedule = choice("Schedule", "cosine", "constant")
Score = choice("Score", "anp", "lobs", "magnitude", "random", "snip", "meta_snip", "meta_taylor")
Allocation = choice("Allocation", "uniform", "global", "lamp")
Study = choice(
    "Study",
    "hetrom",
    "hetrom_second",
    "anp",
    "anp_second",
    "abp",
    "abp_second",
    "abp_cifar",
    "tsmd",
    "metagater",
    "metagater_second",
    "compact",
)


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback()
def about(
    debug: Annotated[
        bool, flag("--debug", "Show where a mistake happened (anywhere in a command).")
    ] = False,
) -> None:
    """Few-shot learning of compact models: get data, train a learner, evaluate it.

    \b
    A first learner, from data that comes with the package:
      metalearn-tut train --data glyphs --algorithm maml --ways 5 --shots 1 --out runs/maml
      metalearn-tut evaluate runs/maml

    Every command explains itself: metalearn-tut train --help. A mistake is answered in one
    line; METALEARN_TUT_DEBUG=1 does what --debug does.
    """


@app.command(cls=Command)
def data(
    context: typer.Context,
    name: Annotated[Data, typer.Argument()],
    root: Root = None,
    download: Annotated[bool, flag("--download", "Fetch what is missing.")] = False,
) -> int:
    """Prepare a data set and say what is there.

    Emoji come with the package; whose they are and under which license is shown. Glyphs are
    drawn on first use. Omniglot and CIFAR-10 can be downloaded; mini-ImageNet must be there
    already, as its terms forbid passing it on. Without --root, files are looked for in the
    folder that METALEARN_TUT_DATA names, then in the cache. image_folder is your own pictures:
    --root names a folder or zip with one folder of pictures for each class.

    \b
    Examples:
      metalearn-tut data emoji
      metalearn-tut data glyphs
      metalearn-tut data omniglot --download
      metalearn-tut data mini_imagenet --root ~/mini_imagenet
      metalearn-tut data image_folder --root ~/my_pictures
    """
    return command("data", locals())


@app.command(cls=Command)
def train(
    context: typer.Context,
    out: Annotated[Path, option("Folder for the checkpoints.", show_default=False)],
    data: Annotated[TrainData, option("What to learn from.")] = TrainData.glyphs,
    root: Root = None,
    background: Annotated[Background, option("Omniglot's training set.")] = Background.full,
    size: Annotated[
        int | None, option("Side of your own pictures (image_folder).  [default: 84]", min=1)
    ] = None,
    min_images: Annotated[
        int | None, option("Leave out classes with fewer pictures (image_folder).", min=1)
    ] = None,
    rotations: Rotations = False,
    within_group: WithinGroup = False,
    algorithm: Annotated[Algorithm, option("How to learn.")] = Algorithm.maml,
    ways: Annotated[int, option("Classes of a task.", min=2)] = 5,
    shots: Annotated[int, option("Support images of each class.", min=1)] = 1,
    queries: Annotated[int, option("Query images of each class.", min=1)] = 15,
    seed: Annotated[int, option("Names the tasks and the initial weights.", min=0, max=SEEDS)] = 0,
    norm: Annotated[
        Norm, option("Whose statistics normalize a query image; support is deployable.")
    ] = Norm.batch,
    width: Annotated[int, option("Channels of Conv4's blocks.", min=1)] = 32,
    inner_lr: Annotated[
        float | None, option("Inner step size.  [default: 0.4; metasgd: 0.1]", show_default=False)
    ] = None,
    inner_steps: Annotated[
        int | None, option("Inner steps.  [default: 1]", min=0, show_default=False)
    ] = None,
    rate_mode: Annotated[
        RateMode | None, option("Inner rates to learn.  [default: fixed]", show_default=False)
    ] = None,
    zero_head: Annotated[bool, flag("--zero-head", "Start each task from a head at zero.")] = False,
    multi_step_loss: Annotated[
        float, option("Share of training with losses after every inner step.", min=0, max=1)
    ] = 0.0,
    engine: Annotated[Engine, option("How meta-gradients are computed.")] = Engine.functional,
    teacher: Annotated[
        str | None, option("Trained run that teaches (tsmd).", show_default=False)
    ] = None,
    fixed_teacher: Annotated[bool, flag("--fixed-teacher", "Do not train it further.")] = False,
    kd_weight: Annotated[
        float | None, option("Weight of its labels.  [default: 1]", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, option("What softens its labels.  [default: 4]", show_default=False)
    ] = None,
    teacher_outer_lr: Annotated[
        float | None, option("Adam's rate for it.  [default: --outer-lr]", show_default=False)
    ] = None,
    steps: Annotated[int, option("Outer steps.", min=1)] = 2000,
    tasks_per_step: Annotated[int, option("Tasks of an outer step.", min=1)] = 4,
    outer_lr: Annotated[float, option("Adam's rate at the start.")] = 1e-3,
    schedule: Annotated[Schedule, option("How Adam's rate goes on.")] = Schedule.cosine,
    clip: Annotated[float | None, option("Largest norm of the meta-gradient.")] = None,
    validate: Annotated[bool, option("Keep the best on the validation split.")] = True,
    validate_every: Annotated[int, option("Steps between validations.", min=1)] = 500,
    validation_tasks: Annotated[int, option("Tasks of a validation.", min=2)] = 100,
    save_every: Annotated[int, option("Steps between checkpoints.", min=1)] = 100,
    resume: Annotated[bool, flag("--resume", "Go on from the last checkpoint in --out.")] = False,
    processes: Annotated[int, option("Processes that share the tasks.", min=1)] = 1,
    threads: Threads = None,
    device: Device = "cpu",
) -> int:
    """Meta-train a learner.

    Its best and its last state are kept in --out. An interrupted run goes on with the same
    command and --resume, and ends as if it had not been interrupted. With --processes 2 (one
    thread each) two cores share the tasks of every step; under torchrun the command does the
    same on as many processes as it is given.

    \b
    Examples:
      metalearn-tut train --data glyphs --algorithm maml --ways 5 --shots 1 --out runs/maml
      metalearn-tut train --out runs/deployable --norm support --inner-steps 2 --zero-head
      metalearn-tut train --data omniglot --algorithm protonet --out runs/proto --processes 2
      metalearn-tut train --data image_folder --root ~/my_pictures --size 28 --out runs/mine
      metalearn-tut train --algorithm tsmd --teacher runs/maml --width 8 --out runs/student
    """
    return command("train", locals())


app.command(cls=Command)(federate)


@app.command(cls=Command)
def evaluate(
    context: typer.Context,
    run: Run,
    data: Annotated[
        EvaluationData | None, option("Where tasks come from.  [default: as in training]")
    ] = None,
    root: Root = None,
    split: Annotated[Split, option("Which classes.")] = Split.test,
    rotations: Rotations = False,
    within_group: WithinGroup = False,
    ways: Annotated[
        int | None, option("Classes of a task.  [default: as in training]", min=2)
    ] = None,
    shots: Annotated[
        int | None, option("Support images of each class.  [default: as in training]", min=1)
    ] = None,
    queries: Annotated[int, option("Query images of each class.", min=1)] = 15,
    seed: Annotated[int, option("Names the tasks.", min=0, max=SEEDS)] = 1,
    tasks: Annotated[int, option("Number of tasks.", min=2)] = 600,
    norm: Annotated[
        EvaluationNorm | None,
        option("Whose statistics normalize a query image.  [default: as in training]"),
    ] = None,
    steps: Annotated[
        int | None, option("Inner steps of every task.  [default: as in training]", min=0)
    ] = None,
    json: Annotated[Path | None, option("File to write the result to.")] = None,
    threads: Threads = None,
    device: Device = "cpu",
) -> int:
    """Measure a trained learner on new classes.

    RUN is the folder of a run, a checkpoint file or pretrained:NAME. The result is the mean
    accuracy over tasks, with its 95 % interval. Two learners are compared on the same tasks
    if --data, --split, --ways, --shots, --queries and --seed agree. --norm batch lets the
    query images of a task help each other (transductive); --norm support classifies each
    alone, as a deployed learner must. The number of ways can differ from training's with a
    zero head, and with protonet. Of a network with channel gates it also says what share of
    the multiply-adds an image needs.

    \b
    Examples:
      metalearn-tut evaluate runs/maml
      metalearn-tut evaluate runs/maml --norm support --json results/maml.json
      metalearn-tut evaluate runs/maml --data omniglot --split validation --root ~/omniglot
      metalearn-tut evaluate pretrained:NAME --data omniglot_runs --root ~/all_runs.zip
    """
    return command("evaluate", locals())


@app.command(cls=Command)
def prune(
    context: typer.Context,
    run: Run,
    out: Annotated[Path, option("Folder for the rounds and the result.", show_default=False)],
    root: Root = None,
    keep: Annotated[float, option("Share of the weights to keep.")] = 0.15,
    step: Annotated[float, option("Share to remove in a round.")] = 0.1,
    score: Annotated[
        Score, option("What a weight is worth; anp adapts to tasks first.")
    ] = Score.anp,
    allocation: Annotated[
        Allocation, option("Who gives: every layer its share, or the layers with the least.")
    ] = Allocation.uniform,
    spare: Annotated[
        list[str] | None, option("A layer that keeps its weights (repeatable).", show_default=False)
    ] = None,
    tasks: Annotated[int, option("Tasks to score by in each round.", min=1)] = 20,
    steps: Annotated[int, option("Outer steps of training after each round.", min=0)] = 500,
    tasks_per_step: Annotated[int, option("Tasks of an outer step.", min=1)] = 4,
    outer_lr: Annotated[float, option("Adam's rate at the start of each round.")] = 1e-3,
    seed: Annotated[int, option("Names the tasks.", min=0, max=SEEDS)] = 1,
    resume: Annotated[bool, flag("--resume", "Go on with the run in --out.")] = False,
    threads: Threads = None,
    device: Device = "cpu",
) -> int:
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
    return command("prune", locals())


@app.command(cls=Command)
def export(
    context: typer.Context,
    run: Run,
    file: Annotated[Path, typer.Argument()],
    data: Annotated[
        TrainData | None, option("Where the task comes from.  [default: as in training]")
    ] = None,
    root: Root = None,
    split: Annotated[Split, option("Which classes.")] = Split.test,
    ways: Annotated[int | None, option("Its classes.  [default: as in training]", min=2)] = None,
    shots: Annotated[
        int | None, option("Support images of each.  [default: as in training]", min=1)
    ] = None,
    seed: Annotated[int, option("Names the tasks.", min=0, max=SEEDS)] = 1,
    task: Annotated[int, option("Number of the task.", min=0)] = 0,
) -> int:
    """Keep of a run what is needed to use it.

    RUN is the folder of a run, a checkpoint file or pretrained:NAME. If FILE ends in
    .safetensors, it gets weights and configuration, without what only training needs. If it
    ends in .onnx, the learner adapts to one task, which the options name, and FILE gets the
    adapted network: it runs in onnxruntime, where it is checked and timed (this needs the
    extra deploy). Of a tsmd run that is the student alone.

    \b
    Examples:
      metalearn-tut export runs/maml my_learner.safetensors
      metalearn-tut evaluate my_learner.safetensors
      metalearn-tut export runs/maml task_7.onnx --task 7
    """
    return command("export", locals())


@app.command(cls=Command)
def reproduce(
    context: typer.Context,
    study: Annotated[Study | None, typer.Argument()] = None,
    all: Annotated[bool, flag("--all", "Every study, one after another.")] = False,
    list: Annotated[bool, flag("--list", "Say what is claimed and what decides it.")] = False,
    quick: Annotated[
        bool, flag("--quick", "Minutes: shows the direction, decides nothing.")
    ] = False,
    processes: Annotated[int, option("Jobs at a time.", min=1)] = 2,
    threads: Annotated[int, option("Threads of each process.", min=1, max=1024)] = 1,
    out: Annotated[Path, option("Folder for jobs and checkpoints.")] = Path("runs/claims"),
    results: Annotated[Path, option("Folder for the verdicts.")] = Path("results/claims"),
) -> int:
    """Test what a paper claims.

    STUDY names the paper. Its experiments are run, each claim is judged by the criterion that
    was written down before, and the verdicts are kept with all numbers in --results, whatever
    they are. An interrupted study goes on with the same command and ends as if it had not been
    interrupted. With --quick nothing is written to --results.

    \b
    Examples:
      metalearn-tut reproduce --list
      metalearn-tut reproduce hetrom --quick
      metalearn-tut reproduce hetrom --processes 2
    """
    return command("reproduce", locals())


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; every mistake is one line on stderr.

    Returns
    -------
    int
        The exit code: 0; 2 for a mistake in the arguments, the data or the files; 130 after
        Ctrl-C; 1 for what should not happen.
    """
    given = [a for a in arguments if a != "--debug"]
    try:
        _check_empty(given)
        return app(given or ["--help"], "metalearn-tut", standalone_mode=False, obj=arguments) or 0
    except Exception as error:
        if given != list(arguments) or os.environ.get("METALEARN_TUT_DEBUG"):
            traceback.print_exc()
        code, message = _explained(error)
    print(f"metalearn-tut: {' '.join(message.split())}", file=sys.stderr)
    return code


def _check_empty(given: Sequence[str]) -> None:
    """Refuse an empty word: as a folder it would be the present one, and a run that is in it."""
    for before, word in zip(["metalearn-tut", *given], given, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise ValueError(
                f"an argument is empty, after {word if word else before}: perhaps a variable "
                "of the shell that has no value"
            )


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, Stopped):
        return 130, str(error)
    if isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        return 2, re.sub(r"^\[Errno \d+\] ", "", str(error))
    if hasattr(error, "format_message"):  # the parser's
        return 2, error.format_message()
    if isinstance(error, MemoryError) or re.search("(allocate|out of) memory", str(error)):
        return 1, f"not enough memory: smaller or fewer would need less ({error})"
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def main() -> None:
    """The console script ``metalearn-tut``."""
    sys.exit(run(sys.argv[1:]))
