"""The tasks of the studies: families of data, and samplers by what a configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from metalearn_tut import runs, tasks
from metalearn_tut.checks import check_index
from metalearn_tut.claims.seeds import fresh
from metalearn_tut.claims.study import Config
from metalearn_tut.tasks import ClassSource, TaskSampler
from metalearn_tut.tasks.task import Task

WAYS = 5
FAMILIES: dict[str, Config] = {
    "emoji": {"name": "emoji"},
    "mini_imagenet": {"name": "mini_imagenet", "size": 42},
    "mini_imagenet_84": {"name": "mini_imagenet", "size": 84},  # at the papers' scale
}
SIDES = {"emoji": 32, "mini_imagenet": 42, "mini_imagenet_84": 84, "cifar10": 32}
QUERIES = {"emoji": 4, "mini_imagenet": 10, "mini_imagenet_84": 15}  # of a class in a test task
TESTED = {"emoji": 1500, "mini_imagenet": 1000, "mini_imagenet_84": 600}  # test tasks of a training


@lru_cache(maxsize=8)
def source(family: str, split: str) -> ClassSource:
    """The classes of one split.

    Parameters
    ----------
    family : str
        ``"emoji"``, ``"mini_imagenet"`` (42 pixels a side), ``"mini_imagenet_84"``, or
        ``"cifar10"``, whose splits have the same classes and different images.
    split : {"train", "validation", "test"}
    """
    if family == "cifar10":
        images, labels, _ = tasks.cifar10(split)
        return tasks.from_arrays(images, labels, name=f"cifar10 ({split})")
    return runs.build_source(FAMILIES[family], split)


def training_tasks(family: str, seed: int, *, shots: int = 1, queries: int = 4) -> Config:
    """What :func:`sampler` takes: training tasks of a seed, the same in every study."""
    return {
        "data": family,
        "split": "train",
        "shots": shots,
        "queries": queries,
        "seed": fresh("train", family, seed),
    }


def fresh_tasks(study: str, family: str, seed: int, *, shots: int = 1, quick: bool = False) -> dict:
    """Test and validation tasks of a training that no other one has, by the name of a split.

    A quick run must not show what the study will be tested on: its tasks are others.
    """
    owner = f"{study} quick" if quick else study
    return {
        split: {
            "data": family,
            "split": split,
            "shots": shots,
            "queries": QUERIES[family],
            "seed": fresh(split, owner, seed),
            "count": 20 if quick else count,
        }
        for split, count in (("test", TESTED[family]), ("validation", 300))
    }


def sampler(wanted: Config) -> TaskSampler:
    """Five-way tasks: of ``data`` and ``split``, with ``shots``, ``queries`` and ``seed``.

    With ``within_group`` all classes of a task are of one subgroup.
    """
    classes = source(wanted["data"], wanted["split"])
    classes = replace(classes, within_group=wanted.get("within_group", False))
    return classes.sampler(WAYS, wanted["shots"], wanted["queries"], wanted["seed"])


class TasksFrom(TaskSampler):
    """A sampler from its task ``first`` on: no task twice in a training of several parts."""

    decided_by: Sequence[str] = ("sampler", "first")

    def __init__(self, sampler: TaskSampler, first: int) -> None:
        self.sampler, self.first = sampler, first

    def __repr__(self) -> str:
        return f"{self.sampler!r} from task {self.first} on"

    def __getitem__(self, index: int) -> Task:
        return self.sampler[check_index(index) + self.first]
