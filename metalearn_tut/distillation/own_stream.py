"""A teacher's own random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from metalearn_tut.machine.threads import in_threads


class OwnStream:
    """Random numbers for one network as if it drew alone: the other's stream stays untouched.

    Two networks with dropout that share PyTorch's generator would each change what the other
    draws, and neither would be the learner that it is without the other.
    """

    def __init__(self, device: torch.device) -> None:
        self.gpus = [device] if device.type == "cuda" else []
        self.states = self._states()

    def _states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.gpus)]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from this stream inside; afterwards the generator is as it was."""
        if in_threads():
            yield
            return
        with self.aside():
            torch.set_rng_state(self.states[0])
            for gpu, state in zip(self.gpus, self.states[1:], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            yield
            self.states = self._states()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Draw inside; afterwards the generator is as it was."""
        with nullcontext() if in_threads() else torch.random.fork_rng(self.gpus):
            yield
