"""Floor 4: what a learner is, and those that need no more than the inner loop."""

from metalearn_tut.learners.gradients import attach_gradients
from metalearn_tut.learners.heads import head_of
from metalearn_tut.learners.inner_loop import InnerLoopLearner
from metalearn_tut.learners.learner import Learner, TaskLosses
from metalearn_tut.learners.maml import MAML, anil, fomaml, meta_sgd
from metalearn_tut.learners.predictor import Predictor
from metalearn_tut.learners.protonet import ProtoNet, distance_logits, prototypes
from metalearn_tut.learners.reptile import Reptile
from metalearn_tut.learners.state import load_state, settings_of, state_of

__all__ = [
    "MAML",
    "InnerLoopLearner",
    "Learner",
    "Predictor",
    "ProtoNet",
    "Reptile",
    "TaskLosses",
    "anil",
    "attach_gradients",
    "distance_logits",
    "fomaml",
    "head_of",
    "load_state",
    "meta_sgd",
    "prototypes",
    "settings_of",
    "state_of",
]
