"""What normalizes: layers that know which rows are the support set, and any network made so."""

from metalearn_tut.models.norms.layers import (
    NORMS,
    TaskBatchNorm2d,
    make_norm,
    normalize,
    task_batch_norm,
    usual_group_size,
)
from metalearn_tut.models.norms.support_norm import support_norm

__all__ = [
    "NORMS",
    "TaskBatchNorm2d",
    "make_norm",
    "normalize",
    "support_norm",
    "task_batch_norm",
    "usual_group_size",
]
