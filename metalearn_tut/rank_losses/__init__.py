"""Floor 5: rank losses, which weigh the tasks of a batch by how hard they are.

Each is an ``aggregate=`` of :func:`metalearn_tut.training.meta_train`: called with the losses
``[n]`` of the tasks of one step, it gives the scalar to descend. The ideas are those of HeTRoM
(Si et al. 2024, arXiv:2410.18894). We know its abstract and a summary, not its full text; what
is our reconstruction is called so.

The bilevel problem that goes with them by default, a head from zero with a ridge ``mu`` whose
hypergradient is solved for by conjugate gradients, is
``anil(model, lr, steps, engine="implicit", zero_head=True, prox_weight=mu, deferred=True)``; with
``deferred=True`` a task that is left out costs no solve.
"""

from metalearn_tut.rank_losses.aggregate import Selection, TaskAggregate
from metalearn_tut.rank_losses.baselines import Oracle, WorstMixture, simplex_projection
from metalearn_tut.rank_losses.guidance import LogNormalGuidance, clean_losses
from metalearn_tut.rank_losses.ranked_range import RankedRange
from metalearn_tut.rank_losses.thresholds import ThresholdTracker
from metalearn_tut.rank_losses.variational import difference_of_tops, nested_hinges

__all__ = [
    "LogNormalGuidance",
    "Oracle",
    "RankedRange",
    "Selection",
    "TaskAggregate",
    "ThresholdTracker",
    "WorstMixture",
    "clean_losses",
    "difference_of_tops",
    "nested_hinges",
    "simplex_projection",
]
