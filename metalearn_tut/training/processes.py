"""Several processes with equal parameters that share the tasks of every step."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process among all of a run: rank r of ``world`` takes every ``world``-th task.

    Parameters
    ----------
    rank, world : int
        Which process this is, and how many there are.

    Examples
    --------
    >>> Processes(rank=1, world=2).share(range(10, 15))
    range(11, 15, 2)
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> Processes:
        """The group that exists, or that ``torchrun`` announced; else this process alone.

        Processes on a CPU talk through gloo, on GPUs through nccl.
        """
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", 1)) == 1:
                return cls()
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, indices: range) -> range:
        """Those of ``indices`` that are this process's."""
        return indices[self.rank :: self.world]

    def gather(self, values: Tensor, total: int) -> Tensor:
        """Everyone's values ``[total]`` in the order of the indices that were shared out."""
        everyone = values.new_zeros(total)
        everyone[self.rank :: self.world] = values
        if self.world > 1:
            dist.all_reduce(everyone)
        return everyone

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, the same bits on all."""
        if self.world == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the tensors of rank 0: a seed forgotten there does no harm."""
        if self.world > 1:
            with torch.no_grad():
                for t in tensors:
                    whole = t.detach().contiguous()
                    dist.broadcast(whole, src=0)
                    t.copy_(whole)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
