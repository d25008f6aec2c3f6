"""Floor 2: one inner loop, and meta-gradients by several engines that agree."""

from metalearn_tut.bilevel.engines import (
    ENGINES,
    TaskGradients,
    adapt,
    implicit_gradients,
    meta_gradient,
    query_loss,
    task_gradients,
)
from metalearn_tut.bilevel.forward import functional, parameters_of, query_outputs
from metalearn_tut.bilevel.implicit import conjugate_gradient, hessian_product, neumann
from metalearn_tut.bilevel.inner import Params, inner_loop, inner_path
from metalearn_tut.bilevel.vectorised import vectorised

__all__ = [
    "ENGINES",
    "Params",
    "TaskGradients",
    "adapt",
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
    "vectorised",
]
