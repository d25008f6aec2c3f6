"""Floor 5: block pruning by gates and votes, after ABP.

Gates mark how much each residual block matters to each image; images vote; the least wanted
block goes; distillation heals; what is left is a shorter network (Si, Qi and Song,
arXiv:2205.03602). We know the paper's abstract, the figure of its schedule and its main table,
not its full text; what is our reconstruction is called so.
"""

from metalearn_tut.block_voting.epochs import train_epochs
from metalearn_tut.block_voting.few_shot import task_marks, vote_by_tasks
from metalearn_tut.block_voting.filters import remove_zero_filters, soft_filter_prune, zero_filters
from metalearn_tut.block_voting.images import image_accuracy
from metalearn_tut.block_voting.networks import BlockGate, BlockGated, BlockGatedResNet12
from metalearn_tut.block_voting.objectives import cross_entropy, distillation, target_rate
from metalearn_tut.block_voting.recipe import Recipe, crop_and_flip, standard_recipes
from metalearn_tut.block_voting.rounds import Round, vote_and_prune
from metalearn_tut.block_voting.stages import (
    Final,
    ShorterNetwork,
    abp_prune,
    finalise,
    train_gates,
)
from metalearn_tut.block_voting.surgery import block_budget, prunable_blocks, remove_blocks
from metalearn_tut.block_voting.votes import Votes, collect_marks, collect_votes, count_votes

__all__ = [
    "BlockGate",
    "BlockGated",
    "BlockGatedResNet12",
    "Final",
    "Recipe",
    "Round",
    "ShorterNetwork",
    "Votes",
    "abp_prune",
    "block_budget",
    "collect_marks",
    "collect_votes",
    "count_votes",
    "crop_and_flip",
    "cross_entropy",
    "distillation",
    "finalise",
    "image_accuracy",
    "prunable_blocks",
    "remove_blocks",
    "remove_zero_filters",
    "soft_filter_prune",
    "standard_recipes",
    "target_rate",
    "task_marks",
    "train_epochs",
    "train_gates",
    "vote_and_prune",
    "vote_by_tasks",
    "zero_filters",
]
