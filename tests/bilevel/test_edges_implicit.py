"""Implicit gradients of some of the parameters, against closed forms and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import MAML, RankedRange, bilevel, meta_train, models, tasks
from metalearn_tut.learners.maml import anil
from metalearn_tut.tasks import TaskBatch

PULL = 0.3


def float64(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


class Headed(nn.Module):
    """Features tanh(body(x)), and a linear head on them."""

    def __init__(self, inputs=4, width=3, outputs=2, bias=True):
        super().__init__()
        self.body, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs, bias=bias)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(n=3):
    return TaskBatch(
        numbers(n, 8, 4), numbers(n, 8, 2, seed=1), numbers(n, 6, 4, seed=2), numbers(n, 6, 2)
    )


def classification(n=2, shape=(4,), ways=3):
    y = torch.arange(ways).repeat(4).expand(n, -1)
    return TaskBatch(numbers(n, 4 * ways, *shape), y, numbers(n, 4 * ways, *shape, seed=5), y)


def backward(learner, batch, aggregate=torch.mean):
    metas = learner.meta_parameters()
    grads = torch.autograd.grad(aggregate(learner.task_losses(batch).losses), [*metas.values()])
    return dict(zip(metas, grads, strict=True))


def assert_close(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, g in expected.items():
        torch.testing.assert_close(
            found[name], g, rtol=rtol, atol=rtol, msg=lambda m, n=name: n + m
        )


# A ridge head: the inner problem's solution in closed form, differentiated by autograd


def solved(params, task, pulled_to, keep=None):
    """argmin of mean((Z w - y)²) + PULL/2 |w - pulled_to|², w [4, 2] with the bias last.

    ``keep`` [4, 2] are the free entries; all others are zero.
    """

    def features(x):
        z = torch.tanh(x @ params["body.weight"].T + params["body.bias"])
        return torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)

    z, q, y = features(task.support_x), features(task.query_x), task.support_y
    columns = []
    for c in range(2):
        free = slice(None) if keep is None else keep[:, c]
        zf = z[:, free]
        matrix = 2 * zf.T @ zf / y.numel() + PULL * torch.eye(zf.shape[1], dtype=z.dtype)
        right = 2 * zf.T @ y[:, c] / y.numel() + PULL * pulled_to[free, c]
        column = torch.zeros(4, dtype=z.dtype).index_put(
            (torch.arange(4)[free],), torch.linalg.solve(matrix, right)
        )
        columns.append(column)
    return (q @ torch.stack(columns, 1) - task.query_y).square().mean()


def closed_form(model, batch, learned=True, masks=None):
    params = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    used = {n: p * masks[n] if masks and n in masks else p for n, p in params.items()}
    joined = [torch.cat([d["head.weight"].T, d["head.bias"][None]]) for d in (used, masks or used)]
    start, keep = joined[0] if learned else 0 * joined[0], joined[1].bool() if masks else None
    value = sum(solved(used, task, start, keep) for task in batch) / len(batch)
    wanted = {n: p for n, p in params.items() if learned or n.startswith("body")}
    return dict(zip(wanted, torch.autograd.grad(value, [*wanted.values()]), strict=True))


RIDGE = {"inner_lr": 0.9, "inner_steps": 300, "prox_weight": PULL, "loss": F.mse_loss}
HEAD = ["head.weight", "head.bias"]


def ridge_masks():
    ones = {n: torch.ones_like(p) for n, p in float64(Headed()).named_parameters()}
    ones["head.weight"][0, 1] = ones["head.weight"][1, 0] = ones["head.bias"][1] = 0
    ones["body.weight"][2, :2] = ones["body.bias"][0] = 0
    return ones


@pytest.mark.parametrize("zero_head", [True, False])
def test_the_head_alone_is_the_derivative_of_the_ridge_solution(zero_head):
    """From zero: HeTRoM's default problem; from a learned head: iMAML's, on the head."""
    model, batch = float64(Headed()), regression()
    learner = anil(model, engine="implicit", zero_head=zero_head, **RIDGE)
    assert_close(backward(learner, batch), closed_form(model, batch, learned=not zero_head))


def test_pruned_weights_take_no_part_in_the_solve_and_have_no_gradient():
    model, batch, masks = float64(Headed()), regression(), ridge_masks()
    learner = anil(model, engine="implicit", masks=masks, **RIDGE)
    found = backward(learner, batch)
    assert_close(found, closed_form(model, batch, masks=masks))
    assert all((found[n][mask == 0] == 0).all() for n, mask in masks.items())
    adapted = learner.adapt(batch[0].support_x, batch[0].support_y).params
    assert all((adapted[n][mask == 0] == 0).all() for n, mask in masks.items())


@pytest.mark.parametrize("masked", [True, False])
def test_all_parameters_with_and_without_masks_as_many_unrolled_steps(masked):
    model, batch = float64(Headed(outputs=3)), classification()
    masks = {"body.weight": torch.ones(3, 4), "head.weight": torch.ones(3, 3)}
    masks["body.weight"][0, 0] = masks["head.weight"][1, 2] = 0
    settings = {
        "inner_lr": 0.25,
        "inner_steps": 200,
        "prox_weight": 2.0,
        "masks": masks if masked else {},
    }
    unrolled = backward(MAML(model, **settings), batch)
    implicit = backward(MAML(model, engine="implicit", solver_steps=60, **settings), batch)
    assert_close(implicit, unrolled, rtol=1e-8)


GROUPS = {
    "head": [HEAD],
    "in turn": [["head.bias"], ["head.weight"]],
    "named twice": [HEAD, ["head.weight"]],
    "bias of the head": [["head.bias"]],
    "body": [["body.weight"]],
    "some of each": [["body.bias"], ["head.weight"]],
    "all, in turn": [["body.weight", "body.bias"], HEAD],
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("name", GROUPS)
def test_any_groups_are_as_many_unrolled_steps(name):
    model, batch = float64(Headed(outputs=3)), classification()
    settings = {"inner_lr": 0.25, "inner_steps": 200, "prox_weight": 2.0, "groups": GROUPS[name]}
    unrolled = backward(MAML(model, **settings), batch)
    implicit = backward(MAML(model, engine="implicit", solver_steps=60, **settings), batch)
    assert_close(implicit, unrolled, rtol=1e-8)


@pytest.mark.parametrize("frozen", ["body.weight", "head.bias", "body"])
def test_frozen_parameters_are_neither_stepped_nor_given_a_gradient(frozen):
    """Stepped or not: many unrolled steps on what is free agree."""
    model, batch = float64(Headed(outputs=3)), classification()
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(frozen))
    settings = {"inner_lr": 0.25, "inner_steps": 200, "prox_weight": 2.0}
    for make in (MAML, anil):
        implicit = backward(make(model, engine="implicit", solver_steps=60, **settings), batch)
        assert not any(name.startswith(frozen) for name in implicit)
        assert_close(implicit, backward(make(model, **settings), batch), rtol=1e-8)


def test_finite_differences_of_a_network_normalized_by_its_support_set():
    """Norms, convolutions and another loss inside than outside."""
    model = float64(models.Conv4(1, 3, width=2, norm="support", image_size=16))
    batch = classification(1, (1, 16, 16))
    learner = anil(
        model, 0.5, 60, engine="implicit", prox_weight=1.0, inner_loss=smoothed, solver_steps=30
    )
    found, direction = backward(learner, batch), {}
    for seed, (name, p) in enumerate(model.named_parameters()):
        direction[name] = numbers(*p.shape, seed=seed)
    values = []
    for sign in (1, -2):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.add_(sign * 1e-5 * direction[name])
        values.append(learner.task_losses(batch).losses.item())
    slope = (values[0] - values[1]) / 2e-5
    assert sum((found[n] * direction[n]).sum() for n in found).item() == pytest.approx(
        slope, rel=1e-6
    )
    assert found["blocks.0.conv.weight"].abs().max() > 1e-4  # no gradient that could be left out


def smoothed(outputs, targets):
    return F.cross_entropy(outputs, targets, label_smoothing=0.2)


def test_an_inner_loss_that_is_linear_in_what_is_stepped():
    """Its Hessian is zero: phi* = theta - g(b)/prox_weight, and u = v/prox_weight."""

    def negative_mean(outputs, targets):
        return -outputs.mean()

    model, batch = float64(Headed()), regression(1)
    settings = {
        "inner_loss": negative_mean,
        "groups": [HEAD],
        "prox_weight": 2.0,
        "loss": F.mse_loss,
    }
    found = backward(MAML(model, 0.4, 60, engine="implicit", **settings), batch)
    params = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    task = batch[0]
    z, q = (
        torch.tanh(x @ params["body.weight"].T + params["body.bias"])
        for x in (task.support_x, task.query_x)
    )
    weight = params["head.weight"] + z.mean(0) / 2 / 2.0  # d mean/d w_c = mean(z) / 2 outputs
    bias = params["head.bias"] + 0.5 / 2.0
    value = (q @ weight.T + bias - task.query_y).square().mean()
    expected = dict(zip(params, torch.autograd.grad(value, [*params.values()]), strict=True))
    assert_close(found, expected)


def test_an_inner_loss_without_any_second_derivative():
    """A linear model and a linear loss: phi* = theta - mean(x)/lambda, so d phi*/d theta = I."""
    model = float64(nn.Linear(4, 1))
    batch = TaskBatch(numbers(1, 8, 4), numbers(1, 8, 1), numbers(1, 6, 4), numbers(1, 6, 1))
    settings = {"inner_loss": lambda outputs, y: outputs.mean(), "loss": F.mse_loss}
    found = backward(MAML(model, 0.4, 150, engine="implicit", prox_weight=0.5, **settings), batch)
    (task,) = batch
    with torch.no_grad():
        weight = model.weight - task.support_x.mean(0) / 0.5
        error = task.query_x @ weight.T + model.bias - 1 / 0.5 - task.query_y
    expected = {"weight": 2 * error.T @ task.query_x / 6, "bias": 2 * error.mean(0)}
    assert_close(found, expected)


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_deferred_and_by_function_they_are_the_same(solver):
    model, batch = float64(Headed(outputs=3)), classification(4)
    settings = {
        "engine": "implicit",
        "prox_weight": 1.0,
        "solver": solver,
        "solver_steps": np.int64(9),
    }
    eager, later = (anil(model, 0.3, 30, deferred=d, **settings) for d in (False, True))
    ranks = RankedRange(1, 3)
    assert_close(backward(later, batch, ranks), backward(eager, batch, ranks), rtol=1e-13)
    inner = {"inner_lr": 0.3, "inner_steps": 30, "groups": [HEAD]}
    by_function = bilevel.meta_gradient(model, batch, **inner, **settings)
    assert_close(by_function, backward(eager, batch), rtol=1e-13)


@pytest.mark.slow
def test_the_default_problem_of_hetrom_trains():
    """Ridge head from zero, conjugate gradients, ranks, deferred: chance is 1/3."""
    x = numbers(240, 6).float() + 2 * torch.eye(6)[torch.arange(240) % 6]
    source = tasks.from_arrays(x @ numbers(6, 6, seed=4).float(), torch.arange(240) % 6)
    sampler = source.sampler(ways=3, shots=3, queries=5)
    torch.manual_seed(0)
    learner = anil(
        Headed(6, 4, 3), 0.5, 20, engine="implicit", prox_weight=0.1, zero_head=True, deferred=True
    )
    history = meta_train(
        learner, sampler, steps=50, outer_lr=0.05, tasks_per_step=6,
        aggregate=RankedRange(1, 5), progress=False,
    )  # fmt: skip
    first, last = (sum(part) / 8 for part in (history.accuracy[:8], history.accuracy[-8:]))
    assert last > first + 0.1 and last > 0.75


REFUSED = {
    "nothing is stepped": ({"groups": []}, "needs groups with at least one parameter"),
    "groups of nothing": ({"groups": [[]]}, "needs groups with at least one parameter"),
    "no pull": ({"prox_weight": 0.0}, r"needs prox_weight > 0 \(iMAML's lambda\), got 0.0"),
    "first order": ({"first_order": True}, "does not take first_order; use engine='functional'"),
    "several losses": ({"step_weights": [1.0]}, "does not take step_weights"),
    "no count": ({"solver_steps": True}, "solver_steps must be an integer >= 0, got True"),
    "half a count": ({"solver_steps": 1.5}, "solver_steps must be an integer >= 0, got 1.5"),
    "below none": ({"solver_steps": -1}, "solver_steps must be an integer >= 0, got -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_implicit_gradient_is_refused_in_one_sentence(name):
    changed, said = REFUSED[name]
    settings = {"groups": [HEAD], "prox_weight": 1.0, "inner_lr": 0.1, "inner_steps": 1, **changed}
    with pytest.raises(ValueError, match=said) as caught:
        bilevel.meta_gradient(
            float64(Headed(outputs=3)), classification(), engine="implicit", **settings
        )
    assert "\n" not in str(caught.value)
