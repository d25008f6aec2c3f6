"""Optimal brain surgery against refits, recursions and the cases that have a closed form."""

import pytest
import torch
from bilevel_cases import conv4, images, mlp, vectors
from torch import nn

from metalearn_tut import MAML
from metalearn_tut.saliency import (
    LayerHessian,
    layer_hessians,
    magnitude_scores,
    obs_scores,
    prune_layer,
)
from metalearn_tut.tasks import Task

RIDGE, GUARD = 1e-6, 1e-5


def hessian_of(x, ridge=RIDGE):
    return LayerHessian("layer", x.T @ x / len(x), len(x), ridge)


def rows_of(n, d, seed=0):
    """Correlated inputs, as layers have them."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix


def linear(d, units, bias=False, seed=1):
    """A learner that is one linear layer, its weight [units, d] and its bias."""
    torch.manual_seed(seed)
    return MAML(nn.Linear(d, units, bias=bias).double())


def one_task(x):
    y = torch.arange(len(x)) % 3
    return Task(x, y, x, y)


def removing(weight, *entries):
    keep = torch.ones_like(weight, dtype=torch.bool)
    for unit, row in entries:
        keep[unit, row] = False
    return keep


def refit(x, weight, keep, ridge=RIDGE):
    """Kept weights [units, d] by ridge least squares on the outputs and the old weights.

    ``min |X (v - w)|^2 / n + ridge |v - w|^2`` with ``v = 0`` where it is not kept.
    """
    design = torch.cat([x / len(x) ** 0.5, ridge**0.5 * torch.eye(x.shape[1])])
    new = torch.zeros_like(weight)
    for unit, kept in enumerate(keep):
        target = design @ weight[unit]
        new[unit, kept] = torch.linalg.lstsq(design[:, kept], target[:, None]).solution[:, 0]
    return new


def test_a2_removing_one_weight_is_a_ridge_refit_of_the_others():
    x, weight = rows_of(40, 6), linear(6, 3).model.weight.detach()
    hessian = hessian_of(x)
    scores = obs_scores(linear(6, 3), {"": hessian}, guard=0.0)["weight"]
    for unit, row in [(0, 0), (2, 4)]:
        keep = removing(weight, (unit, row))
        new, _ = prune_layer(weight, None, keep, None, hessian, guard=0.0)
        delta = new - weight
        assert new[unit, row] == 0
        assert not delta[[u for u in range(3) if u != unit]].any()
        loss = delta[unit] @ hessian.matrix @ delta[unit]
        assert scores[unit, row].item() == pytest.approx(loss.item(), rel=1e-10)
        torch.testing.assert_close(new, refit(x, weight, keep), rtol=1e-9, atol=1e-12)
        error = (x @ delta[unit]).square().mean()
        norm = RIDGE * delta[unit].square().sum()
        assert error.item() == pytest.approx((loss - norm).item(), rel=1e-10)


def one_by_one(weight, keep, inverse, guard, update_hinv):
    """The authors' loop, a weight at a time; optionally with the inverse down-dated."""
    new = weight.clone()
    for unit in range(len(weight)):
        hinv = inverse.clone()
        removed = (~keep[unit]).nonzero().flatten()
        scores = weight[unit, removed] ** 2 / (hinv.diagonal()[removed] + guard)
        for row in removed[scores.argsort()].tolist():
            by = hinv[row, row] + (0.0 if update_hinv else guard)
            new[unit] = new[unit] - new[unit, row] / by * hinv[:, row]
            if update_hinv:
                hinv = hinv - torch.outer(hinv[:, row], hinv[row]) / hinv[row, row]
                hinv[row, row] = 1.0  # it is 0 by now, and no longer asked for
    return new * keep


@pytest.mark.parametrize("update_hinv", [False, True])
def test_removing_many_is_removing_one_by_one(update_hinv):
    x, weight = rows_of(60, 8), linear(8, 5).model.weight.detach()
    generator = torch.Generator().manual_seed(3)
    keep = torch.rand(5, 8, generator=generator) > 0.5
    keep[4] = True
    hessian = hessian_of(x)
    found, _ = prune_layer(weight, None, keep, None, hessian, update_hinv=update_hinv)
    expected = one_by_one(weight, keep, hessian.inverse, GUARD, update_hinv)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)
    assert torch.equal(found[4], weight[4])


def test_with_the_inverse_down_dated_many_removals_are_a_refit():
    x, weight = rows_of(60, 8), linear(8, 5).model.weight.detach()
    keep = torch.rand(5, 8, generator=torch.Generator().manual_seed(3)) > 0.4
    hessian = hessian_of(x)
    exact, _ = prune_layer(weight, None, keep, None, hessian, update_hinv=True)
    torch.testing.assert_close(exact, refit(x, weight, keep), rtol=1e-8, atol=1e-11)
    fixed, _ = prune_layer(weight, None, keep, None, hessian)
    errors = [(x @ (new - weight).T).square().mean() for new in (exact, fixed, weight * keep)]
    assert errors[0] < errors[1] and errors[0] < errors[2]


def test_what_was_pruned_before_takes_part_only_if_the_inverse_is_down_dated():
    """A second round goes on from the first: the refit holds all zeros at zero."""
    x, weight = rows_of(60, 8), linear(8, 2).model.weight.detach()
    hessian, first = hessian_of(x), removing(weight, (0, 1), (0, 5))
    keep = first & removing(weight, (0, 2))
    once, _ = prune_layer(weight, None, first, None, hessian, update_hinv=True)
    found, _ = prune_layer(once, None, keep, None, hessian, update_hinv=True)
    torch.testing.assert_close(found, refit(x, weight, keep), rtol=1e-8, atol=1e-11)
    fixed, _ = prune_layer(once, None, keep, None, hessian)
    alone = (once[0] - once[0, 2] / (hessian.inverse[2, 2] + GUARD) * hessian.inverse[2]) * keep[0]
    torch.testing.assert_close(fixed[0], alone)


def test_a_bias_is_the_weight_of_the_constant_1():
    learner, batch = MAML(mlp(), 0.4, 2), vectors()
    hessian = layer_hessians(learner, batch)["2"]
    layer = learner.model[2]
    stacked = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    keep = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) > 0.3
    keep[0, 8] = False
    found = prune_layer(layer.weight, layer.bias, keep[:, :8], keep[:, 8], hessian)
    expected, _ = prune_layer(stacked, None, keep, None, hessian)
    assert torch.equal(torch.cat([found[0], found[1][:, None]], 1), expected)
    scores = obs_scores(learner, {"2": hessian})
    expected = stacked.square() / (hessian.inverse.diagonal() + GUARD)
    torch.testing.assert_close(scores["2.weight"], expected[:, :8], rtol=1e-12, atol=0)
    torch.testing.assert_close(scores["2.bias"], expected[:, 8], rtol=1e-12, atol=0)


def test_weights_of_a_convolution_meet_the_rows_of_their_own_patches():
    """Removing the one weight that reads a dead pixel of a dead channel changes no output."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (2, 3), bias=False).double()
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    x[:, 1] = 0
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(4 * 7 * 6, 3).double())
    hessian = layer_hessians(MAML(model), [one_task(x)], layers=["0"])["0"]
    scores = obs_scores(MAML(model), {"0": hessian})["0.weight"]
    assert scores[:, 1].max() < scores[:, [0, 2]].min()
    keep = torch.ones_like(conv.weight, dtype=torch.bool)
    keep[:, 1] = False
    new, _ = prune_layer(conv.weight, None, keep, None, hessian)
    torch.testing.assert_close(nn.functional.conv2d(x, new), conv(x))


def test_a4_white_inputs_rank_by_magnitude_and_compensation_only_zeroes():
    learner = linear(6, 4)
    weight = learner.model.weight.detach()
    hessian = LayerHessian("", (1 - RIDGE) * torch.eye(6, dtype=torch.float64), 100, RIDGE)
    scores = obs_scores(learner, {"": hessian}, guard=0.0)["weight"]
    torch.testing.assert_close(scores, magnitude_scores(learner)["weight"])
    assert torch.equal(scores.flatten().argsort(), weight.abs().flatten().argsort())
    keep = scores > scores.median()
    new, _ = prune_layer(weight, None, keep, None, hessian)
    assert torch.equal(new, weight * keep)


def test_a4_with_uncorrelated_inputs_the_score_is_the_lost_variance():
    learner, squares = linear(6, 4), torch.arange(1.0, 7.0, dtype=torch.float64)
    hessian = LayerHessian("", squares.diag(), 100, 0.0)
    scores = obs_scores(learner, {"": hessian}, guard=0.0)["weight"]
    torch.testing.assert_close(scores, learner.model.weight.detach() ** 2 * squares)


def test_a5_scaled_inputs_scale_the_scores_of_weights_and_not_of_the_bias():
    learner, x = linear(6, 4, bias=True), rows_of(50, 6)
    one = torch.ones(50, 1, dtype=torch.float64)
    plain, scaled = (
        obs_scores(learner, {"": hessian_of(torch.cat([c * x, one], 1), 0.0)}, guard=0.0)
        for c in (1.0, 3.0)
    )
    torch.testing.assert_close(scaled["weight"], 9 * plain["weight"])
    torch.testing.assert_close(scaled["bias"], plain["bias"])


def test_a5_permuted_output_units_permute_the_scores():
    learner, hessian = linear(6, 4), hessian_of(rows_of(50, 6))
    scores = obs_scores(learner, {"": hessian})["weight"]
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        learner.model.weight.copy_(learner.model.weight[order].clone())
    assert torch.equal(obs_scores(learner, {"": hessian})["weight"], scores[order])


def test_a10_weights_of_a_dead_input_go_first_and_move_nothing():
    learner, x = linear(6, 4), rows_of(50, 6)
    x[:, 2] = 0
    hessian, weight = hessian_of(x), learner.model.weight.detach()
    scores = obs_scores(learner, {"": hessian})["weight"]
    assert hessian.inverse[2, 2].item() == pytest.approx(1 / RIDGE, rel=1e-9)
    torch.testing.assert_close(scores[:, 2], weight[:, 2] ** 2 * RIDGE, rtol=1e-6, atol=0)
    assert set(scores.flatten().argsort()[:4].tolist()) == {2, 8, 14, 20}
    keep = torch.ones(4, 6, dtype=torch.bool)
    keep[:, 2] = False
    new, _ = prune_layer(weight, None, keep, None, hessian)
    torch.testing.assert_close(new, weight * keep, rtol=1e-10, atol=1e-10)


def test_scores_of_a_masked_layer_with_its_own_inverse_per_unit():
    """Column c of the scores is that of the layer that has only the inputs unit c keeps."""
    learner, x = linear(6, 3), rows_of(50, 6)
    keep = removing(learner.model.weight, (0, 1), (0, 4), (2, 0))
    learner.set_masks({"weight": keep})
    found = obs_scores(learner, {"": hessian_of(x)}, guard=0.0, update_hinv=True)["weight"]
    for unit in range(3):
        kept = keep[unit].nonzero().flatten()
        weight = learner.model.weight.detach()[unit, kept]
        inverse = torch.linalg.inv(hessian_of(x[:, kept]).matrix)
        torch.testing.assert_close(found[unit, kept], weight**2 / inverse.diagonal())
        assert not found[unit][~keep[unit]].any()
    shared = obs_scores(learner, {"": hessian_of(x)}, guard=0.0)["weight"]
    assert torch.equal(shared[1], found[1]) or (shared[1] / found[1] - 1).abs().max() < 1e-9
    assert not shared[~keep].any()


def test_the_layer_itself_is_left_as_it_is():
    for bias in (False, True):
        layer = linear(6, 4, bias=bias).model
        before = {n: p.detach().clone() for n, p in layer.named_parameters()}
        x = rows_of(50, 6 + bias)
        gone = [torch.zeros_like(p, dtype=torch.bool) for p in before.values()] + [None]
        prune_layer(layer.weight, layer.bias, *gone[:2], hessian_of(x))
        assert all(torch.equal(p, before[n]) for n, p in layer.named_parameters())


def test_float32_weights_stay_float32_and_removed_ones_are_exact_zeros():
    learner = MAML(conv4().float(), 0.4, 2)
    batch = images()
    hessian = layer_hessians(MAML(conv4(), 0.4, 2), batch)["blocks.1.conv"]
    weight = learner.model.blocks[1].conv.weight
    keep = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    new, _ = prune_layer(weight, None, keep, None, hessian)
    assert new.dtype == torch.float32 and not new.requires_grad
    assert torch.equal(new == 0, ~keep) and not torch.signbit(new[~keep]).any()


def test_shapes_and_guard_are_checked():
    weight, hessian = torch.ones(2, 3), hessian_of(rows_of(9, 4))
    keep = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"layer 'layer' has 3 rows of weights .* its Hessian 4"):
        prune_layer(weight, None, keep, None, hessian)
    for call in (
        lambda: prune_layer(weight, None, keep, None, hessian, guard=-1.0),
        lambda: obs_scores(linear(4, 2), {"": hessian}, guard=-1.0),
    ):
        with pytest.raises(ValueError, match=r"guard must be >= 0, got -1\.0"):
            call()
