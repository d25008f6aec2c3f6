"""``metalearn-tut data | train | federate | evaluate``: how they are spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.cli.options import shared
from metalearn_tut.runs.algorithms import ALGORITHMS, FEDERATED, Algorithm
from metalearn_tut.runs.options import option


@dataclass(frozen=True, kw_only=True)
class Data:
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

    name: str = option(
        positional=True, choices=(*shared.SOURCES[:4], "cifar10", *shared.SOURCES[4:])
    )
    root: Path | None = shared.ROOT()
    download: bool = option(False, "Fetch what is missing.")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Meta-train a learner.

    Its best and its last state are kept in --out. An interrupted run goes on with the same
    command and --resume, and ends as if it had not been interrupted. The cores share the tasks
    of every step (--workers). So do several processes (--processes 2, or torchrun on as many
    machines as it is given).

    \b
    Examples:
      metalearn-tut train --data glyphs --algorithm maml --ways 5 --shots 1 --out runs/maml
      metalearn-tut train --out runs/deployable --norm support --inner-steps 2 --zero-head
      metalearn-tut train --data omniglot --algorithm protonet --out runs/proto --processes 2
      metalearn-tut train --data image_folder --root ~/my_pictures --size 28 --out runs/mine
      metalearn-tut train --algorithm tsmd --teacher runs/maml --width 8 --out runs/student
    """

    out: Path = option(help="Folder for the checkpoints.")
    data: str = option("glyphs", "What to learn from.", choices=shared.SOURCES)
    root: Path | None = shared.ROOT()
    background: str = option(
        "full", "Omniglot's training set.", choices=("full", "small1", "small2")
    )
    size: int | None = option(
        None, "Side of your own pictures (image_folder).  [default: 84]", min=1
    )
    min_images: int | None = option(
        None, "Leave out classes with fewer pictures (image_folder).", min=1
    )
    rotations: bool = shared.ROTATIONS()
    within_group: bool = shared.WITHIN_GROUP()
    ways: int = option(5, "Classes of a task.", min=2)
    shots: int = shared.SHOTS()
    queries: int | None = shared.QUERIES()
    seed: int = shared.SEED(0, "Names the tasks and the initial weights.")
    norm: str = shared.NORM("batch")
    width: int = shared.WIDTH()
    algorithm: Algorithm = option("maml", "How to learn.", among=ALGORITHMS)
    steps: int = option(2000, "Outer steps.", min=1)
    tasks_per_step: int = shared.TASKS_PER_STEP()
    outer_lr: float = option(1e-3, "Adam's rate at the start.")
    schedule: str = option("cosine", "How Adam's rate goes on.", choices=("cosine", "constant"))
    clip: float | None = option(None, "Largest norm of the meta-gradient.")
    validate: bool = option(True, "Keep the best on the validation split.")
    validate_every: int = option(500, "Steps between validations.", min=1)
    validation_tasks: int = option(100, "Tasks of a validation.", min=2)
    save_every: int = option(100, "Steps between checkpoints.", min=1)
    resume: bool = option(False, "Go on from the last checkpoint in --out.")
    processes: int = option(1, "Processes that share the tasks.", min=1)
    workers: int | None = shared.WORKERS()
    threads: int | None = shared.THREADS()
    device: str = shared.DEVICE()


@dataclass(frozen=True, kw_only=True)
class Federate:
    """Meta-train a learner on nodes that keep their images to themselves.

    The training classes are dealt out to --nodes, --classes-per-node each. In every round the
    server sends its learner to some of them; each takes steps on tasks of its own images, and
    the server averages what comes back. The nodes run in this process; an
    interrupted run goes on with the same command and --resume, and ends as if it had not been
    interrupted. What evaluate does with the run is to let new nodes join, whose classes no
    node had: for metagater it also says what share of the multiply-adds their images need.

    \b
    Examples:
      metalearn-tut federate --out runs/gater --target 0.5
      metalearn-tut federate --out runs/plain --algorithm per_fedavg --rounds 50
      metalearn-tut federate --out runs/skewed --within-group --nodes 100
      metalearn-tut evaluate runs/gater
    """

    out: Path = option(help="Folder for the checkpoints.")
    data: str = option("glyphs", "What the nodes share out.", choices=shared.SOURCES)
    root: Path | None = shared.ROOT()
    rotations: bool = shared.ROTATIONS()
    within_group: bool = shared.WITHIN_GROUP()
    nodes: int = option(50, "Nodes that train.", min=1)
    classes_per_node: int = option(5, "Classes of a node.", min=2)
    shots: int = shared.SHOTS()
    queries: int | None = shared.QUERIES(
        help="Query images for each class, of any.  [default: 15; emoji: all that are left]"
    )
    seed: int = shared.SEED(0, "Names nodes, tasks and the initial weights.")
    norm: str = shared.NORM("support")
    width: int = shared.WIDTH()
    algorithm: Algorithm = option(
        "metagater", "How to learn; only metagater has gates.", among=FEDERATED
    )
    rounds: int = option(100, "Rounds of server and nodes.", min=1)
    fraction: float = option(0.2, "Share of the nodes asked in a round.")
    local_steps: int = option(5, "Steps of a node in a round.", min=1)
    tasks_per_step: int = option(1, "Tasks of such a step.", min=1)
    outer_lr: float = option(0.2, "Step size of these steps.")
    save_every: int = option(1, "Rounds between checkpoints.", min=1)
    resume: bool = option(False, "Go on from the last checkpoint in --out.")
    workers: int | None = shared.WORKERS(
        help="Nodes at a time.  [default: as many as there are threads, up to 4]"
    )
    threads: int | None = shared.THREADS()
    device: str = shared.DEVICE()


@dataclass(frozen=True, kw_only=True)
class Evaluate:
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

    run: str = shared.RUN()
    data: str | None = option(
        None,
        "Where tasks come from.  [default: as in training]",
        choices=(*shared.SOURCES, "omniglot_runs"),
    )
    root: Path | None = shared.ROOT()
    split: str = option("test", "Which classes.", choices=shared.SPLITS)
    rotations: bool = shared.ROTATIONS()
    within_group: bool = shared.WITHIN_GROUP()
    ways: int | None = option(None, "Classes of a task.  [default: as in training]", min=2)
    shots: int | None = shared.SHOTS(
        default=None, help="Support images of each class.  [default: as in training]"
    )
    queries: int | None = shared.QUERIES()
    seed: int = shared.SEED(1, "Names the tasks.")
    tasks: int = option(600, "Number of tasks.", min=2)
    norm: str | None = option(
        None,
        "Whose statistics normalize a query image.  [default: as in training]",
        choices=("batch", "support"),
    )
    steps: int | None = option(None, "Inner steps of every task.  [default: as in training]", min=0)
    json: Path | None = option(None, "File to write the result to.")
    workers: int | None = shared.WORKERS()
    threads: int | None = shared.THREADS()
    device: str = shared.DEVICE()
