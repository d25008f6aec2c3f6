"""Floor 6: meta-training: the outer loop, its step sizes, its record, and its files."""

from metalearn_tut.training.checkpoint import RunFolder
from metalearn_tut.training.history import History
from metalearn_tut.training.loop import NonFiniteLoss, meta_train
from metalearn_tut.training.outer_rates import cosine
from metalearn_tut.training.outer_step import OuterStep
from metalearn_tut.training.plan import Memory, TrainingPlan

__all__ = [
    "History",
    "Memory",
    "NonFiniteLoss",
    "OuterStep",
    "RunFolder",
    "TrainingPlan",
    "cosine",
    "meta_train",
]
