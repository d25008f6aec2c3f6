"""Chapter 6's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metalearn_tut import models, pretrained, tasks
from metalearn_tut.bilevel import inner_loop
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.evaluation import cost, evaluate, paired_difference
from metalearn_tut.learners.maml import MAML

CHAPTER = "06_tsmd_distillation"


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


@pytest.fixture(scope="module")
def glyph_pair():
    """Two narrow learners, as random as they begin."""
    torch.manual_seed(0)
    networks = (models.Conv4(1, 5, width=w, norm="support") for w in (5, 3))
    return [MAML(network, 0.4, 2, zero_head=True) for network in networks]


@pytest.fixture(scope="module")
def with_pair(glyph_pair):
    large, small = glyph_pair
    return SimpleNamespace(**book_tools.run(CHAPTER, large=large, small=small))


def logits(seed, rows=4, ways=3):
    g = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(rows, ways, generator=g).double() for _ in range(2)]


def glyph_task(index=0, queries=3):
    return tasks.glyphs("validation").sampler(5, 1, queries, seed=3)[index]


# The functions against the modules


@pytest.mark.parametrize("T", [0.5, 1.0, 7.0])
def test_the_loss_is_the_modules_and_its_slope_autograds(chapter, T):
    for seed in range(3):
        z_s, z_t = logits(seed)
        leaf = z_s.requires_grad_()
        loss = kd_loss(leaf, z_t, T)
        torch.testing.assert_close(chapter.kd(leaf, z_t, T), loss, rtol=1e-11, atol=1e-14)
        (slope,) = torch.autograd.grad(loss, leaf)
        found = chapter.kd_slope(z_s, z_t, T).detach()
        torch.testing.assert_close(found, slope, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("alpha", "w", "T"), [(0.3, 0.5, 2.0), (1.0, 2.0, 0.5), (0.1, 0.0, 4.0)])
def test_the_guided_step_is_the_modules(chapter, alpha, w, T):
    torch.manual_seed(1)
    teacher = MAML(nn.Linear(6, 4).double(), 0.8, 2)
    x, labels = torch.randn(8, 6).double(), torch.arange(8) % 4
    student = MAML(chapter.zero_linear(6, 4), alpha)
    pair = MetaDistiller(teacher, student, kd_weight=w, temperature=T)
    z_t, y = teacher.adapt(x, labels)(x), F.one_hot(labels).double()
    found = pair.adapt(x, labels).params["weight"]
    paper = chapter.guided_step(x, y, z_t, alpha, w, T)
    torch.testing.assert_close(paper, found, rtol=1e-11, atol=1e-14)


def test_a_linear_student_begins_at_zero(chapter):
    student = chapter.zero_linear(4, 3)
    assert student.weight.shape == (3, 4) and student.bias is None
    assert student.weight.dtype == torch.float64 and not student.weight.any()


def test_beyond_the_label_is_what_smoothing_cannot_say(chapter):
    labels = torch.tensor([2, 0, 1])
    y = F.one_hot(labels, 4).double()
    for share in (0.0, 0.3, 0.9):
        smooth = (1 - share) * y + share * (1 - y) / 3
        assert chapter.beyond_label(smooth, labels) == pytest.approx(0, abs=1e-15)
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).double()
    shares = [chapter.beyond_label(p, torch.tensor([c])).item() for c in range(4)]
    rests = [[0.3, 0.2, 0.0], [0.5, 0.2, 0.0], [0.5, 0.3, 0.0], [0.5, 0.3, 0.2]]
    by_hand = [sum(abs(v - sum(rest) / 3) for v in rest) / 2 for rest in rests]
    assert shares == pytest.approx(by_hand)


def test_a_step_of_descent_is_that_of_the_inner_loop(chapter):
    net, x = chapter.two_nets()[0], torch.randn(5, 4).double()
    y = torch.arange(5) % 3
    params = dict(net.named_parameters())
    found = chapter.descend(net, params, x, lambda z: F.cross_entropy(z, y), 0.7)
    loss = lambda p: F.cross_entropy(functional_call(net, p, (x,)), y)  # noqa: E731
    right = inner_loop(loss, params, steps=1, lr=0.7)
    for name, p in right.items():
        torch.testing.assert_close(found[name], p, rtol=1e-12, atol=1e-15)
        assert found[name].requires_grad


@pytest.mark.parametrize(
    ("w", "T", "detach"), [(0.0, 1.0, True), (2.0, 0.5, True), (0.5, 3.0, False)]
)
def test_two_nets_by_hand_are_the_distiller(chapter, w, T, detach):
    nets, batch = chapter.two_nets(), chapter.point_tasks().batch(5, 1)
    psi, theta = (dict(net.named_parameters()) for net in nets)
    ends = chapter.taught(nets, psi, theta, batch[0], w=w, T=T, detach=detach)
    pair = MetaDistiller(MAML(nets[0], 0.3, 2), MAML(nets[1], 0.2, 2), kd_weight=w, temperature=T,
                         through_teacher=not detach)  # fmt: skip
    support = batch[0].support_x, batch[0].support_y
    for learner, end in ((pair.teacher, ends[0]), (pair, ends[1])):
        right = learner.adapt(*support).params
        for name, p in right.items():
            torch.testing.assert_close(end[name], p, rtol=1e-11, atol=1e-14)
    losses = [chapter.query_loss(net, end, batch[0]) for net, end in zip(nets, ends, strict=True)]
    total = pair.task_losses(batch).losses.sum()
    torch.testing.assert_close(sum(losses), total, rtol=1e-12, atol=0)
    leaves = [*psi.values(), *theta.values()]
    mine = torch.autograd.grad(sum(losses), leaves)
    theirs = torch.autograd.grad(total, pair.meta_parameters().values())
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_the_pair_and_its_points_are_the_same_every_time(chapter):
    first, second = (chapter.two_nets() for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    first, second = (chapter.point_tasks()[0] for _ in range(2))
    assert torch.equal(first.support_x, second.support_x)
    assert first.support_x.shape == (6, 4) and first.query_x.shape == (12, 4)
    assert first.support_x.dtype == torch.float64


@pytest.mark.parametrize(("w", "T"), [(0.5, 1.0), (1.0, 4.0), (2.0, 0.5), (0.0, 1.0)])
def test_mixed_weights_keep_the_length_of_the_first_step(chapter, w, T):
    """A teacher that is certain: the step must be that of the student alone."""
    how = chapter.mixed(w, T)
    assert how["temperature"] == T and how["kd_weight"] == pytest.approx(w * how["ce_weight"])
    x, labels = torch.randn(6, 4).double(), torch.arange(6) % 3
    student = MAML(chapter.zero_linear(4, 3), 0.3)
    how["kd"] = lambda s, t: kd_loss(s, 1e4 * F.one_hot(labels).double(), T)
    pair = MetaDistiller(MAML(nn.Linear(4, 3).double(), 0.1), student, **how)
    found, right = (m.adapt(x, labels).params["weight"] for m in (pair, student))
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_guided_learner_is_the_distiller(with_pair, glyph_pair, steps):
    x, y = glyph_task().support_x, glyph_task().support_y
    found = with_pair.guided(teacher_steps=steps, kd_weight=0.3).adapt(x, y).params
    pair = MetaDistiller(*glyph_pair, kd_weight=0.3)
    for name, p in pair.adapt(x, y, teacher_steps=steps).params.items():
        assert torch.equal(found[name], p), name
    assert with_pair.guided().model is glyph_pair[1].model


def test_outputs_are_those_of_the_predictor(with_pair, glyph_pair):
    task = glyph_task()
    predict = glyph_pair[1].adapt(task.support_x, task.support_y)
    x, images = tasks.as_float(task.support_x), tasks.as_float(task.query_x)
    found = with_pair.outputs(predict.params, x, images).detach()
    torch.testing.assert_close(found, predict(task.query_x))


def test_learning_with_more_is_descent_on_both_losses(with_pair, glyph_pair):
    task, small = glyph_task(), glyph_pair[1]
    x, y, extra = tasks.as_float(task.support_x), task.support_y, tasks.as_float(task.query_x)
    z_t = torch.randn(len(extra), 5)
    end = with_pair.learn_with(x, y, extra, z_t)
    theta, _ = small.start(small.meta_parameters())
    theta = {n: p.detach().clone().requires_grad_() for n, p in theta.items()}
    for _ in range(2):
        both = functional_call(small.model, theta, (torch.cat([x, extra]), len(x)))
        guide = F.kl_div(both[len(x) :].log_softmax(1), z_t.softmax(1), reduction="batchmean")
        loss = F.cross_entropy(both[: len(x)], y) / 2 + guide / 2
        slopes = torch.autograd.grad(loss, theta.values())
        pairs = zip(theta.items(), slopes, strict=True)
        theta = {n: (p - 0.4 * g).detach().requires_grad_() for (n, p), g in pairs}
    for name, p in theta.items():
        torch.testing.assert_close(end[name], p, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.glyph_tasks(split, 3, queries=2)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=2, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags
    assert len(chapter.glyph_tasks(split, 3)[0].query_y) == 25


def test_what_is_told_is_the_paired_difference(glyph_pair, capsys):
    sampler = tasks.glyphs("validation").sampler(5, 1, 2, seed=0)
    found = {name: evaluate(m, sampler, 5) for name, m in zip(("other", "alone"), glyph_pair,
                                                              strict=True)}  # fmt: skip
    space = book_tools.run(CHAPTER, results=found)
    right = paired_difference(found["other"], found["alone"])
    assert space["tell"]("other") == right
    mean, half = right
    said = f"other: {found['other'].mean:.3f} ± {found['other'].half_width:.3f}, "
    assert capsys.readouterr().out == said + f"less alone {mean:+.3f} ± {half:.3f}\n"


def test_counting_is_of_multiplications(chapter, glyph_pair):
    model = glyph_pair[0].model
    assert chapter.count(model) == cost.macs(model, (1, 28, 28))


def test_the_solutions_are_the_checked_ones(chapter):
    """Beside the checks: two more inputs, by other means."""
    z_s, z_t = logits(5)
    y = torch.tensor([0, 2, 1, 1])
    leaf = z_s.clone().requires_grad_()
    loss = F.cross_entropy(leaf, y) + 0.7 * kd_loss(leaf, z_t, 2.5)
    right = torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(chapter.both_slopes(z_s, z_t, y, 0.7, 2.5), right)
    assert chapter.factor(1.0, 1.0, 4.0, 5) == 5 and chapter.factor(0.2, 3.0, 1.0, 5) == 1
    one = torch.ones(1, 1).double()
    flat = chapter.outer(0.5 * one[0], one, 0 * one[0], one[0], one, 0 * one[0], 0.1, 1.0)
    assert flat.item() == pytest.approx(0.8 * (0.5 - 0.1 * (0.5 - 0.5)))


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare, with what earlier cells made."""
    space = book_tools.run(CHAPTER)
    given = {"large": pretrained.load("glyphs_5way_1shot")}
    given["test_tasks"] = space["glyph_tasks"]("test", 1)
    return book_tools.run(CHAPTER, *cells, plant=plant, **copy.copy(given))


ORDER = ["order-run", "compare-module"]
COMPARING = {
    "three slopes": ["by-hand-run"],
    "slopes at T = 3": ["by-hand-run"],
    "loss": ["by-hand-run"],
    "T to infinity": ["by-hand-run"],
    "one guided step": ["linear-run"],
    "certain teacher": ["linear-run"],
    "beyond": ["said-run"],
    "outer slope": ["order-run"],
    "adapted student": ORDER,
    "meta-gradient": ORDER,
    "leak": [*ORDER, "wrong-detach-run"],
    "lost factors": ["wrong-factors"],
}


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("three slopes", ("return T * (p_s - p_t) / len(student)", "return T * (p_t - p_s)")),
        ("three slopes", ("[-8.0, 1.0, 7.0]", "[-8.0, 7.0, 1.0]")),
        ("slopes at T = 3", ("return T**2 * (p_t * (p_t.log()", "return T * (p_t * (p_t.log()")),
        ("slopes at T = 3", ("return T * (p_s - p_t)", "return T**0 * (p_s - p_t)")),
        ("loss", ("p_s.log())).sum(1).mean()", "p_s.log())).sum(1).mean() + 1")),
        ("T to infinity", ("limit = (z_t.mean() - z_t) / 3", "limit = (z_t.mean() - z_t)")),
        ("T to infinity", ("kd_slope(z_s, z_t, 1e5)", "kd_slope(z_s, z_t, 1e1)")),
        ("one guided step", ("mixed = (y + w * T * p_t)", "mixed = (y + w * p_t)")),
        ("one guided step", ("return alpha * (1 + w * T) * (mixed", "return alpha * (mixed")),
        ("one guided step", ("u = (z_t / T).softmax(1), 1 / y.shape[1]",
                             "u = (z_t / T).softmax(1), 1 / len(y)")),
        ("certain teacher", ("inner_lr=0.5).adapt(x, labels)", "inner_lr=0.4).adapt(x, labels)")),
        ("beyond", ("(p - smooth).abs().sum(1).mean() / 2", "(p - smooth).abs().sum(1).mean()")),
        ("beyond", ("(1 - top) / (p.shape[1] - 1)", "(1 - top) / p.shape[1]")),
        ("outer slope", ("p - lr * slope for", "p - lr * slope.detach() for")),
        ("outer slope", ("(ends[0] - ends[1]) / 2e-5", "(ends[0] - ends[1]) / 1e-5")),
        ("adapted student", ("return F.cross_entropy(z_s, y) + w * kd(z_s, z_t, T)",
                             "return F.cross_entropy(z_s, y) + w * kd(z_t, z_s, T)")),
        ("adapted student", ("p - lr * slope for", "p - 1.01 * lr * slope for")),
        ("meta-gradient", ('slopes[f"student.{name}"] for', '-slopes[f"student.{name}"] for')),
        ("leak", ("a - b for name, a, b", "a + b for name, a, b")),
        ("leak", ("learners, through_teacher=True", "learners, through_teacher=False")),
        ("lost factors", ("16 * each.mean()", "16 * each.sum(1).mean()")),
        ("lost factors", ('{"no T²": each.sum(1).mean()', '{"no T²": 4 * each.sum(1).mean()')),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(*COMPARING[name], plant=plant)
