"""A loss is one number that can be differentiated, a score one number: anything else is said."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile, evaluate, meta_train
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.evaluation.intervals import paired_difference
from metalearn_tut.rank_losses import clean_losses
from metalearn_tut.saliency import gradient_scores
from metalearn_tut.tasks import Task, TaskBatch, TaskSampler
from metalearn_tut.training.history import History


class Listed(TaskSampler):
    """Tasks that are kept, as a reader's own list of them is."""

    def __init__(self, *tasks):
        self.kept = tasks

    def __getitem__(self, index):
        return self.kept[index % len(self.kept)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Identity())


def classes(y=(0, 1, 2), query_y=None, dtype=torch.int64):
    g = torch.Generator().manual_seed(0)
    y = torch.as_tensor(y, dtype=dtype)
    query_y = y.clone() if query_y is None else torch.as_tensor(query_y)
    x, query_x = (torch.randn(len(v), 4, generator=g) for v in (y, query_y))
    return Task(x, y, query_x, query_y)


def distiller(loss):
    return MetaDistiller(*(MAML(network(), 0.1, 2, loss=loss) for _ in range(2)))


LEARNERS = {
    "functional": lambda loss: MAML(network(), 0.1, 2, loss=loss),
    "higher": lambda loss: MAML(network(), 0.1, 2, engine="higher", loss=loss),
    "implicit": lambda loss: MAML(network(), 0.1, 2, engine="implicit", prox_weight=1.0, loss=loss),
    "deferred": lambda loss: MAML(network(), 0.1, 2, deferred=True, loss=loss),
    "Reptile": lambda loss: Reptile(network(), 0.1, 2, loss=loss),
    "MetaDistiller": distiller,
}
NO_LOSS = {
    "of each example": (
        partial(F.cross_entropy, reduction="none"),
        r'loss must give one number per task, got shape \[\d\]: take the mean .*reduction="mean"',
    ),
    "Python's number": (
        lambda o, y: F.cross_entropy(o, y).item(),
        "loss must give a tensor with one number, .* got float",
    ),
    "nothing": (lambda o, y: None, "loss must give a tensor with one number, .* got NoneType"),
    "two": (lambda o, y: (F.cross_entropy(o, y), o), "tensor with one number, .* got tuple"),
    "cut off": (
        lambda o, y: F.cross_entropy(o.detach(), y),
        "loss must be a differentiable function of the outputs, got torch.float32 without",
    ),
    "a count": (lambda o, y: (o.argmax(1) != y).sum(), "differentiable .* got torch.int64"),
}


@pytest.mark.parametrize("name", NO_LOSS)
@pytest.mark.parametrize("make", LEARNERS)
def test_what_is_no_loss_is_said_in_training_and_in_adaptation(make, name):
    loss, said = NO_LOSS[name]
    learner, task = LEARNERS[make](loss), classes()
    for work in (
        lambda: learner.task_losses(TaskBatch.stack([task])),
        lambda: learner.adapt(task.support_x, task.support_y),
    ):
        with pytest.raises((TypeError, ValueError), match=said) as caught:
            work()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["of each example", "nothing", "a count"])
def test_an_inner_loss_that_is_none_is_said(name):
    loss, said = NO_LOSS[name]
    batch = TaskBatch.stack([classes()])
    for engine in ("functional", "vectorised"):
        learner = MAML(network(), 0.1, 2, engine=engine, inner_loss=loss)
        with pytest.raises((TypeError, ValueError), match=said):
            learner.task_losses(batch)
    with pytest.raises((TypeError, ValueError), match=said):
        Reptile(network(), 0.1, inner_loss=loss).task_losses(batch)


def test_other_users_of_a_loss_say_so_too():
    learner, task = MAML(mlp(), 0.1), Task(*task_of("mlp"))
    none = partial(F.cross_entropy, reduction="none")
    with pytest.raises(ValueError, match="one number per task"):
        clean_losses(learner, Listed(task), 2, none)
    learner.loss = none
    with pytest.raises(ValueError, match="one number per task"):
        gradient_scores(learner, [task])
    pair = MetaDistiller(
        *(MAML(mlp(), 0.1) for _ in range(2)), kd=partial(F.mse_loss, reduction="none")
    )
    with pytest.raises(ValueError, match=r"kd must give one number per task, got shape \[9, \d\]"):
        pair.adapt(task.support_x, task.support_y)


@pytest.mark.parametrize("engine", ["functional", "vectorised", "higher"])
def test_a_loss_of_shape_one_is_a_number(engine):
    one = lambda o, y: F.cross_entropy(o, y).reshape(1)  # noqa: E731
    batch = TaskBatch.stack([classes(), classes()])
    losses = [
        MAML(network(), 0.1, 2, engine=engine, loss=loss).task_losses(batch).losses
        for loss in (one, F.cross_entropy)
    ]
    assert losses[0].shape == (2,) and torch.equal(*losses)


def hinge_in_place(o, y):
    """Labels 0 and 1 as -1 and 1, made in place, as is often done."""
    return F.relu(1 - y.mul_(2).sub_(1) * o.squeeze(-1)).square().mean()


def hinge(o, y):
    return F.relu(1 - (2 * y - 1) * o.squeeze(-1)).square().mean()


@pytest.mark.parametrize("make", [MAML, Reptile])
def test_a_loss_may_change_what_it_is_given(make):
    """Of several inner steps each would otherwise see labels of its own: -1, -3, -7, ..."""
    task = classes([0, 1, 1, 0])
    batch = TaskBatch.stack([task])
    kept = [v.clone() for v in (task.support_y, batch.support_y, batch.query_y)]
    found = []
    for loss in (hinge_in_place, hinge):
        torch.manual_seed(1)
        learner = make(nn.Linear(4, 1), 0.1, 4, loss=loss, metric=lambda o, y: 0.0)
        found.append(
            [
                learner.task_losses(batch).losses,
                learner.adapt(task.support_x, task.support_y)(task.query_x),
            ]
        )
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    now = (task.support_y, batch.support_y, batch.query_y)
    assert all(map(torch.equal, kept, now))


def test_a_metric_may_change_what_it_is_given():
    """The tasks of a list are the same ones in every evaluation."""

    def signs(o, y):
        return ((o.sigmoid_().squeeze(-1) > 0.5) == (y.mul_(2).sub_(1) > 0)).float().mean()

    def plain(o, y):
        return ((o.squeeze(-1) > 0) == (y == 1)).float().mean()

    sampler = Listed(classes([0, 1, 1, 0]), classes([1, 1, 0, 0]))
    torch.manual_seed(1)
    learner = MAML(nn.Linear(4, 1), 0.1, loss=hinge)
    first, second = (evaluate(learner, sampler, 2, metric=signs) for _ in range(2))
    assert torch.equal(first.values, second.values)
    assert first.values.tolist() == evaluate(learner, sampler, 2, metric=plain).values.tolist()
    assert sampler[0].query_y.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("make", [MAML, Reptile])
def test_one_logit_against_class_indices_does_not_broadcast(make):
    learner = make(nn.Linear(4, 1), 0.1, loss=lambda o, y: ((o - y) ** 2).mean())
    task = classes([0, 1, 1, 0])
    with pytest.raises(ValueError, match=r"broadcast outputs \[4, 1\] against targets \[4\]"):
        learner.adapt(task.support_x, task.support_y)


# What is no function


@pytest.mark.parametrize(
    "given, said", [("mse", "got 'mse'"), (nn.MSELoss, r"make one, MSELoss\(\)"), (0.5, "got 0.5")]
)
def test_a_name_or_a_class_is_no_loss_and_no_metric(given, said):
    sampler = Listed(classes())
    for work in (
        lambda: MAML(network(), loss=given),
        lambda: MAML(network(), inner_loss=given),
        lambda: Reptile(network(), metric=given),
        lambda: ProtoNet(Embeds(), metric=given),
        lambda: MetaDistiller(MAML(network()), MAML(network()), kd=given),
        lambda: evaluate(MAML(network()), sampler, 2, metric=given),
        lambda: meta_train(MAML(network()), sampler, steps=1, metric=given, progress=False),
    ):
        with pytest.raises(TypeError, match=rf"must be a function \(outputs, targets\).*{said}"):
            work()


class Embeds(nn.Linear):
    def __init__(self):
        super().__init__(4, 5)

    def embed(self, x):
        return self(x)


# What a metric gives


@pytest.mark.parametrize(
    "given, value",
    [
        (np.float64(1 / 3), 1 / 3),
        (np.array([0.25]), 0.25),
        (np.bool_(True), 1.0),
        (3, 3.0),
        (torch.tensor([[0.5]], requires_grad=True), 0.5),
        (torch.tensor(1 / 3, dtype=torch.float64), 1 / 3),
        (torch.tensor(7, dtype=torch.uint8), 7.0),
    ],
)
def test_a_number_of_any_library_is_a_score(given, value):
    found = evaluate(MAML(network(), metric=lambda o, y: given), Listed(classes()), 3)
    assert found.values.tolist() == [value] * 3


@pytest.mark.parametrize(
    "given, said",
    [
        (None, "got None"),
        ("0.5", "got '0.5'"),
        ({"f1": 0.5}, "got {'f1': 0.5}"),
        (1j, "got 1j"),
        ((0.5, 0.6), r"got shape \[2\]"),
        ([], r"got shape \[0\]"),
    ],
)
def test_what_is_no_number_is_no_score(given, said):
    learner = MAML(network(), metric=lambda o, y: given)
    with pytest.raises((TypeError, ValueError), match="metric must give one number per task") as e:
        evaluate(learner, Listed(classes()), 2)
    assert e.match(said)


def test_scores_of_a_metric_have_one_dtype_whatever_it_gives_for_which_task():
    """Several processes add up their shares, each of its own tasks."""
    given = iter([1, 0.1, np.float64(0.1), torch.tensor(0.1, dtype=torch.float64), True])
    learner = MAML(network(), metric=lambda o, y: next(given))
    batch = TaskBatch.stack([classes()])
    assert {learner.task_losses(batch).accuracy.dtype for _ in range(5)} == {torch.float64}


def test_a_validation_that_is_no_number_is_never_the_best():
    for lowest in (False, True):
        history = History(lowest=lowest)
        means = [math.nan, math.nan, 0.4, math.nan, 0.6, 0.5]
        improved = [history.validated(i, torch.tensor([m, m])) for i, m in enumerate(means)]
        assert improved == [True, False, True, False, not lowest, False]
        assert history.best()["mean"] == pytest.approx(0.4 if lowest else 0.6)


# Labels that are none


@pytest.mark.parametrize("make", [lambda: MAML(network(), 0.1), lambda: ProtoNet(Embeds())])
def test_what_has_no_class_is_not_counted_as_wrong(make):
    said = "query_y must hold labels >= 0, got -100: leave out what has no class"
    with pytest.raises(ValueError, match=said):
        evaluate(make(), Listed(classes(query_y=(0, -100, 1))), 2)


def test_a_class_that_the_support_set_lacks_is_never_recognized():
    task = classes([0, 1, 0, 1], query_y=[0, 1, 2, 2])
    learner = ProtoNet(Embeds())
    right = learner.adapt(task.support_x, task.support_y)(task.query_x).argmax(1)[:2].tolist()
    expected = sum(int(a == b) for a, b in zip(right, [0, 1], strict=True)) / 4
    assert evaluate(learner, Listed(task), 2).values.tolist() == [expected] * 2


def test_a_mean_over_no_query_example_is_no_score():
    task = classes(query_y=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="accuracy needs query examples, got none"):
        evaluate(MAML(network(), 0.1), Listed(task), 2)


@pytest.mark.parametrize("y", [torch.eye(3), torch.eye(3, dtype=torch.int64)])
def test_prototypes_are_of_labels_and_say_so(y):
    task = classes()
    said = r"support_y must be int64 labels \[B\], .* of shape \[3, 3\]"
    with pytest.raises(ValueError, match=said):
        ProtoNet(Embeds()).adapt(task.support_x, y)


def test_reptile_needs_targets_of_one_kind():
    task = classes()
    batch = TaskBatch.stack([Task(task.support_x, task.support_y, task.query_x, torch.eye(3))])
    with pytest.raises(ValueError, match=r"one shape, got \[3\] and \[3, 3\]"):
        Reptile(network()).task_losses(batch)


# Targets that are no numbers, weights that nobody trains, two metrics of one name


@pytest.mark.parametrize(
    "loss", [F.mse_loss, nn.L1Loss(), partial(F.huber_loss, delta=2.0), F.cross_entropy]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_targets_that_are_no_numbers_are_refused_where_nothing_can_mean_them(loss, bad):
    """The slope of |o - NaN| is 0: it would teach something else, and nothing would show it."""
    task = classes()
    y = torch.eye(3)
    broken = y.clone().fill_diagonal_(bad)
    learner = MAML(network(), 0.1, loss=loss)
    with pytest.raises(ValueError, match="support_y must be finite"):
        learner.adapt(task.support_x, broken)
    batch = TaskBatch.stack([Task(task.support_x, y, task.query_x, broken)])
    with pytest.raises(ValueError, match="query_y must be finite"):
        learner.task_losses(batch)


def test_a_loss_of_ones_own_may_leave_out_what_is_missing():
    def where_known(o, y):
        return ((o - y)[~y.isnan()] ** 2).mean()

    task, y = classes(), torch.eye(3)
    missing = y.clone().fill_diagonal_(math.nan)
    found = MAML(network(), 0.1, loss=where_known).adapt(task.support_x, missing)
    assert found(task.query_x).isfinite().all()


class Weighted(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, o, y):
        return self.scale * F.cross_entropy(o, y)


def test_a_loss_with_weights_that_nobody_trains_is_refused():
    for work in (
        lambda loss: MAML(network(), loss=loss),
        lambda loss: MAML(network(), inner_loss=loss),
        lambda loss: MetaDistiller(MAML(network()), MAML(network()), kd=loss),
    ):
        with pytest.raises(ValueError, match=r"has parameters of its own \(scale\), which no lea"):
            work(Weighted())
        work(Weighted().requires_grad_(False))
        work(nn.CrossEntropyLoss(weight=torch.ones(3)))


def test_two_metrics_of_one_name_are_not_paired():
    sampler, learner = Listed(classes()), MAML(network())
    metrics = [
        (lambda o, y: F.cross_entropy(o, y), lambda o, y: F.cross_entropy(2 * o, y)),
        tuple(partial(F.cross_entropy, label_smoothing=s) for s in (0.1, 0.2)),
    ]
    for pair in metrics:
        a, b, again = (evaluate(learner, sampler, 2, metric=m) for m in (*pair, pair[0]))
        assert a.metric == b.metric
        with pytest.raises(ValueError, match="needs one metric on both sides, got "):
            paired_difference(a, b)
        assert paired_difference(a, again) == (0.0, 0.0)


# What is no batch


@pytest.mark.parametrize("make", [lambda: MAML(network(), 0.1), lambda: ProtoNet(Embeds())])
def test_one_example_without_a_batch_is_no_batch(make):
    task = classes()
    predict = make().adapt(task.support_x, task.support_y)
    said = r"x must have 2 dimensions, .* got shape \[4\]: for one example, x.unsqueeze\(0\)"
    with pytest.raises(ValueError, match=said):
        predict(task.query_x[0])
    torch.testing.assert_close(predict(task.query_x[0].unsqueeze(0)), predict(task.query_x)[:1])


def test_a_batch_has_as_many_tasks_and_rows_in_each_tensor():
    x, y = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    for parts in ((x, y[:1], x, y), (x, y, x[:1], y[:1]), (x, y[:, :2], x, y), (x, y, x, y[0])):
        with pytest.raises(ValueError, match=r"TaskBatch needs \[T, rows, ...\].*support_x \[2"):
            TaskBatch(*parts)


@pytest.mark.parametrize(
    "make",
    [lambda: MAML(network()), lambda: Reptile(network()), lambda: distiller(F.cross_entropy)],
)
def test_a_task_is_no_batch_and_a_generator_of_tasks_can_be_one(make):
    with pytest.raises(TypeError, match=r"batch must be a TaskBatch, got Task: TaskBatch.stack"):
        make().task_losses(classes())
    assert len(TaskBatch.stack(classes() for _ in range(2))) == 2
