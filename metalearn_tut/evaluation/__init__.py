"""Floor 5: how well a learner learns, with intervals, and what its network costs."""

from metalearn_tut.evaluation.accuracy import PROTOCOLS, evaluate
from metalearn_tut.evaluation.intervals import Evaluation, interval, paired_difference

__all__ = ["PROTOCOLS", "Evaluation", "evaluate", "interval", "paired_difference"]
