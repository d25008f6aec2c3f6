"""The query half apart, and the inner loops of several tasks as one: the same meta-gradient."""

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import (
    LiveBytes,
    along,
    assert_same,
    bilevel_loss,
    conv4,
    difference,
    images,
    mlp,
    parameters,
    smooth_conv,
    vectors,
    written_out,
)
from torch import nn

from metalearn_tut import MAML
from metalearn_tut.bilevel import halves, meta_gradient
from metalearn_tut.machine.threads import workers

FIVE = images(
    tasks=5, queries=4
)  # 12 query images, 3 of support: with two steps, two tasks are one


@pytest.fixture
def ways(monkeypatch):
    """How many tasks each inner loop was of."""
    seen, of_one = [], halves._Halves.of_one
    batched = halves.vectorised
    monkeypatch.setattr(halves, "vectorised", lambda m, n, g: seen.append(n) or batched(m, n, g))
    monkeypatch.setattr(halves._Halves, "of_one", lambda s, t: seen.append(1) or of_one(s, t))
    return seen


def gradient(model, batch=FIVE, **settings):
    return meta_gradient(model, batch, **{"inner_lr": 0.3, "inner_steps": 2, **settings})


def mask(p):
    return (torch.rand(p.shape, generator=torch.Generator().manual_seed(3)) > 0.4).double()


OPTIONS = {
    "plain": {},
    "first order": {"first_order": True},
    "every step": {"step_weights": [0.3, 0.7]},
    "groups": {"groups": [["head.weight", "head.bias"], ["blocks.0.conv.weight"]]},
    "pull": {"prox_weight": 0.5},
}


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
@pytest.mark.parametrize("option", OPTIONS)
def test_it_is_the_gradient_of_the_loss_written_out(norm, option, ways):
    model, settings = conv4(norm), OPTIONS[option]
    found = gradient(model, **settings)
    assert_same(found, written_out(model, FIVE, lr=lambda k, n: 0.3, steps=2, **settings))
    assert ways == [2, 2, 1]


@pytest.mark.parametrize("option", OPTIONS)
def test_pruned_it_is_too(option, ways):
    model = conv4()
    settings = {**OPTIONS[option], "masks": {n: mask(p) for n, p in model.named_parameters()}}
    found = gradient(model, **settings)
    assert_same(found, written_out(model, FIVE, lr=lambda k, n: 0.3, steps=2, **settings))
    assert ways == [2, 2, 1]


@pytest.mark.parametrize("model", [mlp, smooth_conv])
def test_other_networks_go_task_by_task(model, ways):
    batch = vectors(tasks=3, queries=9) if model is mlp else images(tasks=3, queries=9)
    found = gradient(model(), batch)
    assert_same(found, written_out(model(), batch, lr=lambda k, n: 0.3, steps=2))
    assert ways == [1, 1, 1]


@pytest.mark.parametrize("model", [conv4, smooth_conv])
def test_it_is_the_slope_of_the_loss(model):
    network = model("none") if model is conv4 else model()

    def loss(at):
        return sum(bilevel_loss(network, at, t, lr=lambda k, n: 0.3, steps=2) for t in FIVE) / 5

    slope, way = difference(loss, parameters(network), eps=1e-6)
    assert along(gradient(network), way) == pytest.approx(slope, rel=1e-6)


def learned(mode, **settings):
    torch.manual_seed(0)
    own = {"rate_mode": mode, "zero_head": mode == "shared", **settings}
    return MAML(conv4("support"), 0.3, 2, **own).double()


@pytest.mark.parametrize("mode", ["shared", "per_layer", "per_layer_and_step", "per_weight"])
def test_learned_rates_and_the_rest_have_the_gradient_of_the_whole_graph(mode, ways):
    found = []
    for deferred in (False, True):
        learner = learned(mode, deferred=deferred, multi_step_loss=1.0)
        learner.model.blocks[1].conv.requires_grad_(False)
        learner.task_losses(FIVE, 0.5).losses.mean().backward()
        found.append({n: p.grad for n, p in learner.meta_parameters().items()})
    assert_same(*found)
    assert ways == [2, 2, 1]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_and_outputs_are_those_of_the_whole_graph(count):
    halved, whole = (MAML(conv4(), 0.3, count, deferred=d) for d in (False, True))
    assert torch.allclose(*(m.task_losses(FIVE).losses for m in (halved, whole)), rtol=1e-12)
    assert torch.equal(*(m.task_losses(FIVE).accuracy for m in (halved, whole)))


def test_without_steps_it_is_the_gradient_of_the_query_loss(ways):
    model = conv4()
    found = gradient(model, inner_steps=0)
    assert_same(found, written_out(model, FIVE, lr=lambda k, n: 0.3, steps=0))
    assert ways == [1] * 5


def hooked(model):
    model.blocks[0].conv.register_forward_hook(lambda *_: None)


def exchanged(model):
    model.blocks[0].norm = nn.Sequential(nn.Softmax(1))


@pytest.mark.parametrize("change", [hooked, exchanged])
def test_a_network_that_its_user_has_changed_goes_task_by_task(change, ways):
    model = conv4("none")
    change(model)
    found = gradient(model)
    assert_same(found, written_out(model, FIVE, lr=lambda k, n: 0.3, steps=2))
    assert ways == [1] * 5


def test_a_loss_of_ones_own_goes_task_by_task(ways):
    found = gradient(conv4(), inner_loss=lambda o, y: F.cross_entropy(2 * o, y))
    settings = {"inner_loss": lambda o, y: F.cross_entropy(2 * o, y)}
    assert_same(found, written_out(conv4(), FIVE, lr=lambda k, n: 0.3, steps=2, **settings))
    assert ways == [1] * 5


@pytest.mark.parametrize(
    ("tasks", "queries", "steps", "wanted"),
    [(4, 15, 1, [4]), (4, 15, 5, [2, 2]), (5, 15, 5, [3, 2]), (2, 1, 1, [1, 1]), (1, 15, 1, [1])],
)
def test_so_many_are_one_that_they_need_no_more_than_a_query_set(
    tasks, queries, steps, wanted, ways
):
    gradient(conv4(), images(tasks=tasks, queries=queries), inner_steps=steps)
    assert ways == wanted


def test_the_graph_of_a_query_set_is_gone_before_the_way_back(monkeypatch):
    left, on_query = [], halves._Halves.on_query

    def watched(self, *arguments):
        before = held.count()
        found = on_query(self, *arguments)
        left.append(held.count() - before)
        return found

    monkeypatch.setattr(halves._Halves, "on_query", watched)
    batch, model = images(tasks=4, queries=30), smooth_conv()
    with LiveBytes() as held:
        gradient(model, batch)
    assert len(left) == 4 and max(left) < batch.query_x[0].nbytes / 4


def test_in_threads_it_is_the_same_bit_by_bit():
    alone = gradient(conv4())
    with workers(2):
        for _ in range(2):
            found = gradient(conv4())
            assert all(torch.equal(g, alone[n]) for n, g in found.items())
