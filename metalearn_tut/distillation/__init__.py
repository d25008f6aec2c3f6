"""Floor 5: a large teacher learns the task first, then teaches it to the small student.

Task-specific meta distillation (TSMD; Wu et al., *Few-Shot Learning of Compact Models via
Task-Specific Meta Distillation*, WACV 2023, arXiv:2210.09922). We know the paper's abstract and
a summary of its equations, not its full text, and no public code; what is our reconstruction is
called so.
"""

from metalearn_tut.distillation.distiller import MetaDistiller
from metalearn_tut.distillation.guided_student import ORDERS
from metalearn_tut.distillation.losses import kd_loss, rkd_loss

__all__ = ["ORDERS", "MetaDistiller", "kd_loss", "rkd_loss"]
