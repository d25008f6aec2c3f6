"""Chapter 2's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
from types import SimpleNamespace

import book_tools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad

from metalearn_tut import bilevel, models, tasks
from metalearn_tut.evaluation import accuracy as evaluation
from metalearn_tut.learners.maml import MAML
from metalearn_tut.training.loop import meta_train

CHAPTER = "02_bilevel_maml"
WAVES = tasks.sinusoid(shots=10, queries=10, seed=0)


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


def close(mine, right, rtol=1e-10, atol=1e-12):
    assert mine.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(mine[name], right[name], rtol=rtol, atol=atol)


def network(*widths, seed=3):
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(i, o), nn.Softplus()) for i, o in zip(*widths, strict=True)]
    return nn.Sequential(*layers, nn.Linear(widths[1][-1], 2)).double()


def regression(tasks_, seed=4):
    """Tasks with three inputs and two outputs, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((5, 3), (5, 2), (7, 3), (7, 2))
    parts = (torch.randn(tasks_, *s, generator=generator, dtype=torch.float64) for s in sizes)
    return tasks.TaskBatch(*parts)


# The functions against the modules


@pytest.mark.parametrize("k", [0, 1, 2, 7])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.7])
def test_the_scalar_gradient_is_that_of_the_inner_loop(chapter, k, alpha):
    w = torch.tensor(-0.8, dtype=torch.float64, requires_grad=True)
    settings = {"steps": k, "lr": alpha}
    for first_order, mine in zip(
        (False, True), chapter.scalar_gradient(-0.8, 0.4, 1.9, alpha, k), strict=True
    ):
        end = bilevel.inner_loop(
            lambda p: (p["w"] - 0.4) ** 2 / 2, {"w": w}, first_order=first_order, **settings
        )
        (right,) = torch.autograd.grad((end["w"] - 1.9) ** 2 / 2, w)
        assert mine == pytest.approx(right.item(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_loop_with_higher_is_the_module_on_regression(chapter, steps):
    model, batch = network((3, 6), (6, 4)), regression(3)
    mine = chapter.gradient_with_higher(model, batch, F.mse_loss, 0.07, steps)
    right = bilevel.meta_gradient(model, batch, loss=F.mse_loss, inner_lr=0.07, inner_steps=steps)
    close(mine, right)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_the_loop_with_higher_is_the_module_on_images(chapter, norm):
    torch.manual_seed(0)
    model = models.Conv4(1, ways=3, width=4, norm=norm, image_size=16).double()
    x = torch.rand(60, 1, 16, 16, dtype=torch.float64)
    batch = tasks.from_arrays(x, torch.arange(60) % 3).sampler(3, 1, 2).batch(0, 2)
    nn.init.normal_(model.head.weight)
    mine = chapter.gradient_with_higher(model, batch, F.cross_entropy, 0.2, 2)
    close(mine, bilevel.meta_gradient(model, batch, inner_lr=0.2, inner_steps=2))


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_functions_are_the_module(chapter, steps):
    model, batch = network((3, 6), (6, 4)), regression(3)
    inner = {"inner_lr": 0.07, "inner_steps": steps}
    theta = {n: p.detach() for n, p in model.named_parameters()}
    right = bilevel.meta_gradient(model, batch, loss=F.mse_loss, **inner)
    close(grad(chapter.meta_loss)(theta, model, batch, **inner), right)
    by_differences = chapter.by_differences(theta, model, batch, **inner)
    close(by_differences, right, rtol=1e-6, atol=1e-8)
    one = (batch.support_x[1], batch.support_y[1], batch.query_x[1], batch.query_y[1])
    alone = bilevel.meta_gradient(model, batch[1], loss=F.mse_loss, **inner)
    close(grad(chapter.task_loss)(theta, model, one, **inner), alone)


def test_the_implicit_gradient_is_the_module(chapter):
    model, batch = network((3, 6), (6, 4)), regression(3)
    inner = {"inner_lr": 0.1, "inner_steps": 200, "prox_weight": 4.0}
    right = bilevel.meta_gradient(model, batch, loss=F.mse_loss, engine="implicit", **inner)
    mine = chapter.implicit_gradient(model, batch, **inner)
    close(mine, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("steps", "tasks_per_step"), [(1, 1), (4, 3)])
def test_the_outer_loop_is_meta_train(chapter, steps, tasks_per_step):
    model = chapter.wave_network(width=5, seed=2).double()
    learner = MAML(copy.deepcopy(model), 0.03, 2, loss=F.mse_loss)
    run = {"steps": steps, "tasks_per_step": tasks_per_step, "outer_lr": 3e-3}
    sampler = tasks.sinusoid(shots=4, queries=6, seed=8)
    mine = chapter.train_by_hand(model, sampler, **run, inner_lr=0.03, inner_steps=2)
    meta_train(learner, sampler, **run, schedule="constant", progress=False)
    close(mine, learner.meta_parameters(), atol=1e-9)


class Wave(nn.Module):
    """The two-parameter model of the mechanism, as a module."""

    def __init__(self, height, phase):
        super().__init__()
        self.height, self.phase = (
            nn.Parameter(torch.tensor(p, dtype=torch.float64)) for p in (height, phase)
        )

    def forward(self, x):
        return self.height * torch.sin(x - self.phase)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_descending_from_all_starts_is_adapting_from_each(chapter, steps):
    batch = chapter.in_double(tasks.sinusoid(shots=6, queries=4, seed=5).batch(0, 3))
    points = [[2.0, 1.0], [-0.5, 3.0]]
    starts = torch.tensor(points, dtype=torch.float64, requires_grad=True)
    path, losses = chapter.descend(starts, batch, 0.05, steps)
    slopes = torch.autograd.grad(losses.mean(1).sum(), starts)[0]
    settings = {"inner_lr": 0.05, "inner_steps": steps, "loss": F.mse_loss}
    for i, point in enumerate(points):
        model = Wave(*point)
        right = bilevel.meta_gradient(model, batch, **settings)
        torch.testing.assert_close(slopes[i], torch.stack([*right.values()]))
        for t, task in enumerate(batch):
            end = bilevel.adapt(model, task.support_x, task.support_y, **settings)
            torch.testing.assert_close(path[-1][i, t], torch.stack([*end.values()]).detach())
            outputs = bilevel.functional(model)(end, task.query_x)
            torch.testing.assert_close(losses[i, t], F.mse_loss(outputs, task.query_y))
    assert len(path) == steps + 1


def test_the_best_start_is_a_minimum(chapter):
    batch = tasks.sinusoid(seed=6).batch(0, 200)
    for steps in (0, 2):
        start = chapter.best_start(batch, 0.05, steps).detach()
        moves = torch.tensor([[0.0, 0.0], [0.2, 0.0], [-0.2, 0.0], [0.0, 0.2], [0.0, -0.2]])
        near = (start + moves).requires_grad_()
        losses = chapter.descend(near, batch, 0.05, steps)[1].mean(1)
        assert losses.argmin() == 0


def test_errors_after_adaptation_are_those_of_evaluate(chapter):
    sampler = tasks.sinusoid(shots=5, queries=6, seed=2)
    space = book_tools.run(CHAPTER, unseen=sampler.batch(0, 20))
    model = chapter.wave_network(width=6, seed=1)
    learner = MAML(model, 0.02, 4, loss=F.mse_loss)
    right = evaluation.evaluate(learner, sampler, 20, metric=F.mse_loss)
    found = space["errors_after"](model, 4).double()
    torch.testing.assert_close(found, right.values, rtol=1e-5, atol=1e-6)


def test_accuracies_tell_how_the_queries_came(chapter):
    """A learner that answers the number of images it is shown together."""

    def adapt(support_x, support_y):
        return lambda x: F.one_hot(torch.full((len(x),), len(x) % 3), 3).float()

    y = torch.tensor([0, 0, 1, 1, 2, 2])
    task = tasks.Task(torch.zeros(3, 1), torch.arange(3), torch.zeros(6, 1), y)
    found = chapter.accuracies(SimpleNamespace(adapt=adapt), task, sizes=(6, 2, 1))
    assert found == [pytest.approx(1 / 3)] * 3
    found = chapter.accuracies(SimpleNamespace(adapt=adapt), task, sizes=(4,))
    assert found == [pytest.approx(4 / 6)]  # four images answer 1, the other two 2


def test_arrays_become_images_or_an_error_says_why(chapter):
    arrays = [np.full((28, 28), v) for v in (0, 7, 255)]
    images = chapter.as_images(arrays)
    assert images.shape == (3, 1, 28, 28) and images.dtype == torch.uint8
    assert images.flatten(1).float().mean(1).tolist() == [0, 7, 255]
    with pytest.raises(ValueError, match=r"must be \[28, 28\], got \(27, 28\)"):
        chapter.as_images([np.zeros((27, 28))])


def test_the_scalar_network_and_its_loss(chapter):
    model, x = chapter.Constant(0.3), torch.zeros(4, 1, dtype=torch.float64)
    loss = chapter.half_squared(model(x), x + 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.7**2 / 2)
    assert model.w.grad.item() == pytest.approx(-0.7)


def test_the_support_loss_is_that_of_the_given_parameters(chapter):
    small, task = network((3, 6), (6, 4)), regression(2)[1]
    space = book_tools.run(CHAPTER, small=small, task=task)
    moved = {n: p.detach() + 0.1 for n, p in small.named_parameters()}
    outputs = bilevel.functional(small)(moved, task.support_x)
    right = (outputs - task.support_y).square().mean()
    torch.testing.assert_close(space["support_loss"](moved), right)


def test_wave_losses_are_mean_squares(chapter):
    theta = torch.tensor([[[1.0, 0.5], [2.0, -1.0]]] * 3)  # [3, T, 2]
    x, y = (torch.randn(2, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    found = chapter.wave_loss(theta, x, y)
    assert found.shape == (3, 2)
    for i, (height, phase) in enumerate(theta[0].tolist()):
        right = np.mean((height * np.sin(x[i].numpy() - phase) - y[i].numpy()) ** 2)
        assert found[:, i].tolist() == pytest.approx([right] * 3, rel=1e-5)


@pytest.mark.parametrize("k", [0, 2])
def test_angle_and_ratio_are_those_of_the_two_orders(k):
    net, many = network((3, 6), (6, 4)), regression(3)

    def gradient(*args, engine="functional", **settings):  # not the vectorised one
        return bilevel.meta_gradient(*args, engine="functional", loss=F.mse_loss, **settings)

    space = book_tools.run(CHAPTER, net=net, many=many, meta_gradient=gradient)
    angle, ratio = (value.item() for value in space["angle_and_ratio"](k))
    rows = []
    for first_order in (False, True):
        settings = {"inner_lr": 0.02, "inner_steps": k, "first_order": first_order}
        g = gradient(net, many, **settings)
        rows.append(np.concatenate([v.detach().numpy().ravel() for v in g.values()]))
    full, first = rows
    lengths = [np.linalg.norm(row) for row in rows]
    assert ratio == pytest.approx(lengths[1] / lengths[0])
    cosine = min(1.0, full @ first / (lengths[0] * lengths[1]))
    assert angle == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-5)


def test_glyph_tasks_are_of_their_split_and_seed(chapter):
    right = tasks.glyphs("validation").sampler(5, 1, 5, seed=7)[3]
    found = chapter.glyph_tasks("validation", 7)[3]
    assert torch.equal(found.support_x, right.support_x)
    assert torch.equal(found.query_x, right.query_x)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("settings", [{}, {"inner_steps": 0}, {"first_order": True}])
def test_training_on_waves_is_meta_train(settings):
    space = book_tools.run(CHAPTER, plant=("steps=300", "steps=4"))
    found = space["train_waves"](seed=2, **settings)
    learner = MAML(
        space["wave_network"](seed=2),
        0.02,
        settings.get("inner_steps", 3),
        loss=F.mse_loss,
        first_order=settings.get("first_order", False),
    )
    run = {"steps": 4, "tasks_per_step": 8, "outer_lr": 1.5e-2}
    meta_train(learner, tasks.sinusoid(seed=12), **run, progress=False)
    right = dict(learner.model.named_parameters())
    close(dict(found.named_parameters()), right, rtol=1e-4, atol=1e-5)


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare, with small stand-ins for what earlier cells made."""
    torch.manual_seed(0)
    learner = MAML(models.Conv4(1, 5, width=4, norm="support"), 0.4, 2, zero_head=True)
    support = torch.from_numpy(np.random.default_rng(0).integers(256, size=(5, 1, 28, 28)))
    return book_tools.run(
        CHAPTER,
        *cells,
        plant=plant,
        waves=WAVES,
        predict=learner.adapt(support.to(torch.uint8), torch.arange(5)),
        names=["star"] * 5,
        three={"inner_lr": 0.02, "inner_steps": 3},
    )


SCALAR = ["scalar", "scalar-autograd"]
UNROLLED = ["orders-exact", "compare-unrolled"]
COMPARING = {
    "1 step(s)": SCALAR,
    "3 step(s)": SCALAR,
    "autograd, 3 steps": SCALAR,
    "higher, 0 step(s)": [*SCALAR, "scalar-higher"],
    "higher, 1 step(s)": [*SCALAR, "scalar-higher"],
    "higher, 3 step(s)": [*SCALAR, "scalar-higher"],
    "full = v - lr H v": ["orders-exact"],
    "higher": UNROLLED,
    "functions, one task": UNROLLED,
    "functions, all tasks at once": UNROLLED,
    "finite differences": UNROLLED,
    "the module's engine 'higher'": UNROLLED,
    "the module's engine 'vectorised'": UNROLLED,
    "engine 'implicit'": ["orders-exact", "compare-implicit"],
    "engine 'vectorised'": ["orders-exact", "compare-implicit"],
    "after 5 outer steps": ["orders-exact", "compare-outer"],
    "what comes out": [*SCALAR, "wrong-detached"],
    "deployed": ["deploy"],
}


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("1 step(s)", ("return (w_k - b) * (1 - alpha) ** k, w_k - b", "return w_k - b, w_k - b")),
        ("1 step(s)", ("w_k = a + (w - a) * (1 - alpha) ** k", "w_k = a + (w - a) * alpha**k")),
        ("3 step(s)", ("return (w_k - b) * (1 - alpha) ** k,", "return (w_k - b) * (1 - alpha),")),
        ("autograd, 3 steps", ("2, w, create_graph=True)", "2, w)")),
        ("higher, 0 step(s)", ("query_loss = loss(", "query_loss = -loss(")),
        ("higher, 1 step(s)", ("inner.step(loss(fast(task.support_x), task.support_y))",
                               "inner.step(loss(fast(task.query_x), task.query_y))")),
        ("higher, 3 step(s)", ("for _ in range(inner_steps):\n                inner.step",
                               "for _ in range(min(inner_steps, 1)):\n                inner.step")),
        ("full = v - lr H v", ("v[n] - 0.02 * curved[n]", "v[n]")),
        ("full = v - lr H v", ("(support_loss, theta)(v)", "(support_loss, theta)(full)")),
        ("higher", ("(query_loss / len(batch)).backward()", "query_loss.backward()")),
        ("functions, one task", ("inner_lr * slopes[n] for", "inner_lr * slopes[n].detach() for")),
        ("functions, all tasks at once", ("one(*tensors).mean()", "one(*tensors)[1:].mean()")),
        ("finite differences", ("(high - low) / (2 * eps)", "(high - low) / eps")),
        ("the module's engine 'higher'", ("meta_gradient(small, batch, engine=engine, **three)",
            "meta_gradient(small, batch, engine=engine, first_order=True, **three)")),
        ("engine 'implicit'", ("(end, *support) / prox_weight", "(end, *support) * prox_weight")),
        ("engine 'implicit'", ("+ prox_weight * (end - theta)", "+ 0 * (end - theta)")),
        ("engine 'vectorised'", ("engine=engine, **pulled)",  # an unrolled loop that is too short
            "engine=engine, **pulled | {'inner_steps': 100 if engine == 'implicit' else 3})")),
        ("after 5 outer steps", ("sampler.batch(step, tasks_per_step)",
                                 "sampler.batch(0, tasks_per_step)")),
        ("what comes out", ("2, w)  # no create_graph", "2, w, create_graph=True)")),
        ("deployed", ("deployed(tasks.as_float(image))", "deployed(1 - tasks.as_float(image))")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=name.translate({ord(c): "." for c in "()+"})):
        run(*COMPARING[name], plant=plant)
