"""A pass through a network that leaves it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def zeros(model: nn.Module, batch: int, input_shape: Sequence[int]) -> Tensor:
    """``batch`` zero inputs of the dtype and on the device of the model's first parameter."""
    like = next(model.parameters(), torch.empty(0))
    return torch.zeros(batch, *input_shape, dtype=like.dtype, device=like.device)


@contextmanager
def taking(input_shape: Sequence[int]) -> Iterator[None]:
    """Name the shape if a model takes no such input."""
    try:
        yield
    except (IndexError, RuntimeError, TypeError) as error:
        raise ValueError(f"the model takes no input_shape of {input_shape}: {error}") from error
