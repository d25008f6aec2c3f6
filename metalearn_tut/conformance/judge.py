"""The verdict on a learner in a case: right, refused, wrong, crash, or not offered."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.conformance.case import Case
from metalearn_tut.conformance.truth import right_value

MetaGradient = Callable[..., Mapping[str, Tensor]]
"""``(module, loss, tasks, *, inner_lr, inner_steps, **options) -> {name: gradient}``."""
KINDS = ("right", "refused", "wrong", "crash", "not offered")


@dataclass(frozen=True)
class Verdict:
    """What came out of one case.

    Parameters
    ----------
    case : str
        Its name.
    kind : str
        ``"right"``; ``"refused"``, by an error that names what is in the way; ``"wrong"``, without
        any error; ``"crash"``, by an error that does not; or ``"not offered"``.
    error : float, optional
        Relative error of the gradient, of a right and a wrong one: the norm of the difference
        over the norm of the right value, all entries together.
    message : str
        First line of the error, or what is wrong beside the gradient.
    """

    case: str
    kind: str
    error: float | None = None
    message: str = ""


def judge(case: Case, learner: MetaGradient) -> Verdict:
    """Ask a learner for the meta-gradient of a case, and compare with the right value.

    Raises
    ------
    TypeError, ValueError
        If the answer is no gradient at all: not a mapping, or an entry without the shape of its
        parameter. That is an error of the function, not of the library behind it.
    """
    if set(case.options) - _options_of(learner):
        return Verdict(case.name, "not offered")
    module = case.module()
    before = {name: (p, p.detach().clone()) for name, p in module.named_parameters()}
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = {"inner_lr": case.inner_lr, "inner_steps": case.inner_steps}
            answer = learner(module, case.loss, case.tasks(), **settings, **case.options)
    except Exception as error:  # of whatever kind: that is what is judged
        return _stopped(case, error)
    if answer is NotImplemented:
        return Verdict(case.name, "not offered")
    off = distance(_checked(answer, right_value(case), case.name), right_value(case))
    if changed := _changed(module, before):
        return Verdict(case.name, "wrong", off, changed)
    return Verdict(case.name, "right" if off <= case.tolerance else "wrong", off)


def verdicts(learner: MetaGradient, cases: Sequence[Case]) -> Iterator[Verdict]:
    """One after another, as they come."""
    return (judge(case, learner) for case in cases)


def distance(found: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of the right value; infinite for NaN."""
    gaps = [(found[n].double() - right[n]).flatten() for n in right]
    off = torch.cat(gaps).norm() / torch.cat([g.flatten() for g in right.values()]).norm()
    return off.item() if off.isfinite() else math.inf


# Says that there is no such thing here, or what to do instead.
CLEAR = re.compile(
    r"(?i)(not|n't|only)( yet| currently)? (support|implement|have a)|unsupported|no batched form"
    r"|cannot follow|must agree|(;|please|instead,?) use\b|maybe try"
)


def _stopped(case: Case, error: Exception) -> Verdict:
    text = str(error).strip()
    line = f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    clear = CLEAR.search(text) or re.search(case.told, text)
    return Verdict(case.name, "refused" if clear else "crash", message=line[:300])


def _options_of(learner: MetaGradient) -> set[str]:
    """The keywords that a function takes; all that any case has if it takes ``**options``."""
    parameters = inspect.signature(learner).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {"first_order", "rates", "optimizer", "prox_weight"}
    return {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}


def _checked(answer: Any, right: Mapping[str, Tensor], case: str) -> dict[str, Tensor]:
    """The answer on the names of the right value: a gradient that is None or missing is zero."""
    if not isinstance(answer, Mapping):
        raise TypeError(
            "the function must return a dictionary of name to gradient, got "
            f"{type(answer).__name__} in the case {case!r}"
        )
    found = {}
    for name, value in right.items():
        given = answer.get(name)
        given = torch.zeros_like(value) if given is None else given
        if not isinstance(given, Tensor) or given.shape != value.shape:
            shown = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"the gradient of {name!r} must be a tensor of shape {list(value.shape)}, got "
                f"{shown} in the case {case!r}"
            )
        found[name] = given.detach()
    return found


def _changed(module: nn.Module, before: Mapping[str, tuple[Tensor, Tensor]]) -> str:
    """What an outer optimizer, or the next task, would not find as it was; or nothing."""
    now = dict(module.named_parameters())
    for name, (p, value) in before.items():
        if now.get(name) is not p:
            return f"leaves another tensor in place of {name}"
        if not torch.equal(p, value):
            return f"leaves {name} changed"
    return ""
