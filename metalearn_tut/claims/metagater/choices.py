"""As many open filters, chosen otherwise: are the gates' own choices worth anything?"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metalearn_tut.gating import MetaGater
from metalearn_tut.gating.networks import ChannelGated, DensePass
from metalearn_tut.tasks import as_float
from metalearn_tut.tasks.task import Task

CHOICES = ("random", "average")


class RankedPass(DensePass):
    """Open as many filters as is said for each image, those of highest rank.

    Parameters
    ----------
    gates : nn.ModuleList
    counts : list of Tensor [B]
        How many, for each gate.
    scores : list of Tensor [C_l]
        What ranks the filters.
    n_support : int
    """

    def __init__(
        self,
        gates: nn.ModuleList,
        counts: Sequence[Tensor],
        scores: Sequence[Tensor],
        n_support: int,
    ) -> None:
        super().__init__(gates, "learned", None, 1.0, n_support)
        self.counts, self.scores = counts, scores

    def mask(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """The mask ``[B, C]`` of the next gate."""
        i = len(self.masks)
        scores = self.scores[i].expand(len(x), -1)
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(1)
        self.masks.append((rank < self.counts[i][:, None]).to(x))
        return self.masks[-1]


@torch.no_grad()
def right_by_choice(learner: MetaGater, task: Task, number: int) -> dict[str, int]:
    """Right answers of one task if the adapted gates say only how many filters an image gets.

    Which ones is drawn for the task (``random``; its number decides), or those whose mean logit
    over the support set is highest (``average``): one choice for all images of the task.
    """
    network = copy.deepcopy(learner.model)
    network.load_state_dict(learner.adapt(task.support_x, task.support_y).params)
    device, n = network.head.weight.device, len(task.support_x)
    x = as_float(torch.cat([task.support_x, task.query_x]).to(device))
    counts = [mask.sum(1) for mask in network.run(x, n)[1]]
    generator = torch.Generator().manual_seed(number)
    scores = {
        "random": [torch.rand(c, generator=generator).to(device) for c in network.sizes],
        "average": mean_logits(network, x, n),
    }
    found = {}
    for choice, ranks in scores.items():
        run = RankedPass(network.gates, counts, ranks, n)
        logits = run.head(network.head, network.flow(x, run))
        found[choice] = int((logits[n:].argmax(1).cpu() == task.query_y).sum())
    return found


def mean_logits(network: ChannelGated, x: Tensor, n: int) -> list[Tensor]:
    """The mean logit of every filter over the support set."""
    seen: list[Tensor] = []
    hooks = [
        gate.register_forward_hook(lambda gate, args, out: seen.append(out[:n].mean(0)))
        for gate in network.gates
    ]
    network.run(x, n)
    for hook in hooks:
        hook.remove()
    return seen
