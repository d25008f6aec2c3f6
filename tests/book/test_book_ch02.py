"""Chapter 2's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
from types import SimpleNamespace

import book_tools
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def doubled(batch):
    parts = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    return tasks.TaskBatch(*(part.double() for part in parts))


# The functions against the modules


def given(task):
    return SimpleNamespace(
        support_x=task.support_x,
        support_y=task.support_y,
        query_x=task.query_x,
        query_y=task.query_y,
    )


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_functional_loop_is_the_module(chapter, steps, first_order):
    model, task = network((3, 6), (6, 4)), regression(2)[1]
    params = dict(model.named_parameters())
    inner = {"lr": 0.07, "steps": steps, "first_order": first_order}
    loss = chapter.task_loss(model, params, given(task), F.mse_loss, **inner)
    slopes = torch.autograd.grad(loss, list(params.values()))
    settings = {"inner_lr": 0.07, "inner_steps": steps, "first_order": first_order}
    right = bilevel.meta_gradient(model, task, loss=F.mse_loss, **settings)
    close(dict(zip(params, slopes, strict=True)), right)


@pytest.mark.parametrize("steps", [0, 3])
def test_adapting_is_the_modules(chapter, steps):
    model, task = network((3, 6), (6, 4)), regression(2)[0]
    start = dict(model.named_parameters())
    x, y = task.support_x, task.support_y
    mine = chapter.adapt(model, start, x, y, F.mse_loss, lr=0.1, steps=steps)
    right = bilevel.adapt(model, x, y, inner_lr=0.1, inner_steps=steps, loss=F.mse_loss)
    close(mine, right)


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


@pytest.mark.parametrize(("steps", "tasks_per_step"), [(1, 1), (4, 3)])
def test_the_outer_loop_is_meta_train(chapter, steps, tasks_per_step):
    model = chapter.wave_network(width=5, seed=2).double()
    learner = MAML(copy.deepcopy(model), 0.03, 2, loss=F.mse_loss)
    sampler = tasks.sinusoid(shots=4, queries=6, seed=8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        batch = [chapter.in_double(task) for task in sampler.batch(step, tasks_per_step)]
        chapter.meta_step(model, optimizer, batch, F.mse_loss, lr=0.03, steps=2)
    run = {"steps": steps, "tasks_per_step": tasks_per_step, "outer_lr": 3e-3}
    meta_train(learner, sampler, **run, schedule="constant", progress=False)
    close(dict(model.named_parameters()), learner.meta_parameters(), atol=1e-9)


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
    batch = doubled(tasks.sinusoid(shots=6, queries=4, seed=5).batch(0, 3))
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


def test_the_outer_path_ends_at_a_minimum(chapter):
    batch = tasks.sinusoid(seed=6).batch(0, 200)
    for steps in (0, 3):
        path = chapter.outer_path(batch, steps)
        assert len(path) == 151 and path[0].tolist() == [1.0, 1.0]
        moves = torch.tensor([[0.0, 0.0], [0.2, 0.0], [-0.2, 0.0], [0.0, 0.2], [0.0, -0.2]])
        near = (path[-1].detach() + moves).requires_grad_()
        assert chapter.descend(near, batch, 0.1, steps)[1].mean(1).argmin() == 0


def test_wave_losses_are_mean_squares(chapter):
    theta = torch.tensor([[[1.0, 0.5], [2.0, -1.0]]] * 3)  # [3, T, 2]
    x, y = (torch.randn(2, 5, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    found = chapter.wave_loss(theta, x, y)
    assert found.shape == (3, 2)
    for i, (height, phase) in enumerate(theta[0].tolist()):
        right = np.mean((height * np.sin(x[i].numpy() - phase) - y[i].numpy()) ** 2)
        assert found[:, i].tolist() == pytest.approx([right] * 3, rel=1e-5)


def test_errors_after_adaptation_are_those_of_evaluate(chapter):
    model = chapter.wave_network(width=6, seed=1)
    learner = MAML(model, 0.02, 4, loss=F.mse_loss)
    right = evaluation.evaluate(learner, tasks.sinusoid(seed=1), 20, metric=F.mse_loss)
    found = chapter.errors(model, 4, count=20).double()
    torch.testing.assert_close(found, right.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 2])
def test_the_angle_is_that_of_the_two_orders(chapter, steps):
    net, many = network((3, 6), (6, 4)), regression(3)
    rows = []
    for first_order in (False, True):
        settings = {"inner_lr": 0.02, "inner_steps": steps, "first_order": first_order}
        g = bilevel.meta_gradient(net, many, loss=F.mse_loss, **settings)
        rows.append(np.concatenate([v.detach().numpy().ravel() for v in g.values()]))
    full, first = rows
    cosine = min(1.0, full @ first / (np.linalg.norm(full) * np.linalg.norm(first)))
    right = np.degrees(np.arccos(cosine))
    assert chapter.angle(net, many, steps) == pytest.approx(right, abs=1e-5)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("settings", [{"steps": 3}, {"steps": 0}, {"steps": 3, "first": True}])
def test_training_on_waves_is_meta_train(settings):
    space = book_tools.run(CHAPTER, plant=("range(250)", "range(4)"))
    first_order = settings.get("first", False)
    found = space["train_on_waves"](2, settings["steps"], first_order)
    options = {"loss": F.mse_loss, "first_order": first_order}
    learner = MAML(space["wave_network"](seed=2), 0.02, settings["steps"], **options)
    run = {"steps": 4, "tasks_per_step": 8, "outer_lr": 1e-2, "schedule": "constant"}
    meta_train(learner, tasks.sinusoid(seed=12), **run, progress=False)
    right = dict(learner.model.named_parameters())
    close(dict(found.named_parameters()), right, rtol=1e-3, atol=1e-4)


def test_a_block_by_hand_is_the_packages(chapter):
    """The layers of Conv4 in training: the same output, and autograd's gradients."""
    torch.manual_seed(0)
    model = models.Conv4(3, ways=2, width=4, norm="batch", image_size=16).double()
    block, x = model.blocks[0], torch.randn(6, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    nn.init.normal_(block.norm.weight)
    right = block(x)
    w, gamma, beta = block.conv.weight, block.norm.weight, block.norm.bias
    flat = [p.detach().view(1, -1, 1, 1) for p in (gamma, beta)]
    out, remembered = chapter.block_forward(x.detach(), w.detach(), *flat)
    torch.testing.assert_close(out, right)
    upstream = torch.randn_like(out)
    found = chapter.block_backward(upstream, *remembered)
    for mine, p in zip(found, (x, w, gamma, beta), strict=True):
        (slope,) = torch.autograd.grad(right, p, upstream, retain_graph=True)
        torch.testing.assert_close(mine.view_as(slope), slope)


def test_pixels_are_the_nearest_image(chapter):
    generator = torch.Generator().manual_seed(0)
    x, query = (torch.randint(256, (n, 1, 3, 3), generator=generator).byte() for n in (4, 9))
    labels = torch.tensor([2, 0, 3, 1])
    scores = chapter.Pixels().adapt(x, labels)(query)
    for image, score in zip(query.double(), scores, strict=True):
        distances = (x.double() - image).square().sum((1, 2, 3))
        assert score.argmax() == labels[distances.argmin()]


def test_the_checks_take_the_loss_that_the_chapter_has(chapter):
    small, one = network((3, 6), (6, 4)), regression(1)[0]
    space = book_tools.run(CHAPTER, small=small, one=given(one))
    params = dict(small.named_parameters())
    settings = {"inner_lr": 0.02, "inner_steps": 2, "loss": F.mse_loss}
    close(space["slopes_at"](params, 2), bilevel.meta_gradient(small, one, **settings))
    outputs = bilevel.functional(small)(params, one.query_x)
    torch.testing.assert_close(space["loss_at"](params, 0), F.mse_loss(outputs, one.query_y))


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare; the sentences of the last cell are checked where the chapter runs."""
    given = {"SEED": 0, "waves": WAVES}
    space = book_tools.run(CHAPTER, *(c for c in cells if c != "checked"), plant=plant, **given)
    if "checked" in cells:
        made = book_tools.code_cells(CHAPTER)["checked"]
        compared = made[: made.index("\nassert ")]
        exec(compared if plant is None else compared.replace(*plant), space)
    return space


COMPARING = {
    "on paper": ["scalar"],
    "gradient of x": ["block-run"],
    "gradient of w": ["block-run"],
    "gradient of gamma": ["block-run"],
    "gradient of beta": ["block-run"],
    "functional loop": ["checked"],
    "higher": ["checked"],
    "slope in one direction": ["checked"],
    "outer step": ["checked"],
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("on paper", ("w3 = a + (w - a) * (1 - alpha) ** 3", "w3 = a + (w - a) * (1 - alpha)")),
        ("on paper", ("end, create_graph=keep)", "end, create_graph=True)")),
        ("gradient of x", ("F.conv_transpose2d(g, w,", "F.conv_transpose2d(g, w.flip(3),")),
        ("gradient of x", ("F.max_unpool2d(g * (p > 0), where, 2)", "F.max_unpool2d(g, where, 2)")),
        ("gradient of x", (" - n * along.mean(over, keepdim=True)", "")),
        ("gradient of w", ("by_x, by_w.transpose(0, 1)", "by_x, -by_w.transpose(0, 1)")),
        ("gradient of gamma", ("for v in (g, g * n))", "for v in (g, g * p.mean()))")),
        ("gradient of beta", ("for v in (g, g * n))", "for v in (2 * g, g * n))")),
        ("functional loop", ("create_graph=not first_order", "create_graph=False")),
        ("functional loop", ("p - lr * slope for", "p - lr * slope.detach() for")),
        ("higher", ("inner.step(loss(fast(task.support_x), task.support_y))",
                    "inner.step(loss(fast(task.query_x), task.query_y))")),
        ("slope in one direction", ("(high - low) / 2e-6", "(high - low) / 1e-6")),
        ("outer step", ("torch.stack(losses).mean().backward()",
                        "torch.stack(losses)[1:].mean().backward()")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{name}"):
        run(*COMPARING[name], plant=plant)
