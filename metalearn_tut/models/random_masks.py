"""Masks of zeros and ones made from marks in [0, 1], and the gradients that pass through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_generator: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def noise_from(generator: torch.Generator) -> Iterator[None]:
    """Inside, noise is drawn from this generator, unless another is given; in this thread alone."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


def hard_mask(marks: Tensor) -> Tensor:
    """``1[mark > 1/2]``, with the gradient of the mark (straight through).

    Examples
    --------
    >>> marks = torch.tensor([0.4, 0.5, 0.6], requires_grad=True)
    >>> hard_mask(marks).sum().backward()
    >>> hard_mask(marks).tolist(), marks.grad.tolist()
    ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    """
    return straight_through(marks > 0.5, marks)


def gumbel_mask(marks: Tensor) -> Tensor:
    """A random 0/1 mask that is 1 with probability ``mark``, straight through.

    ``soft = s(logit(mark) + e)``, s the logistic function and e logistic noise: the difference
    of the two Gumbel variables of a Gumbel-softmax over "off" and "on". The value is
    ``1[soft > 1/2]``, the gradient that of ``soft``. Noise is drawn from PyTorch's global
    generator.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> gumbel_mask(torch.full((10_000,), 0.8)).mean().item()  # doctest: +ELLIPSIS
    0.80...
    """
    soft = (torch.logit(marks, eps=1e-6) + logistic_noise(marks)).sigmoid()
    return straight_through(soft > 0.5, soft)


def logistic_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``log U - log(1 - U)``, U uniform: the difference of two independent Gumbel variables.

    One Gumbel variable alone would open a gate of logit u with probability ``1 - exp(-e^u)``
    (0.632 at u = 0) instead of ``s(u)``.

    Parameters
    ----------
    like : Tensor
        Shape, dtype and device of the result.
    generator : torch.Generator, optional
        That of :func:`noise_from` by default, or PyTorch's global one.
    """
    generator = _generator.get() if generator is None else generator
    uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return uniform.log() - (-uniform).log1p()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard``, exactly, with the gradient (of any order) of ``soft``."""
    return hard.to(soft) + (soft - soft.detach())  # the parentheses: exactly 0 is added


MASKINGS = ("soft", "hard", "gumbel")


def mask_of(marks: Tensor, masking: str, training: bool) -> Tensor:
    """What a block is multiplied by: the marks themselves, or 0 and 1.

    ``"gumbel"`` masks are random in training and hard in evaluation.
    """
    if masking == "soft":
        return marks
    return gumbel_mask(marks) if masking == "gumbel" and training else hard_mask(marks)
