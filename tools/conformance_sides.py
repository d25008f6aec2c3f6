"""Who was judged, and which script shows which silent error; for ``conformance_page.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from metalearn_tut.conformance import GROUPS

NORMS = tuple(case.name for case in GROUPS["norms"])


class Side(NamedTuple):
    """One that was judged: how it is called, and in a narrow column."""

    title: str
    short: str
    adapter: str = ""


SIDES = {
    "ours_functional": Side("this package, `functional`", "ours"),
    "ours_recomputed": Side("this package, `functional` with `recompute=True`", ""),
    "ours_vectorised": Side("this package, `vectorised`", "ours, vectorised"),
    "ours_higher": Side("this package, `higher`", "ours, `higher`"),
    "ours_implicit": Side("this package, `implicit`", ""),
    "higher": Side("`higher`", "`higher`", "by_higher"),
    "learn2learn": Side("learn2learn", "learn2learn", "by_learn2learn"),
    "torchopt": Side("TorchOpt", "TorchOpt", "by_torchopt"),
    "torch_func_loop": Side("`torch.func`, task by task", "torch loop", "by_torch_func"),
    "torch_func_vmap": Side("`torch.func`, `vmap` over tasks", "torch `vmap`", "by_torch_func"),
    "parallel_metalearn_sequential": Side(
        "parallel-metalearn, `sequential`", "parallel, loop", "by_parallel_metalearn"
    ),
    "parallel_metalearn_vmap": Side(
        "parallel-metalearn, `vmap`", "parallel, `vmap`", "by_parallel_metalearn"
    ),
    "iteryne": Side("iteryne", "iteryne", "by_iteryne"),
}


class Report(NamedTuple):
    """A silent error: in which cases of which sides, what to do instead, where it is known."""

    cases: Sequence[str]
    sides: Sequence[str]
    instead: str
    upstream: str = ""


ANY = tuple(SIDES)
REPORTS = {  # the first that fits is the one; the sentence is the script's own
    "higher_hooks": Report(
        ("forward hook", "forward pre-hook", "mask by nn.utils.prune", "weight_norm (hook)"),
        ("higher",),
        "the mask as a parametrization; other engines",
        "facebookresearch/higher#14",
    ),
    "higher_list": Report(
        ("layers called from a plain list", "a bound method as attribute"),
        ("higher",),
        "`nn.ModuleList`; look the method up in `forward`",
    ),
    "learn2learn_list": Report(
        ("layers called from a plain list", "a bound method as attribute"),
        ("learn2learn",),
        "`nn.ModuleList`; look the method up in `forward`",
    ),
    "higher_adam": Report(
        ("inner Adam", "inner Adam, eps of 1/1024"),
        ("higher",),
        "`higher` from its repository, where it is mended",
        "facebookresearch/higher#71",
    ),
    "torchopt_tied": Report(
        ("one parameter in two layers",), ("torchopt",), "one layer, called twice"
    ),
    "torchopt_adam": Report(
        ("inner Adam", "inner Adam, eps of 1/1024"), ("torchopt",), "nothing, if float32 will do"
    ),
    "parallel_metalearn_layer_norm": Report(
        NORMS,
        ("parallel_metalearn_vmap",),
        '`backend="sequential"`; group norm',
        "pytorch/functorch#534",
    ),
    "torch_vmap_norms": Report(
        NORMS,
        ("torch_func_vmap",),
        "the gradient inside `vmap`; group norm",
        "pytorch/functorch#534",
    ),
    "torch_two_names": Report(
        ("one layer under two names",),
        ANY,
        "one name, called twice",
        "pytorch/pytorch#164759",
    ),
    "torch_weight_norm": Report(
        ("weight_norm (parametrization)", "weight_norm (hook)"), ANY, "the formula in Python"
    ),
    "torch_spectral_norm": Report(
        ("spectral_norm, training",), ANY, "`w / torch.linalg.matrix_norm(w, 2)`"
    ),
}


def report_of(side: str, case: str) -> str | None:
    """The script that shows a silent error."""
    fits = (n for n, r in REPORTS.items() if side in r.sides and case in r.cases)
    return next(fits, None)
