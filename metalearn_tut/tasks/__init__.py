"""Floor 1: tasks as values, samplers with random access, and where the images come from."""

from metalearn_tut.tasks.sampler import EpisodeSampler, TaskSampler
from metalearn_tut.tasks.source import ClassSource, LabelledImages, from_arrays
from metalearn_tut.tasks.task import Task, TaskBatch, as_float

__all__ = [
    "ClassSource",
    "EpisodeSampler",
    "LabelledImages",
    "Task",
    "TaskBatch",
    "TaskSampler",
    "as_float",
    "from_arrays",
]
