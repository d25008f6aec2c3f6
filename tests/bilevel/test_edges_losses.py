"""Losses, labels, numbers: no score is guessed, no shape broadcasts, nothing passes as finite."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import Words, mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile, evaluate, meta_train, models, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learners.maml import anil
from metalearn_tut.scoring import accuracy, check_aligned
from metalearn_tut.tasks import Task, TaskBatch, TaskSampler

bce = F.binary_cross_entropy_with_logits


class Fixed(TaskSampler):
    """Tasks made by a function of their index."""

    def __init__(self, make):
        self.make = make

    def __getitem__(self, index):
        return self.make(torch.Generator().manual_seed(index))


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator)


# Four kinds of tasks whose outputs are not classes: two classes by one logit, ...


def halves(g):
    """Two classes on either side of a plane; labels 0 and 1."""
    w, x = draw(g, 4), draw(g, 40, 4)
    y = (x @ w > 0).long()
    return Task(x[:20], y[:20], x[20:], y[20:])


def lines(g):
    w, x = draw(g, 4), draw(g, 30, 4)
    y = x @ w[:, None]
    return Task(x[:15], y[:15], x[15:], y[15:])


def several(g):
    w, x = draw(g, 4, 3), draw(g, 60, 4)
    y = (x @ w > 0).float()
    return Task(x[:30], y[:30], x[30:], y[30:])


def pixels(g):
    """As many classes as pixels in a column, where argmax over the last dimension would fit."""
    x = draw(g, 4, 1, 3, 3)
    y = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
    return Task(x[:2], y[:2], x[2:], y[2:])


def one_logit(o, y):
    return bce(o.squeeze(-1), y.float())


def right_sign(o, y):
    return ((o.squeeze(-1) > 0) == y.bool()).float().mean()


KINDS = {
    "one logit": (halves, lambda: nn.Linear(4, 1), one_logit, right_sign),
    "regression": (lines, lambda: nn.Linear(4, 1), F.mse_loss, F.mse_loss),
    "several labels": (several, lambda: nn.Linear(4, 3), bce, right_sign),
    "segmentation": (
        pixels,
        lambda: nn.Conv2d(1, 3, 1),
        F.cross_entropy,
        lambda o, y: (o.argmax(1) == y).float().mean(),
    ),
}


def by_hand(kind, outputs, y):
    """Each score as a reader would compute it, from numpy arrays."""
    o, y = outputs.double().numpy(), y.numpy()
    if kind == "one logit":
        return np.mean((o[:, 0] > 0) == (y == 1))
    if kind == "regression":
        return np.mean((o - y) ** 2)
    if kind == "several labels":
        return np.mean((o > 0) == (y == 1))
    return np.mean(
        [
            np.argmax(o[b, :, i, j]) == y[b, i, j]
            for b in range(2)
            for i in range(3)
            for j in range(3)
        ]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [MAML, Reptile])
def test_a_metric_scores_what_accuracy_cannot(kind, make):
    tasks_of, network, loss, metric = KINDS[kind]
    torch.manual_seed(0)
    learner = make(network(), 0.5, 10, loss=loss, metric=metric)
    sampler = Fixed(tasks_of)
    found = evaluate(learner, sampler, 5)
    expected = []
    for i in range(5):
        t = sampler[i]
        expected.append(
            by_hand(kind, learner.adapt(t.support_x, t.support_y)(t.query_x), t.query_y)
        )
    assert found.values.tolist() == pytest.approx(expected, rel=1e-5)
    reported = learner.task_losses(sampler.batch(0, 3)).accuracy
    assert reported.shape == (3,)
    assert evaluate(make(network(), loss=loss), sampler, 2, metric=metric).values.shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_metric_no_score_is_guessed(kind):
    tasks_of, network, loss, _ = KINDS[kind]
    learner, sampler = MAML(network(), 0.1, loss=loss), Fixed(tasks_of)
    assert learner.task_losses(sampler.batch(0, 2)).accuracy is None
    with pytest.raises(ValueError, match=r"accuracy is of logits .* pass metric=") as caught:
        evaluate(learner, sampler, 2)
    assert "\n" not in str(caught.value)
    before = [p.clone() for p in learner.model.parameters()]
    with pytest.raises(ValueError, match=r"accuracy is of logits"):
        meta_train(learner, sampler, steps=5, validation=sampler, validate_every=5, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))


def test_the_best_validation_of_an_error_is_the_lowest(tmp_path):
    torch.manual_seed(0)
    learner = MAML(nn.Linear(4, 1), 0.1, loss=F.mse_loss, metric=F.mse_loss)
    options = {"validation": Fixed(lines), "validate_every": 2, "validation_tasks": 4}
    history = meta_train(
        learner, Fixed(lines), steps=8, out=tmp_path, best="lowest", progress=False, **options
    )
    means = [entry["mean"] for entry in history.validation]
    assert history.best()["mean"] == min(means)
    from metalearn_tut.training import checkpoint

    state = checkpoint.read(tmp_path / "best.safetensors")[1]
    assert state["step"] == 2 * (1 + means.index(min(means)))
    with pytest.raises(ValueError, match="best must be one of 'highest', 'lowest', got 'least'"):
        meta_train(learner, Fixed(lines), steps=1, best="least", progress=False)


def test_the_metric_of_a_student_is_that_of_the_pair():
    pair = MetaDistiller(
        MAML(nn.Linear(4, 1), loss=F.mse_loss),
        MAML(nn.Linear(4, 1), loss=F.mse_loss, metric=F.l1_loss),
        kd=F.mse_loss,
    )
    assert evaluate(pair, Fixed(lines), 2).metric == "l1_loss"
    assert pair.task_losses(Fixed(lines).batch(0, 2)).accuracy.shape == (2,)


def test_a_metric_gives_one_number():
    learner = MAML(nn.Linear(4, 1), loss=F.mse_loss)
    found = evaluate(learner, Fixed(lines), 2, metric=lambda o, y: float((o - y).abs().max()))
    assert found.values.shape == (2,)
    with pytest.raises(ValueError, match=r"must give one number per task, got shape \[15, 1\]"):
        evaluate(learner, Fixed(lines), 2, metric=lambda o, y: (o - y).abs())


# Shapes that broadcast


def flat(make):
    """The same tasks with targets ``[B]``."""

    def made(g):
        t = make(g)
        return Task(t.support_x, t.support_y[:, 0], t.query_x, t.query_y[:, 0])

    return made


@pytest.mark.parametrize(
    "loss",
    [
        *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, nn.MSELoss(), nn.HuberLoss()),
        lambda o, y: ((o - y) ** 2).mean(),
        lambda o, y: (o - y).abs().sum(),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_outputs_and_targets_of_two_shapes_are_refused(loss):
    sampler, said = Fixed(flat(lines)), r"broadcast outputs \[15, 1\] against targets \[15\]"
    learner = MAML(nn.Linear(4, 1), 0.1, loss=loss)
    with pytest.raises(ValueError, match=said):
        learner.task_losses(sampler.batch(0, 2))
    with pytest.raises(ValueError, match=said):
        learner.adapt(sampler[0].support_x, sampler[0].support_y)
    fine = MAML(nn.Linear(4, 1), 0.1, loss=lambda o, y: F.mse_loss(o.squeeze(-1), y))
    with pytest.raises(ValueError, match=f"metric would {said}"):
        evaluate(fine, sampler, 2, metric=loss)


def test_a_loss_that_reshapes_by_itself_is_left_alone():
    check_aligned(lambda o, y: F.mse_loss(o.squeeze(-1), y), torch.rand(5, 1), torch.rand(5))
    check_aligned(lambda o, y: F.mse_loss(o[:, 0], y), torch.rand(5, 1), torch.rand(5))
    check_aligned(F.cross_entropy, torch.rand(5, 3), torch.arange(5) % 3)
    check_aligned(F.cross_entropy, torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))
    gaussian = lambda o, y: F.gaussian_nll_loss(o[:, :1], y, o[:, 1:].exp())  # noqa: E731
    check_aligned(gaussian, torch.rand(5, 2), torch.rand(5, 1))
    a, b = (
        MAML(nn.Linear(4, 1), 0.1, loss=loss).task_losses(Fixed(make).batch(0, 2)).losses.shape
        for loss, make in (
            (lambda o, y: F.mse_loss(o.squeeze(-1), y), flat(lines)),
            (F.mse_loss, lines),
        )
    )
    assert a == b == (2,)


# Not finite


def test_tasks_whose_outputs_are_not_finite_are_counted():
    class Diverges(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 3)

        def forward(self, x):
            return self.body(x) / (x[:, :1] > -1.5)  # 0 / 0 or n / 0 in some rows

    def labelled(g):
        x = draw(g, 18, 4)
        return Task(x[:9].abs(), torch.arange(9) % 3, x[9:], torch.arange(9) % 3)

    found = evaluate(MAML(Diverges(), 0.0), Fixed(labelled), 30)
    bad = sum(bool((Fixed(labelled)[i].query_x[:, 0] <= -1.5).any()) for i in range(30))
    assert 0 < bad < 30 and found.not_finite == bad
    assert f"outputs of {bad} tasks are not finite" in str(found)
    assert found.to_dict()["not_finite"] == bad
    whole = evaluate(MAML(mlp(), 0.0), Fixed(lambda g: Task(*task_of("mlp"))), 2)
    assert whole.not_finite == 0 and "finite" not in str(whole)


def test_a_row_of_nan_is_no_answer():
    outputs = torch.tensor([[torch.nan] * 3, [1.0, 2.0, 3.0], [-torch.inf, 1.0, 0.0]])
    assert accuracy(outputs, torch.tensor([0, 2, 1])).item() == pytest.approx(2 / 3)
    learner = MAML(mlp(), 0.1)
    with torch.no_grad():
        learner.model[0].weight.fill_(torch.nan)
    found = evaluate(learner, Fixed(lambda g: Task(*task_of("mlp"))), 3)
    assert found.mean == 0.0 and found.not_finite == 3


def test_an_excluded_class_is_finite():
    class Excludes(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.tensor([0.0, 0.0, 0.0, -torch.inf])

    sampler = Fixed(lambda g: Task(*task_of("mlp")))
    assert evaluate(MAML(Excludes(6, 4), 0.1), sampler, 2).not_finite == 0


# Integers and scales


def test_words_stay_words():
    sx, sy, qx, qy = task_of("embedding")
    model = Words()
    learner = MAML(model, 0.5, 5)
    assert (learner.adapt(sx, sy)(qx).argmax(1) == qy).float().mean() > 0.8
    torch.testing.assert_close(MAML(model, 0.0).adapt(sx, sy)(qx), model(qx))
    source = tasks.from_arrays(torch.cat([sx, qx]), torch.cat([sy, qy]))
    sampler = source.sampler(3, 1, 2)
    assert sampler[0].support_x.dtype == torch.int64
    meta_train(learner, sampler, steps=2, progress=False)
    assert (learner.adapt(sx.int(), sy)(qx.int()) == learner.adapt(sx, sy)(qx)).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16])
def test_integers_for_a_network_of_floats_are_explained(dtype):
    x = torch.randint(0, 9, (6, 6)).to(dtype)
    with pytest.raises(ValueError, match=rf"inputs hold integers \({dtype}\).*x.float\(\)"):
        MAML(mlp(), 0.1).adapt(x, torch.arange(6) % 3)


def test_truth_values_are_numbers():
    x = torch.rand(6, 6) > 0.5
    a, b = (MAML(nn.Linear(6, 3), 0.0), x), (MAML(nn.Linear(6, 3), 0.0), x.float())
    b[0].model.load_state_dict(a[0].model.state_dict())
    y = torch.arange(6) % 3
    assert torch.equal(*(m.adapt(z, y)(z) for m, z in (a, b)))


def images():
    return (torch.rand(6, 2, 16, 16) * 255).to(torch.uint8), torch.arange(6) % 3


@pytest.mark.parametrize("make", [lambda m: MAML(m, 0.1), ProtoNet])
def test_one_task_has_one_scale(make):
    x, y = images()
    learner = make(models.Conv4(2, 3, width=4, norm="support", image_size=16))
    predict = learner.adapt(x, y)
    torch.testing.assert_close(predict(x.float() / 255), predict(x))
    said = "support_x holds uint8 images, which are scaled to 0..1, and query_x torch.float32 up to"
    with pytest.raises(ValueError, match=said):
        predict(x.float())
    with pytest.raises(ValueError, match=r"query_x holds uint8 images, .* support_x"):
        learner.adapt(x.float(), y)(x)
    with pytest.raises(ValueError, match=said):
        Task(x, y, x.float(), y)
    Task(x, y, x.float() / 255, y)
    with pytest.raises(ValueError, match=said):  # normalized by a mean: not on the scale, either
        Task(x, y, x.float() / 255 - 0.5, y)
    with pytest.raises(ValueError, match=said):
        learner.task_losses(TaskBatch(x[None], y[None], x[None].float(), y[None]))


# Counts of any library, and a head of any name


@pytest.mark.parametrize("integer", [np.int64, np.int32, torch.tensor])
def test_counts_of_any_library_are_counts(integer):
    sampler = Fixed(lambda g: Task(*task_of("mlp")))
    learner = MAML(mlp(), 0.1, integer(2))
    found = evaluate(learner, sampler, integer(2), steps=integer(1))
    assert len(found.values) == 2
    history = meta_train(
        learner, sampler, steps=integer(2), tasks_per_step=integer(2), progress=False
    )
    assert len(history.loss) == 2


@pytest.mark.parametrize("count", [True, 2.0, "2", -1, None])
def test_what_is_no_count_is_refused(count):
    sampler = Fixed(lambda g: Task(*task_of("mlp")))
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        meta_train(MAML(mlp(), 0.1), sampler, steps=count, progress=False)
    if count is not None:
        with pytest.raises(ValueError, match="steps must be an integer >= 0"):
            MAML(mlp(), 0.1).adapt(*task_of("mlp")[:2], steps=count)


class HeadFirst(nn.Module):
    """A first layer that happens to be called so."""

    def __init__(self):
        super().__init__()
        self.head, self.tail = nn.Linear(6, 2), nn.Linear(2, 3)

    def forward(self, x):
        return self.tail(torch.tanh(self.head(x)))


class HeadOfTwo(nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3, bias=bias))

    def forward(self, x):
        return self.head(self.body(x))


def test_a_layer_called_head_need_not_be_the_last():
    sx, sy, qx, _ = task_of("mlp")
    predict = MAML(HeadFirst(), 0.1).adapt(sx, sy)  # label 2 of a layer of two rows
    torch.testing.assert_close(predict.deploy()(qx), predict(qx))
    learner = anil(HeadFirst(), 0.1, head="tail")
    moved = learner.adapt(sx, sy).params
    assert torch.equal(moved["head.weight"], learner.model.head.weight)
    assert not torch.equal(moved["tail.weight"], learner.model.tail.weight)


def test_a_head_of_several_layers():
    sx, sy, qx, _ = task_of("mlp")
    learner = anil(HeadOfTwo(), 0.1, 2)
    predict = learner.adapt(sx, sy)
    assert torch.equal(predict.params["body.weight"], learner.model.body.weight)
    assert not torch.equal(predict.params["head.1.weight"], learner.model.head[1].weight)
    torch.testing.assert_close(predict.deploy()(qx), predict(qx))
    with pytest.raises(ValueError, match="zero_head=True needs a head 'head' of one layer"):
        MAML(HeadOfTwo(), zero_head=True)
    MAML(HeadOfTwo(), zero_head=True, head="head.3")


@pytest.mark.parametrize("engine", ["functional", "higher", "vectorised"])
def test_a_head_without_a_bias(engine):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3, bias=False)

        def forward(self, x):
            return self.head(torch.tanh(self.body(x)))

    sx, sy, qx, qy = task_of("mlp")
    learner = MAML(Plain(), 0.1, 2, zero_head=True, engine=engine)
    learner.task_losses(TaskBatch.stack([Task(sx, sy, qx, qy)])).losses.sum().backward()
    predict = learner.adapt(sx, sy)
    torch.testing.assert_close(predict.deploy()(qx), predict(qx))
    network = models.Conv4(2, 3, width=4, image_size=16, norm="support")
    network.head = nn.Linear(4, 3, bias=False)
    sx, sy, qx, _ = task_of("Conv4, support")
    predict = MAML(network, 0.1).adapt(sx, sy)
    torch.testing.assert_close(predict.deploy()(qx), predict(qx), rtol=1e-3, atol=1e-4)


def test_a_missing_head_is_named_with_what_there_is():
    for make in (lambda: anil(mlp()), lambda: MAML(mlp(), zero_head=True)):
        with pytest.raises(ValueError, match=r"no layer 'head' .* with head=, one of '0', '2'"):
            make()


def test_prototypes_train_whatever_embeds():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def embed(self, x):
            return self.head(torch.tanh(self.body(x)))

    learner = ProtoNet(Net())
    before = learner.model.head.weight.clone()
    meta_train(learner, Fixed(lambda g: Task(*task_of("mlp"))), steps=2, progress=False)
    assert not torch.equal(learner.model.head.weight, before)


def test_prototypes_of_tasks_with_different_ways_in_one_batch():
    torch.manual_seed(0)
    learner = ProtoNet(models.Conv4(2, 3, width=4, norm="group", image_size=16))
    x, q = torch.rand(4, 2, 16, 16), torch.rand(4, 2, 16, 16)
    two, four = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    pair = [Task(x, two, q, two), Task(x, four, q, four)]
    together = learner.task_losses(TaskBatch.stack(pair))
    alone = [learner.task_losses(TaskBatch.stack([t])) for t in pair]
    torch.testing.assert_close(together.losses, torch.cat([a.losses for a in alone]))
    assert together.accuracy.tolist() == [a.accuracy.item() for a in alone]
    with pytest.raises(ValueError, match=r"query_y must hold labels in 0..1, got 3"):
        learner.task_losses(TaskBatch.stack([Task(x, two, q, four)]))


# What is given is what a network reads


@pytest.mark.parametrize("make", [lambda: MAML(mlp(), 0.1), lambda: ProtoNet(Embeds())])
def test_arrays_and_lists_are_refused_with_the_way_out(make):
    sx, sy, qx, _ = task_of("mlp")
    learner = make()
    for x, y, said in (
        (sx.numpy(), sy, r"support_x must be a tensor, got numpy.ndarray: pass torch.as_tensor"),
        (sx, sy.numpy(), r"support_y must be a tensor, got numpy.ndarray"),
        (sx, sy.tolist(), r"support_y must be a tensor, got list: pass torch.as_tensor\(support_y"),
        (None, sy, r"support_x must be a tensor, got NoneType"),
    ):
        with pytest.raises(TypeError, match=said):
            learner.adapt(x, y)
    with pytest.raises(TypeError, match=r"x must be a tensor, got numpy.ndarray"):
        learner.adapt(sx, sy)(qx.numpy())


class Embeds(nn.Linear):
    def __init__(self):
        super().__init__(6, 4)

    def embed(self, x):
        return self(x)


class Both(nn.Linear):
    """It gives its inputs back, too."""

    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize("engine", ["functional", "higher"])
def test_outputs_are_one_tensor(engine):
    sx, sy, qx, qy = task_of("mlp")
    learner = MAML(Both(6, 3), 0.1, engine=engine)
    with pytest.raises(TypeError, match=r"forward\(\) must give one tensor .*, got tuple"):
        learner.adapt(sx, sy)
    with pytest.raises(TypeError, match=r"forward\(\) must give one tensor .*, got tuple"):
        learner.task_losses(TaskBatch.stack([Task(sx, sy, qx, qy)]))


def test_lazy_layers_are_called_once_before():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"a lazy layer whose 0.weight has no shape yet: call"):
        MAML(model, 0.1)
    sx, sy, qx, _ = task_of("mlp")
    model(sx)
    assert MAML(model, 0.1).adapt(sx, sy)(qx).shape == (9, 3)


def test_labels_in_a_column_are_refused():
    sx, sy, *_ = task_of("mlp")
    with pytest.raises(ValueError, match=r"support_y must be labels \[B\].*got shape \[9, 1\]"):
        MAML(mlp(), 0.1).adapt(sx, sy[:, None])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.float32])
def test_labels_of_cross_entropy_are_int64(dtype):
    sx, sy, *_ = task_of("mlp")
    with pytest.raises(ValueError, match=f"support_y must be int64 labels, got {dtype}"):
        MAML(mlp(), 0.1).adapt(sx, sy.to(dtype))
