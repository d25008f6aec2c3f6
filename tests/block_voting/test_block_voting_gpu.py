"""Training in half precision, and steps that a GPU repeats by itself."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from metalearn_tut.block_voting import (
    BlockGated,
    Recipe,
    crop_and_flip,
    cross_entropy,
    epochs,
    train_epochs,
    train_gates,
)
from metalearn_tut.block_voting.networks.blocks import mix
from metalearn_tut.models import CifarResNet


def images(n=40):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 2
    x = torch.randint(0, 180, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return x + 70 * y[:, None, None, None].to(torch.uint8), y


def gated():
    torch.manual_seed(0)
    return BlockGated(CifarResNet(20, 2))


def test_in_half_precision_steps_are_computed_so_and_weights_kept_whole():
    seen = []

    def objective(network, x, y):
        loss, logits = cross_entropy(network, x, y)
        seen.append((x.dtype, logits.dtype, loss.dtype))
        return loss, logits

    network = CifarResNet(20, 2)
    blocks = []
    network.blocks[0].register_forward_hook(lambda *given: blocks.append(given[-1].dtype))
    train_epochs(network, images(), Recipe(1, batch=20, bfloat16=True), objective, progress=False)
    assert set(seen) == {(torch.float32, torch.bfloat16, torch.float32)}
    assert set(blocks) == {torch.bfloat16}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_a_mark_in_full_precision_does_not_widen_what_it_weighs():
    block, x = nn.Identity(), torch.rand(2, 3, 4, 4, dtype=torch.bfloat16)
    mark = torch.full((2, 1, 1, 1), 0.5)  # a softmax under autocast, on a GPU
    assert mix(block, x, mark, "skipnet").dtype == torch.bfloat16


def test_half_precision_is_near_the_whole():
    losses = [
        train_gates(gated(), images(), Recipe(2, 0.01, batch=20, bfloat16=half), progress=False)
        for half in (False, True)
    ]
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=0.05)
    assert losses[1]["loss"] != losses[0]["loss"]


def test_on_a_processor_nothing_is_recorded():
    ends = []
    for recorded in (False, True):
        network = gated()
        train_gates(network, images(), Recipe(1, batch=20, recorded=recorded), progress=False)
        ends.append(network.state_dict())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


class Tape:
    """A CUDA graph that keeps what it was recorded with, and does it again."""

    made = 0

    def __init__(self):
        type(self).made += 1
        self.recording, self.given = False, None

    @contextmanager
    def record(self, stream=None):
        Tape.last, self.recording = self, True
        yield
        self.recording = False


def test_a_recorded_step_gets_every_batch_once_and_in_order(monkeypatch):
    done = []

    def step(x, y):
        tape = getattr(Tape, "last", None)
        if tape is not None and tape.recording:  # asked for, not done
            tape.replay = lambda: done.append((x.clone(), y.clone()))
        else:
            done.append((x.clone(), y.clone()))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", lambda tape, stream: tape.record(stream))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    recorded = epochs._Recorded(step)
    batches = [(torch.rand(n, 3), torch.arange(n)) for n in (4, 4, 4, 4, 3, 4)]
    for batch in batches:
        recorded(*batch)
    assert len(done) == len(batches) and Tape.made == 1
    for (x, y), (own_x, own_y) in zip(done, batches, strict=True):
        assert torch.equal(x, own_x) and torch.equal(y, own_y)


def test_a_rate_on_the_device_is_changed_in_place():
    weight = nn.Parameter(torch.ones(2))
    recipe = Recipe(2, 0.5)
    plain = epochs._optimizer([weight], recipe, recorded=False)
    fused = epochs._optimizer([weight], recipe, recorded=True)
    rate = fused.param_groups[0]["lr"]
    for optimizer in (plain, fused):
        epochs._set_rate(optimizer, 0.25)
        weight.grad = torch.ones(2)
        optimizer.step()
    assert rate is fused.param_groups[0]["lr"] and rate.item() == 0.25
    # two steps of 0.25 · (1 + 1e-4 · weight)
    first = 1 - 0.25 * (1 + 1e-4)
    assert weight.tolist() == pytest.approx([first - 0.25 * (1 + 1e-4 * first)] * 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_recorded_steps_are_those_that_are_not():
    ends = []
    for recorded in (False, True):
        network = gated().cuda()
        how = partial(Recipe, batch=4, augment=crop_and_flip, bfloat16=True)
        history = train_gates(network, images(), how(2, recorded=recorded), progress=False)
        ends.append((history["loss"], network.state_dict()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
