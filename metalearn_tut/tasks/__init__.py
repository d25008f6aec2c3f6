"""Floor 2: tasks as values, samplers with random access, and where the images come from."""

from metalearn_tut.tasks.arrays import from_arrays
from metalearn_tut.tasks.cifar10 import cifar10
from metalearn_tut.tasks.dataset import from_dataset
from metalearn_tut.tasks.emoji.recoloring import Recolored
from metalearn_tut.tasks.emoji.source import emoji
from metalearn_tut.tasks.glyphs.source import glyphs
from metalearn_tut.tasks.heterogeneity import Mixture, NoisyTasks, WithOutliers
from metalearn_tut.tasks.image_folder import image_folder
from metalearn_tut.tasks.mini_imagenet import mini_imagenet
from metalearn_tut.tasks.omniglot.runs import omniglot_runs
from metalearn_tut.tasks.omniglot.source import omniglot
from metalearn_tut.tasks.sampler import EpisodeSampler, Pool, TaskSampler
from metalearn_tut.tasks.sinusoid import sinusoid
from metalearn_tut.tasks.source import ClassSource, LabelledImages
from metalearn_tut.tasks.task import Task, TaskBatch, as_float

__all__ = [
    "ClassSource",
    "EpisodeSampler",
    "LabelledImages",
    "Mixture",
    "NoisyTasks",
    "Pool",
    "Recolored",
    "Task",
    "TaskBatch",
    "TaskSampler",
    "WithOutliers",
    "as_float",
    "cifar10",
    "emoji",
    "from_arrays",
    "from_dataset",
    "glyphs",
    "image_folder",
    "mini_imagenet",
    "omniglot",
    "omniglot_runs",
    "sinusoid",
]
