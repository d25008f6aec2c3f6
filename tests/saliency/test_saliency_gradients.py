"""Gradient scores against finite differences and formulas; the approximation ANP makes."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import bilevel_loss, conv4, images, mlp, parameters, vectors
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call, grad

from metalearn_tut import MAML, Reptile
from metalearn_tut.learners.maml import anil, fomaml
from metalearn_tut.saliency import gradient_scores, layer_hessians, magnitude_scores, random_scores
from metalearn_tut.saliency.masks import full_masks
from metalearn_tut.tasks import Task

LR = 0.3


def objective(model, batch, theta, masks, steps, **settings):
    """F of the scores: the mean query loss after a masked inner loop, written out."""
    settings = {"lr": lambda k, n: LR, "steps": steps, "masks": masks, **settings}
    return sum(bilevel_loss(model, theta, task, **settings) for task in batch) / len(batch)


def differences(loss, at, stride, eps=1e-5):
    """Central differences of ``loss`` in every ``stride``-th entry of each tensor."""
    found = {}
    for name, tensor in at.items():
        for i in range(0, tensor.numel(), stride):
            values = []
            for sign in (1, -1):
                moved = tensor.detach().clone()
                moved.view(-1)[i] += sign * eps
                values.append(loss({**at, name: moved}).item())
            found[name, i] = (values[0] - values[1]) / (2 * eps)
    return found


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("groups", [None, [["2.weight", "2.bias"], ["0.weight", "0.bias"]]])
def test_a8_meta_snip_is_the_difference_quotient_in_the_mask(steps, groups):
    model, batch = mlp(), vectors()
    theta, ones = parameters(model), {n: torch.ones_like(p) for n, p in parameters(model).items()}
    learner = MAML(model, LR, steps, groups=groups)
    found = gradient_scores(learner, batch, kind="meta_snip")
    expected = differences(
        lambda m: objective(model, batch, theta, m, steps, groups=groups).detach(), ones, 7
    )
    for (name, i), value in expected.items():
        assert found[name].view(-1)[i].item() == pytest.approx(abs(value), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a8_meta_taylor_is_the_difference_quotient_in_the_weight_times_the_weight(steps):
    model, batch = mlp(), vectors()
    theta = parameters(model)
    found = gradient_scores(MAML(model, LR, 7), batch, kind="meta_taylor", inner_steps=steps)

    def loss(moved):
        leaves = {n: t.detach().requires_grad_() for n, t in moved.items()}
        return objective(model, batch, leaves, None, steps).detach()

    expected = differences(loss, theta, 7)
    for (name, i), value in expected.items():
        value *= theta[name].view(-1)[i].item()
        assert found[name].view(-1)[i].item() == pytest.approx(abs(value), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("first_order", [False, True])
def test_a8_one_step_has_the_formulas(first_order):
    """``theta (I - lr H) q - lr g q`` with the whole Hessian; without H to first order."""
    model, batch = mlp(), vectors()
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])

    def loss(flat, x, y):
        parts = flat.split([s.numel() for s in shapes])
        params = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, params, (x,)), y)

    taylor, snip = 0, 0
    for t in batch:
        g = grad(loss)(theta, t.support_x, t.support_y)
        q = grad(loss)(theta - LR * g, t.query_x, t.query_y)
        h = hessian(partial(loss, x=t.support_x, y=t.support_y), theta)
        second = 0 if first_order else LR * h @ q
        taylor = taylor + theta * (q - second) / 2
        snip = snip + (theta * (q - second) - LR * g * q) / 2
    learner = MAML(model, LR, 1)
    for kind, expected in (("meta_taylor", taylor), ("meta_snip", snip)):
        found = gradient_scores(learner, batch, kind=kind, first_order=first_order)
        found = torch.cat([found[n].flatten() for n in names])
        torch.testing.assert_close(found, expected.abs(), rtol=1e-9, atol=1e-12)


def test_a8_without_inner_steps_all_are_snip():
    model, batch = conv4("support"), images()
    theta = parameters(model)
    loss = objective(model, batch, theta, None, 0)
    grads = torch.autograd.grad(loss, list(theta.values()))
    expected = {n: (p * g).abs() for (n, p), g in zip(theta.items(), grads, strict=True)}
    cases = {
        "snip": MAML(model, LR, 3),
        "meta_snip": MAML(model, LR, 0),
        "meta_taylor": MAML(model, 0.0, 2),
    }
    for kind, learner in cases.items():
        found = gradient_scores(learner, batch, kind=kind)
        assert list(found) == [n for n in expected if ".norm." not in n]
        for name, score in found.items():
            torch.testing.assert_close(
                score.detach(), expected[name].detach(), rtol=1e-9, atol=1e-14
            )


def test_weights_that_are_pruned_score_0_and_the_others_as_in_the_pruned_network():
    model, batch = mlp(), vectors()
    mask = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    learner = MAML(model, LR, 2)
    learner.set_masks({"0.weight": mask})
    ones = {n: torch.ones_like(p) for n, p in parameters(model).items()}
    expected = differences(
        lambda m: objective(
            model, batch, parameters(model), {**m, "0.weight": m["0.weight"] * mask}, 2
        ).detach(), ones, 3,
    )  # fmt: skip
    found = gradient_scores(learner, batch, kind="meta_snip")
    for (name, i), value in expected.items():
        assert found[name].view(-1)[i].item() == pytest.approx(abs(value), rel=1e-6, abs=1e-9)
    for kind in ("meta_snip", "meta_taylor", "snip"):
        found = gradient_scores(learner, batch, kind=kind)["0.weight"]
        assert not found[~mask].any() and found[mask].all()


@pytest.mark.parametrize(
    "make",
    [anil, fomaml, Reptile, lambda m, *a: MAML(m, *a, rate_mode="per_weight"),
     lambda m, *a: MAML(m, *a, rate_mode="per_layer_and_step"),
     lambda m, *a: MAML(m, *a, deferred=True)],
    ids=["anil", "fomaml", "reptile", "meta-sgd", "rates per step", "deferred"],
)  # fmt: skip
def test_relatives_are_scored_by_their_own_inner_loop(make):
    """Rates that are equal are those of MAML; how a learner trains does not matter."""
    model, batch = conv4(), images()
    groups = [["head.weight", "head.bias"]] if make is anil else None
    expected = gradient_scores(MAML(model, LR, 2, groups=groups), batch, kind="meta_snip")
    found = gradient_scores(make(model, LR, 2), batch, kind="meta_snip")
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score, rtol=1e-9, atol=1e-14)


def test_a_zero_head_is_not_scored_and_lets_meta_snip_through():
    """Two equal networks, one with its head at zero by hand."""
    model, batch = conv4(), images()
    learner = MAML(model, LR, 2, zero_head=True)
    found = gradient_scores(learner, batch, kind="meta_snip")
    assert all(n.startswith("blocks.") for n in found)
    with torch.no_grad():
        model.head.weight.zero_(), model.head.bias.zero_()
    layers = [f"blocks.{i}.conv" for i in range(4)]
    expected = gradient_scores(MAML(model, LR, 2), batch, kind="meta_snip", layers=layers)
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score, rtol=1e-10, atol=1e-15)
    with pytest.raises(ValueError, match=r"every snip score of blocks\.0\.conv\.weight is 0"):
        gradient_scores(learner, batch, kind="snip")


def linear_task(n, seed):
    generator = torch.Generator().manual_seed(seed)

    def part():
        x = torch.randn(n, 4, generator=generator, dtype=torch.float64)
        return x, torch.randn(n, 1, generator=generator, dtype=torch.float64)

    return Task(*part(), *part())


def half_squares(outputs, targets):
    return (outputs - targets).square().mean() / 2


def test_a9_on_quadratic_losses_anp_has_the_hessian_to_first_order_in_the_rate():
    """``dF/dtheta = P'B(U - b)``, ``d2F/dtheta2 = P'BP``, ``P = (I - lr A)^K``; ANP takes B.

    For a linear model with squared error A and B are mean x x' of support and query set.
    """
    task = linear_task(12, 0)
    torch.manual_seed(0)
    model = nn.Linear(4, 1, bias=False).double()
    a, b = ((x.T @ x / len(x)) for x in (task.support_x, task.query_x))
    at_a = torch.linalg.solve(a, task.support_x.T @ task.support_y[:, 0] / 12)
    at_b = torch.linalg.solve(b, task.query_x.T @ task.query_y[:, 0] / 12)
    theta, errors = model.weight.detach()[0], {}
    for steps, lr in ((1, 0.1), (3, 0.1), (3, 0.02), (3, 0.01)):
        learner = MAML(model, lr, steps, loss=half_squares)
        p = torch.linalg.matrix_power(torch.eye(4) - lr * a, steps)
        end = at_a + p @ (theta - at_a)
        gradient = p.T @ b @ (end - at_b)
        found = gradient_scores(learner, [task], kind="meta_taylor")["weight"][0]
        torch.testing.assert_close(found, (theta * gradient).abs(), rtol=1e-10, atol=1e-13)

        def after(flat, steps=steps, lr=lr):
            params = {"weight": flat.view(1, 4)}
            return bilevel_loss(
                model, params, task, lr=lambda k, n: lr, steps=steps, loss=half_squares
            )

        exact = hessian(after, theta.clone())
        torch.testing.assert_close(exact, p.T @ b @ p, rtol=1e-10, atol=1e-12)
        gram = layer_hessians(learner, [task], data="query")[""].gram
        torch.testing.assert_close(gram, b)
        errors[steps, lr] = (exact - gram).norm().item()
    assert errors[3, 0.02] / errors[3, 0.01] == pytest.approx(2, rel=0.1)
    assert errors[3, 0.01] / 0.01 > 2 * errors[1, 0.1] / 0.1 > 0


def test_magnitudes_are_squares_and_random_scores_depend_on_the_seed_alone():
    learner = MAML(mlp(), LR, 1)
    found = magnitude_scores(learner)
    for name, p in learner.model.named_parameters():
        assert torch.equal(found[name], p.detach() ** 2)
    one, same, other = (random_scores(learner, seed=s) for s in (1, 1, 2))
    assert list(one) == list(full_masks(learner)) == list(found)
    for name, score in one.items():
        assert torch.equal(score, same[name]) and not torch.equal(score, other[name])
        assert score.dtype == torch.float64 and 0 <= score.min() <= score.max() < 1
    assert list(random_scores(learner, layers=["2"])) == ["2.weight", "2.bias"]


def test_bad_arguments_are_refused():
    learner, batch = MAML(mlp(), LR, 1), vectors()
    with pytest.raises(ValueError, match=r"kind must be one of 'snip', .*, got 'grasp'"):
        gradient_scores(learner, batch, kind="grasp")
    with pytest.raises(ValueError, match="at least one task, got none"):
        gradient_scores(learner, [])
    with pytest.raises(ValueError, match="names '1', which cannot be pruned"):
        gradient_scores(learner, batch, layers=["1"])
    with torch.no_grad():
        learner.model[2].bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"meta_snip score of 0\.weight is not finite"):
        gradient_scores(learner, batch)
