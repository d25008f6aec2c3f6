"""Chapter 3's own code: on other inputs than the chapter shows, and with errors planted."""

import re
from math import comb
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import bilevel, rank_losses, tasks
from metalearn_tut.learners.maml import MAML
from metalearn_tut.rank_losses import RankedRange
from metalearn_tut.training.loop import meta_train

CHAPTER = "03_rank_losses"
RANGES = [(0, 1), (0, 7), (2, 5), (3, 7), (6, 7)]


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER, SEED=0))


def batches(count, n=7, seed=0):
    """Positive losses ``[count, n]`` in double precision."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, n, generator=generator, dtype=torch.float64) * 3 + 0.05


# The functions against the modules


@pytest.mark.parametrize(("m", "k"), RANGES)
def test_the_ranked_range_is_the_module_with_ties_too(chapter, m, k):
    rows = [*batches(20), torch.tensor([1.0, 2, 2, 1, 2, 3, 1]).double()]
    for row in rows:
        mine, theirs = (row.clone().requires_grad_() for _ in range(2))
        values = chapter.ranked_range(mine, m, k), RankedRange(m, k)(theirs)
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)
        sum(values).backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("m", "k"), RANGES)
def test_both_forms_are_the_modules_at_any_thresholds(chapter, m, k):
    for row, (a, b) in zip(batches(20), batches(20, n=2, seed=1), strict=True):
        for mine, module in ((chapter.f1, rank_losses.difference_of_tops),
                             (chapter.f2, rank_losses.nested_hinges)):  # fmt: skip
            torch.testing.assert_close(mine(row, m, k, a, b), module(row, m, k, a, b))


class OneWeight(nn.Module):
    """A network that answers ``w`` to every input."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), 1)


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_scalar_problem_is_maml_on_a_network_of_one_weight(chapter, steps):
    a, b = batches(2, seed=steps + 5)
    zero = torch.zeros(7, 1, 1).double()
    batch = tasks.TaskBatch(zero, a.view(7, 1, 1), zero, b.view(7, 1, 1))
    loss = lambda outputs, targets: F.mse_loss(outputs, targets) / 2  # noqa: E731
    learner = MAML(OneWeight(-0.4), 0.3, steps, loss=loss)
    losses = learner.task_losses(batch).losses
    torch.testing.assert_close(chapter.scalar_losses(-0.4, a, b, 0.7**steps), losses.detach())


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_loss_of_a_task_is_the_modules(chapter, steps):
    model = chapter.wave_network(6).double()
    task = chapter.in_double(tasks.sinusoid(seed=3)[2])
    params = dict(model.named_parameters())
    value = chapter.task_loss(model, params, task, F.mse_loss, lr=0.05, steps=steps)
    slopes = torch.autograd.grad(value, list(params.values()))
    settings = {"inner_lr": 0.05, "inner_steps": steps, "loss": F.mse_loss}
    right = bilevel.meta_gradient(model, task, **settings)
    for slope, name in zip(slopes, params, strict=True):
        torch.testing.assert_close(slope, right[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("m", "k"), [(0, 5), (1, 4), (0, 2)])
def test_the_outer_step_is_meta_trains(chapter, m, k):
    mine, theirs = (chapter.wave_network(5).double() for _ in range(2))
    waves, adam = tasks.sinusoid(seed=8), torch.optim.Adam(mine.parameters(), 3e-3)
    for step in range(3):
        batch = [chapter.in_double(task) for task in waves.batch(step, 5)]
        chapter.robust_step(mine, adam, batch, F.mse_loss, m, k, lr=0.03, steps=2)
    learner = MAML(theirs, 0.03, 2, loss=F.mse_loss)
    run = {"steps": 3, "tasks_per_step": 5, "outer_lr": 3e-3, "schedule": "constant"}
    meta_train(learner, waves, aggregate=RankedRange(m, k), progress=False, **run)
    for p, q in zip(mine.parameters(), learner.meta_parameters().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)


def test_what_is_watched_is_what_the_aggregate_was_given(chapter):
    watched, plain = chapter.Watched(1, 3), RankedRange(1, 3)
    histories = []
    for aggregate in (watched, plain):
        learner = MAML(chapter.wave_network(5), 0.02, 2, loss=F.mse_loss)
        run = {"steps": 3, "tasks_per_step": 4, "progress": False}
        histories.append(meta_train(learner, tasks.sinusoid(seed=2), aggregate=aggregate, **run))
    assert histories[0].loss == histories[1].loss and watched.log == plain.log
    seen = torch.stack(watched.seen)
    assert seen.shape == (3, 4) and not seen.requires_grad
    torch.testing.assert_close(seen.mean(1), torch.tensor(histories[0].loss))


def test_training_with_the_mean_is_training_with_all_ranks():
    """The chapter's learner on its stream, shortened; another aggregate gives another one."""
    space = book_tools.run(CHAPTER, STEPS=1, BATCH=8, SEED=2)
    space["stream"] = tasks.NoisyTasks(space["characters"]("train", 3), rate=0.5)
    aggregates = (torch.mean, RankedRange(0, 8), RankedRange(4, 8))
    learners = map(space["train"], aggregates)
    plain, every, half = ([*learner.meta_parameters().values()] for learner in learners)
    assert all(torch.equal(p, q) for p, q in zip(plain, every, strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(plain, half, strict=True))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.characters(split, 3)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=5, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags
    assert mine.query_x.shape == (25, 1, 28, 28)


def test_errors_on_waves_are_those_of_the_adapted_networks():
    unseen = tasks.sinusoid(seed=4).batch(0, 6)
    space = book_tools.run(CHAPTER, unseen=unseen, SEED=1)
    trained = []
    space["meta_train"] = lambda learner, *args, **kwargs: trained.append(learner)
    errors = space["wave_errors"](torch.mean)
    for error, task in zip(errors, unseen, strict=True):
        predict = trained[0].adapt(task.support_x, task.support_y)
        torch.testing.assert_close(error, F.mse_loss(predict(task.query_x), task.query_y))


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_soft_weights_are_the_derivative_of_the_smooth_form(chapter, sharpness):
    row = batches(1)[0].requires_grad_()
    total = rank_losses.difference_of_tops(row, 2, 5, 0.8, 2.2, sharpness)
    (right,) = torch.autograd.grad(total, row)
    mine = chapter.soft_weights(row.detach(), 0.8, 2.2, sharpness)
    torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("T", "rate"), [(8, 0.5), (16, 0.5), (64, 0.5), (6, 0.3)])
def test_the_share_of_broken_tasks_follows_the_binomial_distribution(chapter, T, rate):
    """Kept and broken: X - m where positive, which is X - m plus the sound ones left out."""
    m = T // 2
    over = rate * T - m + chapter.sound_dropped(T, m, rate)
    right = sum(comb(T, x) * rate**x * (1 - rate) ** (T - x) * (x - m) for x in range(m, T + 1))
    assert over == pytest.approx(right, abs=1e-12)
    if rate == 0.5:  # the closed form of the text
        assert over / (T - m) == pytest.approx(comb(T, m) / 2 ** (T + 1), abs=1e-12)
        assert round(100 * over / (T - m)) == {8: 14, 16: 10, 64: 5}[T]


def test_shares_are_the_modules_where_they_are_whole(chapter):
    for row in batches(5, n=8):
        mine = chapter.share_weights(row, 0.25, 0.375)
        right = RankedRange(2, 5).select(row)
        torch.testing.assert_close(mine.to(right.dtype), right)


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare; the sentences of the last cell are checked where the chapter runs."""
    space = book_tools.run(CHAPTER, *(c for c in cells if c != "checked"), plant=plant, SEED=0)
    made = book_tools.code_cells(CHAPTER)["checked"]
    compared = made[: made.index("\nassert ")]
    exec(compared if plant is None else compared.replace(*plant), space)
    return space


CELLS = ["eight", "fig-scalar", "checked"]
COMPARING = dict.fromkeys(
    [
        "eight",
        "ranked range",
        "its gradient",
        "difference_of_tops",
        "difference_of_tops, half way",
        "nested_hinges",
        "nested_hinges, half way",
        "on two losses",
        "slope of one weight",
        "outer step",
        "kept, but broken",
    ],
    CELLS,
)


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("eight", ("return ranked[m:k].mean()", "return ranked[m - 1 : k - 1].mean()")),
        ("eight", ("ranked, _ = losses.sort(descending=True, stable=True)",
                   "ranked = losses")),
        ("ranked range", ("RankedRange(3, 12)(row)", "RankedRange(3, 13)(row)")),
        ("its gradient", ("for v in (mine, theirs))", "for v in (mine, theirs[1:]))")),
        ("difference_of_tops", ("- m * high - (losses - high).relu()",
                                "- m * high - (losses - high).abs()")),
        ("difference_of_tops, half way", ("(f1, 3.75)", "(f1, 5.5)")),
        ("nested_hinges", ("(len(losses) - m) * gap", "len(losses) * gap")),
        ("nested_hinges, half way", ("(f2, 3.0)", "(f2, 5.0)")),
        ("on two losses", ("eight[4].detach(), eight[5].detach())",
                           "eight[4].detach(), eight[3].detach())")),
        ("slope of one weight", ("rise / 2e-6", "rise / 1e-6")),
        ("outer step", ("ranked_range(torch.stack(losses), m, k).backward()",
                        "torch.stack(losses).mean().backward()")),
        ("outer step", ("create_graph=True)\n        pairs",
                        "create_graph=False)\n        pairs")),
        ("kept, but broken", ("(x - 8) / 8 for x", "x / 8 for x")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(*COMPARING[name], plant=plant)
