"""Chapter 3's own code: on other inputs than the chapter shows, and with errors planted."""

import re
from math import comb
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F

from metalearn_tut import rank_losses, tasks
from metalearn_tut.learners.maml import MAML
from metalearn_tut.rank_losses import LogNormalGuidance, RankedRange
from metalearn_tut.training.loop import meta_train

CHAPTER = "03_rank_losses"
RANGES = [(0, 1), (0, 7), (2, 5), (3, 7), (6, 7)]


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


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


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(("m", "k"), [(1, 4), (2, 5), (3, 7)])
def test_no_gap_is_better_than_the_best_and_its_lowest_value_is_the_range(chapter, m, k):
    gaps = torch.linspace(0, 4, 801).double()
    for row in batches(5):
        best = [chapter.best_f2(row, m, k, low) for low in row]
        assert min(best).item() == pytest.approx((k - m) * chapter.ranked_range(row, m, k).item())
        for low, value in zip(row, best, strict=True):
            found = torch.stack([chapter.f2(row, m, k, low, gap) for gap in gaps]).max()
            assert value - 0.03 < found <= value + 1e-12


@pytest.mark.parametrize(("steps", "m", "k"), [(0, 0, 7), (1, 2, 5), (4, 1, 6)])
def test_the_scalar_problem_is_maml_on_a_network_of_one_weight(chapter, steps, m, k):
    a, b = batches(2, seed=steps + 5)
    zero = torch.zeros(7, 1, 1).double()
    batch = tasks.TaskBatch(zero, a.view(7, 1, 1), zero, b.view(7, 1, 1))
    learner = MAML(chapter.Constant(-0.4), 0.3, steps, loss=chapter.half_squared)
    losses = learner.task_losses(batch).losses
    c = 0.7**steps
    torch.testing.assert_close(chapter.scalar_losses(-0.4, a, b, c), losses.detach())
    RankedRange(m, k)(losses).backward()
    mine = chapter.scalar_gradient(-0.4, a, b, c, m, k)
    torch.testing.assert_close(mine, learner.model.w.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("T", "m", "rate"), [(8, 4, 0.5), (16, 3, 0.2), (5, 0, 0.7), (6, 5, 1.0)])
def test_the_share_of_broken_tasks_follows_the_binomial_distribution(chapter, T, m, rate):
    whole_dropped = sum(
        comb(T, x) * rate**x * (1 - rate) ** (T - x) * (m - x) for x in range(m + 1)
    )
    over = rate * T - m + whole_dropped  # max(X - m, 0) = X - m + max(m - X, 0)
    assert chapter.kept_broken(T, m, rate) == pytest.approx(over / (T - m), abs=1e-12)


@pytest.mark.parametrize(("z_low", "z_high"), [(-2.0, 1.0), (-0.5, 0.3), (-9.0, 9.0)])
def test_the_guidance_is_the_module(chapter, z_low, z_high):
    for row in batches(20):
        right = LogNormalGuidance(z_low, z_high).select(row) > 0
        assert torch.equal(chapter.guided(row, z_low, z_high), right)


def test_what_is_watched_is_what_the_aggregate_was_given(chapter):
    watched, plain = chapter.Watched(1, 3), RankedRange(1, 3)
    histories = []
    for aggregate in (watched, plain):
        learner = chapter.wave_learner(chapter.wave_network(4))
        run = {"steps": 3, "tasks_per_step": 4, "progress": False}
        histories.append(meta_train(learner, tasks.sinusoid(seed=2), aggregate=aggregate, **run))
    assert histories[0].loss == histories[1].loss and watched.log == plain.log
    seen = torch.stack(watched.seen)
    assert seen.shape == (3, 4) and not seen.requires_grad
    torch.testing.assert_close(seen.mean(1), torch.tensor(histories[0].loss))


def test_training_with_the_mean_is_training_with_all_ranks():
    """The chapter's learner on its stream, shortened; another aggregate gives another one."""
    space = book_tools.run(CHAPTER, STEPS=1)
    space["stream"] = tasks.NoisyTasks(space["glyph_tasks"]("train", 3), rate=0.5)
    aggregates = (torch.mean, RankedRange(0, 16), RankedRange(8, 16))
    learners = map(space["train"], aggregates)
    plain, every, half = ([*learner.meta_parameters().values()] for learner in learners)
    assert all(torch.equal(p, q) for p, q in zip(plain, every, strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(plain, half, strict=True))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.glyph_tasks(split, 3)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=5, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags
    assert mine.query_x.shape == (25, 1, 28, 28)


def test_errors_on_waves_are_those_of_the_adapted_networks():
    unseen = tasks.sinusoid(seed=4).batch(0, 6)
    space = book_tools.run(CHAPTER, unseen=unseen)
    kept = []
    learner_of = space["wave_learner"]
    space["wave_learner"] = lambda network: kept.append(learner_of(network)) or kept[-1]
    space["meta_train"] = lambda *args, **kwargs: None
    errors = space["wave_errors"](2, torch.mean)
    for error, task in zip(errors, unseen, strict=True):
        predict = kept[0].adapt(task.support_x, task.support_y)
        torch.testing.assert_close(error, F.mse_loss(predict(task.query_x), task.query_y))


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_soft_weights_are_the_derivative_of_the_smooth_form(chapter, sharpness):
    row = batches(1)[0].requires_grad_()
    total = rank_losses.difference_of_tops(row, 2, 5, 0.8, 2.2, sharpness)
    (right,) = torch.autograd.grad(total, row)
    mine = chapter.soft_weights(row.detach(), 0.8, 2.2, sharpness)
    torch.testing.assert_close(mine, right, rtol=1e-10, atol=1e-12)


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare, with small stand-ins for what earlier cells made."""
    return book_tools.run(CHAPTER, *cells, plant=plant, psi=7.2)


COMPARING = {
    "ranks 3 to 6 of 8": ["eight"],
    "two broken tasks": ["eight", "breakdown"],
    "value half way": ["eight", "off-by-one"],
    "value at the losses": ["eight", "off-by-one"],
    "slope in closed form": ["scalar"],
    "MAML and RankedRange": ["scalar", "scalar-module-run"],
    "share at one half": ["luck-run"],
    "10 % and 20 % dropped": ["guided-run"],
    "ranked range": ["compare-module"],
    "its gradient": ["compare-module"],
    "difference_of_tops": ["compare-module", "compare-forms"],
    "nested_hinges": ["compare-module", "compare-forms"],
    "guided": ["compare-module", "compare-forms"],
    "after 5 outer steps": ["compare-outer"],
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("ranks 3 to 6 of 8", ("return ranked[m:k].mean()", "return ranked[m - 1 : k - 1].mean()")),
        ("ranks 3 to 6 of 8", ("losses.sort(descending=True, stable=True)\n    return",
                               "losses.detach().sort(stable=True)\n    return losses[0] +")),
        ("two broken tasks", ("eight.argsort(descending=True)[:count]",
                              "eight.argsort(descending=True)[1 : count + 1]")),
        ("two broken tasks", ("eight.detach().index_fill", "eight.detach().mul(2).index_fill")),
        ("value half way", ("return lower - m * high", "return lower + m * high")),
        ("value half way", ("lower = k * low +", "lower = (k - m) * low +")),
        ("value at the losses", ("exact = (ranked[5], ranked[1])",
                                 "exact = (ranked[5], ranked[0])")),
        ("slope in closed form", ("return (c * (a + c * (w - a) - b))[kept].mean()",
                                  "return (a + c * (w - a) - b)[kept].mean()")),  # first order
        ("slope in closed form", (".argsort(descending=True)[m:k]",
                                  ".argsort(descending=True)[: k - m]")),
        ("MAML and RankedRange", ("RankedRange(2, 7)(learner", "RankedRange(0, 8)(learner")),
        ("MAML and RankedRange", ("alpha, steps, loss=half_squared",
                                  "alpha, steps, loss=half_squared, first_order=True")),
        ("share at one half", ("T + 1)) / (T - m)", "T + 1)) / T")),
        ("share at one half", ("chance(x) * (x - m) for", "chance(x) * x for")),
        ("10 % and 20 % dropped", ("(z >= z_low) & (z <= z_high)", "(z >= z_low)")),
        ("10 % and 20 % dropped", ("logs = losses.log()", "logs = losses")),
        ("ranked range", ("RankedRange(3, 12)(row)", "RankedRange(3, 13)(row)")),
        ("its gradient", ("for v in (mine, theirs))", "for v in (mine, theirs[1:]))")),
        ("difference_of_tops", ("- m * high - (losses - high).relu()",
                                "- m * high - (losses - high).abs()")),
        ("nested_hinges", ("(len(losses) - m) * gap", "len(losses) * gap")),
        ("guided", ("logs.std(correction=0)", "logs.std(correction=4)")),
        ("after 5 outer steps", ("mine.task_losses(waves.batch(step, 8))",
                                 "mine.task_losses(waves.batch(0, 8))")),
        ("after 5 outer steps", ("ranked_range(losses, 2, 7).backward()",
                                 "losses.mean().backward()")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(*COMPARING[name], plant=plant)
