"""The share of multiply-adds that images need, by hand, and beside an unchanged accuracy."""

import torch
from channel_cases import gated

from metalearn_tut import MAML, evaluate, tasks
from metalearn_tut.gating import MetaGater
from metalearn_tut.gating.evaluation import Watched, active_share, is_gated
from metalearn_tut.models import Conv4

PIXELS = (256, 64, 16, 4)  # of a Conv4's four convolutions, images of side 16


def source(seed=0):
    x = torch.randint(0, 256, (60, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
    return tasks.from_arrays(x.to(torch.uint8), torch.arange(60) % 3)


def test_the_share_is_that_of_the_multiply_adds_written_out():
    network = gated("conv4", "none").float()
    x = torch.tensor(source().images[:6])
    open_filters = [m.sum(1).long() for m in network.masks(tasks.as_float(x))]
    assert any(len(set(counts.tolist())) > 1 for counts in open_filters)
    inputs = [torch.ones(6, dtype=torch.long), *open_filters[:-1]]
    needed = sum(9 * i * o * p for i, o, p in zip(inputs, open_filters, PIXELS, strict=True))
    needed = needed + 3 * open_filters[-1]  # the head reads one pixel of each channel
    every = 9 * 4 * PIXELS[0] + sum(9 * 16 * p for p in PIXELS[1:]) + 3 * 4
    gates = 16 * (1 + 4) + 3 * 16 * (4 + 4)
    expected = (needed + gates).double() / (every + gates)
    torch.testing.assert_close(active_share(network, x), expected)


def test_a_watched_learner_gives_the_same_accuracy():
    learner = MetaGater(gated("conv4", "support").float(), 0.1)
    assert is_gated(learner) and is_gated(Watched(learner))
    assert not is_gated(MAML(Conv4(1, ways=3, width=4, image_size=16)))
    sampler, watched = source().sampler(3, 2, 4), Watched(learner)
    plain = evaluate(learner, sampler, 3)
    found = evaluate(watched, sampler, 3)
    assert torch.equal(found.values, plain.values) and found.to_dict() == plain.to_dict()
    for i, share in enumerate(watched.shares):
        network = learner.adapt(sampler[i].support_x, sampler[i].support_y).deploy()
        assert share == active_share(network, sampler[i].query_x).mean().item()
    assert len(watched.shares) == 3 and len(set(watched.shares)) > 1
