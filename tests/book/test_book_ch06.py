"""Chapter 6's own code: on other inputs than the chapter shows, and with errors planted."""

import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metalearn_tut import models, tasks
from metalearn_tut.bilevel import inner_loop
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.distillation.losses import kd_loss
from metalearn_tut.evaluation import cost
from metalearn_tut.learners.maml import MAML

CHAPTER = "06_tsmd_distillation"


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


@pytest.fixture(scope="module")
def student():
    """A narrow learner of letters, as random as it begins."""
    torch.manual_seed(0)
    return MAML(models.Conv4(1, 5, width=3, norm="support"), 0.4, 2, zero_head=True)


@pytest.fixture(scope="module")
def with_student(student):
    return SimpleNamespace(**book_tools.run(CHAPTER, small=student))


def letters(index=0, queries=3):
    return tasks.glyphs("validation").sampler(5, 1, queries, seed=3)[index]


def logits(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


# The functions against the modules


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_learning_is_the_inner_loop(chapter, steps):
    net, x, y = chapter.two_nets()[0], logits(5, 4), torch.arange(5) % 3
    params = dict(net.named_parameters())
    found = chapter.learn(net, params, x, lambda z: F.cross_entropy(z, y), 0.7, steps)
    loss = lambda p: F.cross_entropy(functional_call(net, p, (x,)), y)  # noqa: E731
    right = inner_loop(loss, params, steps=steps, lr=0.7)
    for name, p in right.items():
        torch.testing.assert_close(found[name], p, rtol=1e-11, atol=1e-14)
        assert found[name].requires_grad


@pytest.mark.parametrize(("w", "T", "steps"), [(0.0, 1.0, 2), (2.0, 0.5, 1), (0.5, 3.0, 3)])
def test_teaching_is_the_distiller(chapter, w, T, steps):
    nets, batch = chapter.two_nets(), chapter.point_task()
    settings = {"w": w, "T": T, "lr": 0.2, "steps": steps}
    pair = MetaDistiller(*(MAML(n, 0.2, steps) for n in nets), kd_weight=w, temperature=T)
    psi, theta = (dict(net.named_parameters()) for net in nets)
    support = batch[0].support_x, batch[0].support_y
    ends = chapter.teach(*nets, psi, theta, *support, **settings)
    for learner, end in ((pair.teacher, ends[0]), (pair, ends[1])):
        for name, p in learner.adapt(*support).params.items():
            torch.testing.assert_close(end[name], p, rtol=1e-11, atol=1e-14)
    losses = chapter.outer_losses(*nets, batch[0], **settings)
    total = pair.task_losses(batch).losses.sum()
    torch.testing.assert_close(sum(losses), total, rtol=1e-12, atol=0)
    mine = torch.autograd.grad(sum(losses), [*psi.values(), *theta.values()])
    theirs = torch.autograd.grad(total, pair.meta_parameters().values())
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("T", [0.7, 1.0, 5.0])
def test_the_pull_is_the_slope_of_distillation(T):
    z_t = logits(1, 3, seed=4)
    space = book_tools.run(CHAPTER, z_t=z_t)
    right = T * ((z_t / T).softmax(1) - 1 / 3)
    torch.testing.assert_close(space["pull"](T), right, rtol=1e-11, atol=1e-14)


def test_on_paper_lengths_and_angles_are_kept(chapter):
    pulls = logits(6, 3)
    pulls -= pulls.mean(1, keepdim=True)
    flat = torch.cat([chapter.on_paper(p[None]) for p in pulls])
    torch.testing.assert_close(flat @ flat.T, pulls @ pulls.T)
    top = chapter.on_paper(torch.tensor([[2.0, -1.0, -1.0]]))
    assert top[0, 0] == 0 and top[0, 1] > 0


def test_answers_are_those_of_the_predictor(with_student, student):
    task = letters()
    predict = student.adapt(task.support_x, task.support_y)
    x, images = tasks.as_float(task.support_x), tasks.as_float(task.query_x)
    found = with_student.answers(predict.params, x, images).detach()
    torch.testing.assert_close(found, predict(task.query_x))


def test_learning_with_more_is_descent_on_both_losses(with_student, student):
    task = letters()
    x, y, others = tasks.as_float(task.support_x), task.support_y, tasks.as_float(task.query_x)
    z_t = logits(len(others), 5).float()
    end = with_student.learn_with(x, y, others, z_t)
    theta, _ = student.start(student.meta_parameters())
    theta = {n: p.detach().clone().requires_grad_() for n, p in theta.items()}
    for _ in range(2):
        both = functional_call(student.model, theta, (torch.cat([x, others]), len(x)))
        guide = F.kl_div(both[len(x) :].log_softmax(1), z_t.softmax(1), reduction="batchmean")
        loss = F.cross_entropy(both[: len(x)], y) / 2 + guide / 2
        slopes = torch.autograd.grad(loss, theta.values())
        pairs = zip(theta.items(), slopes, strict=True)
        theta = {n: (p - 0.4 * g).detach().requires_grad_() for (n, p), g in pairs}
    for name, p in theta.items():
        torch.testing.assert_close(end[name], p, rtol=1e-3, atol=1e-5)


def test_shifted_names_are_those_of_the_class_before(chapter):
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    by_hand = teacher[:, [4, 0, 1, 2, 3]]
    torch.testing.assert_close(chapter.shifted(student, teacher), kd_loss(student, by_hand, 1.0))


def test_counting_is_of_multiply_adds(chapter):
    model = models.Conv4(3, 5, width=4, image_size=32)
    assert chapter.count(model) == cost.macs(model, (3, 32, 32))


def test_the_pair_and_its_points_are_the_same_every_time(chapter):
    for a, b in zip(chapter.two_nets(), chapter.two_nets(), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    first, second = chapter.point_task(), chapter.point_task()
    assert torch.equal(first.support_x, second.support_x)
    assert first.support_x.shape == (1, 6, 4) and first.query_x.shape == (1, 12, 4)


def test_the_solutions_by_other_means(chapter):
    assert chapter.factor(1.0, 1.0, 4.0, 5) == 5 and chapter.factor(0.2, 3.0, 1.0, 5) == 1
    one = torch.ones(1, 1).double()
    flat = chapter.outer(0.5 * one[0], one, 0 * one[0], one[0], one, 0 * one[0], 0.1, 1.0)
    assert flat.item() == pytest.approx(0.8 * (0.5 - 0.1 * (0.5 - 0.5)))


# The comparisons with an error planted


def run(*cells, plant=None):
    """Cells that compare; the sentences of the last cell are checked where the chapter runs."""
    made = book_tools.code_cells(CHAPTER)
    space = book_tools.run(CHAPTER, "pull", plant=plant)
    if "checked" in cells:
        compared = made["checked"][: made["checked"].index("\nassert ")]
        exec(compared if plant is None else compared.replace(*plant), space)
    return space


COMPARING = {
    "pull at T = 1": ["pull"],
    "guided student": ["checked"],
    "meta-gradient": ["checked"],
    "teacher's": ["checked"],
    "T to infinity": ["checked"],
    "certain teacher": ["checked"],
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("pull at T = 1", ("[37.0, -11.0, -26.0]", "[37.0, -26.0, -11.0]")),
        ("pull at T = 1", ("return -torch.autograd.grad(T**2", "return torch.autograd.grad(T**2")),
        ("guided student", ("labels(z) + w * T**2 * hint", "labels(z) + w * T * hint")),
        ("guided student", ("psi = learn(teacher, psi, x, labels, lr, steps)", "pass")),
        ("guided student", ("p - lr * slope for", "p - 1.01 * lr * slope for")),
        ("meta-gradient", ("p - lr * slope for", "p - lr * slope.detach() for")),
        ("meta-gradient", ('theirs[f"student.{n}"] for', '-theirs[f"student.{n}"] for')),
        ("teacher's", ("by_maml = MAML(nets[0], 0.1, 2)", "by_maml = MAML(nets[0], 0.1, 1)")),
        ("T to infinity", ("autograd.grad(T**2 * loss", "autograd.grad(T * T**2 * loss")),
        ("T to infinity", ("end = (z_t.mean() - z_t) / -3", "end = (z_t.mean() - z_t) / -1")),
        ("certain teacher", ("longer = MAML(copy.deepcopy(empty), 0.5)",
                             "longer = MAML(copy.deepcopy(empty), 0.4)")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=rf"^{re.escape(name)}(:|\[)"):
        run(*COMPARING[name], plant=plant)


def test_a_certain_teacher_lengthens_a_step_and_no_more(chapter):
    """The formula of the page, by the module, for other weights than the page has."""
    start = nn.Linear(4, 3, bias=False).double()
    nn.init.zeros_(start.weight)
    x, y = logits(6, 4), torch.arange(6) % 3
    certain = lambda s, t: kd_loss(s, 1e4 * F.one_hot(y).double(), 3.0)  # noqa: E731
    pair = MetaDistiller(MAML(nn.Linear(4, 3).double(), 0.1), MAML(start, 0.1), kd=certain,
                         kd_weight=0.3)  # fmt: skip
    longer = MAML(start, 0.1 * (1 + 0.3 * 3.0)).adapt(x, y).params["weight"]
    torch.testing.assert_close(pair.adapt(x, y).params["weight"], longer, rtol=1e-11, atol=1e-14)
