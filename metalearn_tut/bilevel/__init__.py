"""Floor 3: one inner loop, and meta-gradients by several engines that agree."""

from metalearn_tut.bilevel.engines import ENGINES, adapt, meta_gradient, task_gradients
from metalearn_tut.bilevel.forward import functional, parameters_of, query_outputs, trainable_of
from metalearn_tut.bilevel.implicit import (
    conjugate_gradient,
    hessian_product,
    implicit_gradients,
    neumann,
)
from metalearn_tut.bilevel.inner import Params, inner_loop, inner_path
from metalearn_tut.bilevel.objective import DeferredGradients, TaskGradients, adapted, query_loss
from metalearn_tut.bilevel.safety import assert_second_order_safe
from metalearn_tut.bilevel.vectorised import vectorised

__all__ = [
    "ENGINES",
    "DeferredGradients",
    "Params",
    "TaskGradients",
    "adapt",
    "adapted",
    "assert_second_order_safe",
    "conjugate_gradient",
    "functional",
    "hessian_product",
    "implicit_gradients",
    "inner_loop",
    "inner_path",
    "meta_gradient",
    "neumann",
    "parameters_of",
    "query_loss",
    "query_outputs",
    "task_gradients",
    "trainable_of",
    "vectorised",
]
