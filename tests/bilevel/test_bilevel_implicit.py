"""Implicit gradients against exact solves, and against ever longer back-propagation."""

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import (
    along,
    assert_same,
    conv4,
    difference,
    images,
    mlp,
    parameters,
    seeded,
    vectors,
)
from torch import nn

from metalearn_tut.bilevel import (
    conjugate_gradient,
    hessian_product,
    implicit_gradients,
    inner_loop,
    meta_gradient,
    neumann,
    parameters_of,
    task_gradients,
)
from metalearn_tut.tasks import TaskBatch

PULL = 0.5


def system(n=6, seed=0):
    """A symmetric positive definite matrix with eigenvalues 0.5 .. 2, and a right-hand side."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    a = q @ torch.diag(torch.linspace(0.5, 2.0, n, dtype=torch.float64)) @ q.T
    return a, torch.randn(n, generator=generator, dtype=torch.float64)


def split(v):
    """One vector as a dictionary of two tensors."""
    return {"u": v[:4].view(2, 2), "v": v[4:]}


def joined(d):
    return torch.cat([t.flatten() for t in d.values()])


def product(a):
    return lambda d: split(a @ joined(d))


# The solvers


def test_conjugate_gradients_solve_n_unknowns_in_n_steps_and_not_before():
    a, b = system()
    exact = torch.linalg.solve(a, b)
    errors = [
        (joined(conjugate_gradient(product(a), split(b), steps=k)) - exact).norm().item()
        for k in range(7)
    ]
    assert errors[6] < 1e-12 < 1e-4 < errors[5]
    assert errors == sorted(errors, reverse=True)


def test_conjugate_gradients_stop_at_the_tolerance():
    a, b = system()
    calls = []
    found = conjugate_gradient(
        lambda d: calls.append(1) or product(a)(d), split(b), steps=100, tol=0.05
    )
    residual = (a @ joined(found) - b).norm() / b.norm()
    assert residual <= 0.05
    assert len(calls) < 6
    nothing = conjugate_gradient(product(a), split(0 * b))
    assert joined(nothing).abs().sum() == 0


def test_conjugate_gradients_stop_before_a_direction_of_negative_curvature():
    a, b = system()
    assert joined(conjugate_gradient(product(-a), split(b))).abs().sum() == 0
    mixed = torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0, 0.5, -1.0], dtype=torch.float64))
    ones = torch.ones(6, dtype=torch.float64)
    found = joined(conjugate_gradient(product(mixed), split(ones)))
    assert torch.isfinite(found).all()
    assert found @ ones > 0  # still a descent direction


def test_conjugate_gradients_stop_before_a_direction_without_curvature():
    a, b = system()
    assert joined(conjugate_gradient(product(0 * a), split(b))).abs().sum() == 0
    flat = torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64))
    last = torch.eye(6, dtype=torch.float64)[5]
    assert joined(conjugate_gradient(product(flat), split(last))).abs().sum() == 0


def test_the_neumann_sum_is_the_series_written_out():
    a, b = system()
    for steps in (0, 1, 5):
        step = torch.eye(6, dtype=torch.float64) - 0.4 * a
        series = sum(torch.linalg.matrix_power(step, j) for j in range(steps + 1))
        found = joined(neumann(product(a), split(b), steps=steps, rate=0.4))
        torch.testing.assert_close(found, 0.4 * series @ b, rtol=1e-13, atol=0)


def test_the_neumann_sum_converges_by_its_largest_factor_to_the_solution():
    a, b = system()
    exact = torch.linalg.solve(a, b)
    errors = [
        (joined(neumann(product(a), split(b), steps=k, rate=0.4)) - exact).norm().item()
        for k in (100, 101, 140)
    ]
    assert errors[1] / errors[0] == pytest.approx(1 - 0.4 * 0.5, rel=1e-6)
    assert errors[2] < 1e-12


def test_hessian_products_are_those_of_the_hessian():
    generator = torch.Generator().manual_seed(0)
    at = {
        "u": torch.randn(2, 2, generator=generator, dtype=torch.float64),
        "idle": torch.ones(1, dtype=torch.float64),
        "v": torch.randn(3, generator=generator, dtype=torch.float64),
    }

    def loss(p):
        return (torch.tanh(p["u"]).sum() * p["v"].pow(3)).sum() + p["u"].pow(4).sum()

    hessian = torch.autograd.functional.hessian(
        lambda x: loss({"u": x[:4].view(2, 2), "v": x[4:]}), joined({"u": at["u"], "v": at["v"]})
    )
    v = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in at.items()}
    times = hessian_product(loss, at)
    for _ in range(2):  # the graph serves again
        found = times(v)
        expected = hessian @ joined({"u": v["u"], "v": v["v"]})
        torch.testing.assert_close(
            joined({"u": found["u"], "v": found["v"]}), expected, rtol=1e-12, atol=1e-12
        )
        assert found["idle"].item() == 0


# The quadratic inner problem: a linear model with a squared error


def linear():
    return seeded(lambda: nn.Sequential(nn.Linear(5, 2)))


def regression(tasks=2):
    batch = vectors(tasks=tasks, shots=4)
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(tasks, 21, 2, generator=generator, dtype=torch.float64)
    return TaskBatch(batch.support_x, y[:, :12], batch.query_x, y[:, 12:])


def with_ones(x):
    return torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)


def exact(model, task):
    """The meta-gradient at the solution, by dense linear algebra; columns are outputs.

    The support loss is |X Phi - Y|^2 / n, its Hessian (2 / n) X'X for each output alike.
    """
    theta = torch.cat([model[0].weight.T, model[0].bias.unsqueeze(0)]).detach()  # [6, 2]
    x, n = with_ones(task.support_x), task.support_y.numel()
    h = 2 / n * x.T @ x
    matrix = h + PULL * torch.eye(6, dtype=torch.float64)
    phi = torch.linalg.solve(matrix, 2 / n * x.T @ task.support_y + PULL * theta)
    q = with_ones(task.query_x)
    slope = 2 / task.query_y.numel() * q.T @ (q @ phi - task.query_y)
    found = PULL * torch.linalg.solve(matrix, slope)
    return {"0.weight": found[:5].T, "0.bias": found[5]}


SETTINGS = {"inner_lr": 0.5, "loss": F.mse_loss, "prox_weight": PULL}


@pytest.mark.parametrize(("solver", "solver_steps"), [("cg", 12), ("neumann", 150)])
def test_it_is_the_exact_solve(solver, solver_steps):
    model, batch = linear(), regression()
    found = meta_gradient(
        model,
        batch,
        inner_steps=150,
        engine="implicit",
        solver=solver,
        solver_steps=solver_steps,
        **SETTINGS,
    )
    singles = [exact(model, task) for task in batch]
    assert_same(found, {n: (singles[0][n] + singles[1][n]) / 2 for n in found}, rtol=1e-10)


def test_one_solver_step_is_one_step_of_conjugate_gradients():
    """From zero along the slope v, as far as is best: ``(v'v / v'Av) v``."""
    model, task = linear(), regression(tasks=1)[0]
    settings = {"inner_steps": 150, "engine": "implicit", **SETTINGS}
    found = meta_gradient(model, task, solver_steps=1, **settings)
    x, n = with_ones(task.support_x), task.support_y.numel()
    matrix = 2 / n * x.T @ x + PULL * torch.eye(6, dtype=torch.float64)
    goal = exact(model, task)
    wanted = torch.cat([goal["0.weight"].T, goal["0.bias"].unsqueeze(0)])
    v = matrix @ wanted / PULL
    wanted = PULL * v * (v * v).sum() / (v * (matrix @ v)).sum()
    assert_same(found, {"0.weight": wanted[:5].T, "0.bias": wanted[5]}, rtol=1e-10)


def test_unrolled_gradients_approach_it_geometrically():
    """By the largest factor 1 - lr (h + prox_weight) a step; on the way the end moves as well."""
    model, task = linear(), regression(tasks=1)[0]
    goal = exact(model, task)

    def error(steps):
        found = meta_gradient(model, task, inner_steps=steps, **SETTINGS)
        return sum((found[n] - goal[n]).square().sum() for n in goal).sqrt().item()

    x = with_ones(task.support_x)
    h = torch.linalg.eigvalsh(2 / task.support_y.numel() * x.T @ x)
    factor = (1 - SETTINGS["inner_lr"] * (h + PULL)).abs().max().item()
    errors = {steps: error(steps) for steps in (5, 10, 20, 40, 41)}
    assert errors[5] > errors[10] > errors[20] > errors[40] > 1e-9
    assert errors[41] / errors[40] == pytest.approx(factor, rel=0.05)
    assert error(200) < 1e-12


def fixed_point(model, task):
    """An inner solution of the pulled problem, far beyond rounding."""
    theta = parameters(model)

    def loss(p):
        outputs = torch.func.functional_call(model, p, (task.support_x,))
        return F.cross_entropy(outputs, task.support_y)

    with torch.no_grad():
        phi = inner_loop(loss, theta, steps=300, lr=0.4, prox_weight=PULL)
    return theta, phi, loss


def test_neumann_at_the_inner_rate_is_truncated_back_propagation_at_the_solution():
    """j terms beyond the first are j + 1 steps that start, and stay, at the solution."""
    model, task = mlp(), vectors(tasks=1)[0]
    theta, phi, loss = fixed_point(model, task)
    for terms in (0, 1, 4):
        here = {n: p.detach().requires_grad_() for n, p in phi.items()}
        start, current = theta, here
        for _ in range(terms + 1):
            grads = torch.autograd.grad(loss(current), list(current.values()), create_graph=True)
            current = {
                n: p - 0.4 * (g + PULL * (p - start[n]))
                for (n, p), g in zip(current.items(), grads, strict=True)
            }
        outputs = torch.func.functional_call(model, current, (task.query_x,))
        value = F.cross_entropy(outputs, task.query_y)
        grads = torch.autograd.grad(value, list(start.values()))
        found = meta_gradient(
            model,
            task,
            inner_lr=0.4,
            inner_steps=300,
            engine="implicit",
            solver="neumann",
            solver_steps=terms,
            prox_weight=PULL,
        )
        assert_same(found, dict(zip(theta, grads, strict=True)), rtol=1e-8)


def test_a_network_that_is_not_quadratic_by_finite_differences_of_its_solution():
    model, task = mlp(), vectors(tasks=1)[0]

    def at_solution(theta):
        def loss(p):
            outputs = torch.func.functional_call(model, p, (task.support_x,))
            return F.cross_entropy(outputs, task.support_y)

        with torch.no_grad():
            phi = inner_loop(loss, theta, steps=300, lr=0.4, prox_weight=PULL)
            outputs = torch.func.functional_call(model, phi, (task.query_x,))
            return F.cross_entropy(outputs, task.query_y)

    expected, direction = difference(at_solution, parameters(model))
    found = meta_gradient(
        model,
        task,
        inner_lr=0.4,
        inner_steps=300,
        engine="implicit",
        prox_weight=PULL,
        solver_steps=80,
    )
    assert along(found, direction) == pytest.approx(expected, rel=1e-6)


def test_support_statistics_normalize_the_query_set():
    """The query loss is that of the unrolled engines, in the model's own mode."""
    model, batch = conv4("support"), images()
    settings = {"steps": 3, "prox_weight": 1.0}
    results = [
        task_gradients(
            model, batch, parameters_of(model), lambda p: (p, 0.1), engine=engine, **settings
        )
        for engine in ("implicit", "functional")
    ]
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-10, atol=0)
    torch.testing.assert_close(results[0].outputs, results[1].outputs, rtol=1e-9, atol=1e-10)


# What is refused


BAD = {
    "no pull": (
        {"prox_weight": 0.0},
        r"engine='implicit' needs prox_weight > 0 \(iMAML's lambda\), got 0.0",
    ),
    "solver": ({"solver": "lu"}, r"solver must be one of 'cg', 'neumann', got 'lu'"),
    "rates": (
        {"solver": "neumann", "inner_lr": [0.1]},
        r"solver='neumann' needs one number as inner_lr",
    ),
    "nothing stepped": ({"groups": []}, r"engine='implicit' needs groups with at least one"),
    "groups of nothing": ({"groups": [[], []]}, r"engine='implicit' needs groups with at least"),
    "no such group": ({"groups": [["2.wide"]]}, r"groups names no parameter of the model: 2.wide"),
    "solver_steps": ({"solver_steps": 2.5}, r"solver_steps must be an integer >= 0, got 2.5"),
    "no number": ({"solver_steps": True}, r"solver_steps must be an integer >= 0, got True"),
    "first_order": ({"first_order": True}, r"engine='implicit' does not take first_order"),
    "step_weights": ({"step_weights": [1.0]}, r"engine='implicit' does not take step_weights"),
    "recompute": ({"recompute": True}, r"engine='implicit' does not take recompute"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_it_cannot_do_is_refused(name):
    settings, message = BAD[name]
    settings = {"inner_lr": 0.1, "prox_weight": PULL, **settings}
    with pytest.raises(ValueError, match=message) as caught:
        meta_gradient(mlp(), vectors(), inner_steps=1, engine="implicit", **settings)
    assert "\n" not in str(caught.value)


def test_the_function_behind_the_engine():
    """Meta-parameters that the inner loop does not start from have no gradient."""
    model, batch = linear(), regression()
    metas = {**parameters(model), "other": torch.ones(2, 3).double()}

    def start(metas):
        return {n: p for n, p in metas.items() if n != "other"}, 0.5

    found = implicit_gradients(
        model, batch, metas, start, steps=150, prox_weight=PULL, loss=F.mse_loss, solver_steps=12
    )
    assert found.losses.shape == (2,)
    assert found.outputs.shape == (2, 9, 2)
    assert found.gradients["other"].abs().sum() == 0
    for i, task in enumerate(batch):
        assert_same({n: found.gradients[n][i] for n in ("0.weight", "0.bias")}, exact(model, task))
