"""The inner loop against closed forms: the scalar quadratic knows every answer."""

import pytest
import torch
from bilevel_cases import LiveBytes, assert_same, bilevel_loss, mlp, parameters, vectors

from metalearn_tut import bilevel
from metalearn_tut.bilevel import inner_loop, inner_path

W, A, B, LR = 0.7, 1.3, -0.4, 0.1


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def support(p):
    return (p["w"] - A) ** 2 / 2


def query(p):
    return (p["w"] - B) ** 2 / 2


def meta_gradient(steps, **settings):
    w = scalar(W)
    end = inner_loop(support, {"w": w}, steps=steps, **{"lr": LR, **settings})
    return torch.autograd.grad(query(end), w)[0].item()


# The scalar quadratic


def test_the_path_shrinks_the_distance_to_the_minimum_by_one_factor_a_step():
    reached = [p["w"].item() for p in inner_path(support, {"w": scalar(W)}, steps=5, lr=LR)]
    assert reached == pytest.approx([A + (W - A) * (1 - LR) ** k for k in range(1, 6)], rel=1e-14)


@pytest.mark.parametrize(("steps", "second", "first"), [(1, 1.044, 1.160), (3, 0.9204354, 1.2626)])
def test_the_meta_gradient_is_the_query_slope_times_the_shrinking(steps, second, first):
    slope = A + (W - A) * (1 - LR) ** steps - B
    assert meta_gradient(steps) == pytest.approx(slope * (1 - LR) ** steps, rel=1e-14)
    assert meta_gradient(steps) == pytest.approx(second, abs=1e-12)
    assert meta_gradient(steps, first_order=True) == pytest.approx(slope, rel=1e-14)
    assert meta_gradient(steps, first_order=True) == pytest.approx(first, abs=1e-12)


def test_no_step_returns_the_start_itself():
    w = scalar(W)
    assert inner_loop(support, {"w": w}, steps=0, lr=LR)["w"] is w
    assert list(inner_path(support, {"w": w}, steps=0, lr=LR)) == []


def test_the_pull_leads_to_the_minimum_of_the_pulled_problem():
    prox_weight, steps = 0.5, 4
    goal, factor = (A + prox_weight * W) / (1 + prox_weight), 1 - LR * (1 + prox_weight)
    w = scalar(W)
    end = inner_loop(support, {"w": w}, steps=steps, lr=LR, prox_weight=prox_weight)["w"]
    assert end.item() == pytest.approx(goal + (W - goal) * factor**steps, rel=1e-14)
    # the start moves the goal too: d goal / d w = prox_weight / (1 + prox_weight)
    share = prox_weight / (1 + prox_weight)
    slope = share + (1 - share) * factor**steps
    assert torch.autograd.grad(end, w)[0].item() == pytest.approx(slope, rel=1e-14)


@pytest.mark.parametrize("prox_weight", [0.0, 0.5])
@pytest.mark.parametrize("first_order", [False, True])
def test_a_learned_rate_gets_its_gradient(first_order, prox_weight):
    lr, steps, settings = scalar(LR), 3, {"first_order": first_order, "prox_weight": prox_weight}
    end = inner_loop(support, {"w": scalar(W)}, steps=steps, lr=lr, **settings)["w"]
    goal, factor = (A + prox_weight * W) / (1 + prox_weight), 1 - LR * (1 + prox_weight)
    if first_order:  # directions are constants: minus their sum
        expected = -sum((1 + prox_weight) * (W - goal) * factor**k for k in range(steps))
    else:
        expected = -(1 + prox_weight) * (W - goal) * steps * factor ** (steps - 1)
    assert torch.autograd.grad(end, lr)[0].item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("form", [list, torch.tensor, lambda rates: [{"w": r} for r in rates]])
def test_one_rate_per_step(form):
    rates = [0.1, 0.3, 0.2]
    end = inner_loop(support, {"w": scalar(W)}, steps=3, lr=form(rates))["w"].item()
    assert end == pytest.approx(A + (W - A) * 0.9 * 0.7 * 0.8, rel=1e-7)  # 1-D tensor is float32


def test_one_rate_per_parameter_and_per_weight():
    goal = torch.tensor([1.0, 2.0], dtype=torch.float64)
    params = {"u": torch.zeros(2).double(), "v": torch.zeros(2).double()}
    rates = {"u": 0.5, "v": torch.tensor([0.25, 1.0], dtype=torch.float64)}
    end = inner_loop(
        lambda p: sum(((x - goal) ** 2).sum() / 2 for x in p.values()), params, steps=2, lr=rates
    )
    assert end["u"].tolist() == pytest.approx([0.75 * 1, 0.75 * 2])
    assert end["v"].tolist() == pytest.approx([(1 - 0.75**2) * 1, 2.0])


# Groups


def product(p):
    return (p["u"] * p["v"] - 1) ** 2 / 2


def test_groups_step_one_after_the_other_at_the_newest_values():
    u, v = scalar(0.5), scalar(0.8)

    def by_hand(a, b, lr=0.2):
        a = a - lr * (a * b - 1) * b
        return a, b - lr * (a * b - 1) * a

    together = inner_loop(product, {"u": u, "v": v}, steps=1, lr=0.2)
    for order, (first, second) in (("uv", (u, v)), ("vu", (v, u))):
        end = inner_loop(product, {"u": u, "v": v}, steps=2, lr=0.2, groups=list(order))
        expected = by_hand(*by_hand(first, second))
        for name, wanted in zip(order, expected, strict=True):
            assert end[name].item() == pytest.approx(wanted.item(), rel=1e-14)
            for leaf in (u, v):  # and so do the derivatives
                slope, right = (
                    torch.autograd.grad(x, leaf, retain_graph=True)[0].item()
                    for x in (end[name], wanted)
                )
                assert slope == pytest.approx(right, rel=1e-13)
        once = inner_loop(product, {"u": u, "v": v}, steps=1, lr=0.2, groups=list(order))
        assert once[order[0]].item() == together[order[0]].item()
        assert abs(once[order[1]].item() - together[order[1]].item()) > 1e-3


def test_what_is_in_no_group_is_not_adapted():
    u, v = scalar(0.5), scalar(0.8)
    end = inner_loop(product, {"u": u, "v": v}, steps=3, lr=0.2, groups=[["v"]])
    assert end["u"] is u
    assert end["v"].item() != v.item()
    with torch.no_grad():
        end = inner_loop(product, {"u": u, "v": v}, steps=3, lr=0.2, groups=[["v"]])
    assert not end["u"].requires_grad


def test_a_parameter_that_the_loss_does_not_use_stays():
    params = {"w": scalar(W), "idle": scalar(2.0)}
    end = inner_loop(support, params, steps=2, lr=LR)
    assert end["idle"].item() == 2.0
    assert torch.autograd.grad(end["idle"], params["idle"])[0].item() == 1.0


# Masks


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64])
def test_masked_weights_are_zero_from_start_to_end_and_have_no_meta_gradient(dtype):
    torch.manual_seed(0)
    w = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    mask = (torch.arange(12).view(3, 4) % 3 > 0).to(dtype)
    x = torch.randn(6, 4, dtype=torch.float64)

    def loss(p):
        return torch.tanh(x @ p["w"].T).sum(1).pow(2).mean()

    settings = {"lr": 0.3, "masks": {"w": mask}}
    for steps in (0, 1, 4):
        end = inner_loop(loss, {"w": w}, steps=steps, **settings)["w"]
        assert end.dtype == torch.float64
        assert torch.equal(end == 0, ~mask.bool())
        (slope,) = torch.autograd.grad(loss({"w": end}), w)
        assert torch.equal(slope == 0, ~mask.bool())
    for p in inner_path(loss, {"w": w}, steps=3, **settings):
        assert (p["w"][~mask.bool()] == 0).all()


# Orders, graphs, memory


def test_a_linear_inner_loss_has_no_second_order_term():
    torch.manual_seed(0)
    slope = torch.randn(5, dtype=torch.float64)
    w = torch.randn(5, dtype=torch.float64, requires_grad=True)
    grads = []
    for first_order in (False, True):
        end = inner_loop(
            lambda p: slope @ p["w"], {"w": w}, steps=3, lr=0.1, first_order=first_order
        )
        grads += torch.autograd.grad((end["w"] ** 3).sum(), w)
    assert torch.equal(*grads)


def test_inside_no_grad_the_values_are_the_same_and_no_graph_is_kept():
    w = scalar(W)
    tracked = [p["w"].item() for p in inner_path(support, {"w": w}, steps=3, lr=LR)]
    with torch.no_grad():
        free = [p["w"] for p in inner_path(support, {"w": w}, steps=3, lr=LR)]
    assert [p.item() for p in free] == tracked
    assert all(p.grad_fn is None and not p.requires_grad for p in free)
    assert w.grad is None


def test_inside_inference_mode_it_says_what_to_do():
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"use no_grad\(\)"):
        inner_loop(support, {"w": scalar(W)}, steps=1, lr=LR)


def held(steps, **settings):
    """Bytes held after the inner loop of an MLP with 200 support rows, and the meta-gradient."""
    model, task = mlp(), vectors(shots=67)[0]
    theta = parameters(model)

    def loss(p):
        outputs = torch.func.functional_call(model, p, (task.support_x,))
        return torch.nn.functional.cross_entropy(outputs, task.support_y)

    with LiveBytes() as live:
        end = inner_loop(loss, theta, steps=steps, lr=0.5, **settings)
    size = live.count()
    if not torch.is_grad_enabled():
        return size, None
    value = loss(end)
    grads = torch.autograd.grad(value, list(theta.values()))
    return size, dict(zip(theta, grads, strict=True))


@pytest.mark.parametrize("first_order", [False, True])
def test_recomputing_gives_the_same_gradient_to_the_bit(first_order):
    _, kept = held(6, first_order=first_order)
    _, again = held(6, first_order=first_order, recompute=True)
    assert all(torch.equal(kept[n], again[n]) for n in kept)


def test_recomputing_holds_the_parameters_of_each_step_and_nothing_else():
    own = sum(p.numel() * 8 for p in mlp().parameters())
    kept = held(10)[0] - held(5)[0]
    recomputed = held(10, recompute=True)[0] - held(5, recompute=True)[0]
    assert kept > 50 * recomputed
    assert recomputed == 5 * own


def test_without_gradients_memory_does_not_grow_with_steps():
    with torch.no_grad():
        assert held(20)[0] == held(2)[0]


# Against the loop written out, everything at once


@pytest.mark.parametrize("first_order", [False, True])
def test_all_settings_together(first_order):
    model, task = mlp(), vectors()[0]
    theta = parameters(model)
    names = list(theta)
    masks = {names[0]: (torch.arange(40).view(8, 5) % 2).double()}
    lr = [{n: 0.1 * (i + 1) + 0.05 * k for i, n in enumerate(names)} for k in range(3)]
    settings = {"masks": masks, "groups": [names[2:], names[:2]], "prox_weight": 0.3}
    settings["first_order"] = first_order
    grads = []
    value, _ = bilevel.query_loss(
        bilevel.functional(model), theta, task, steps=3, lr=lr, **settings
    )
    expected = bilevel_loss(model, theta, task, steps=3, lr=lambda k, n: lr[k][n], **settings)
    for loss in (value, expected):
        grads.append(dict(zip(names, torch.autograd.grad(loss, list(theta.values())), strict=True)))
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert_same(*grads)
