"""Prototypical networks by hand: class means, squared distances, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import (
    WAYS,
    LiveBytes,
    assert_same,
    conv4,
    difference,
    easy_source,
    images,
    parameters,
)
from torch import nn

from metalearn_tut import ProtoNet, tasks
from metalearn_tut.learners.protonet import distance_logits, prototypes
from metalearn_tut.tasks import Task, TaskBatch


def test_prototypes_are_class_means_whatever_the_order_and_the_counts():
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [5.0, 2.0], [0.0, 7.0]])
    found = prototypes(features, torch.tensor([1, 0, 1, 1]))
    assert found.tolist() == [[3.0, 4.0], [2.0, 3.0]]


def test_logits_are_minus_squared_distances():
    """(3, 4) is 5 from the origin: 25, not 5, which a square root would give."""
    queries = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    centers = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    assert distance_logits(queries, centers).tolist() == [[-25, 0, -13], [0, -25, -4]]


class Identity(nn.Module):
    """Features are the inputs times one trained scale."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def embed(self, x):
        return self.scale * x


def test_the_loss_of_a_small_example_by_hand():
    """Prototypes at 0 and 2·1 = 2 under scale 2; the query at 0.5 becomes 1: a tie."""
    task = Task(
        torch.tensor([[0.0], [1.0]]), torch.arange(2), torch.tensor([[0.5], [1.0]]), torch.arange(2)
    )
    learner = ProtoNet(Identity())
    logits = learner.adapt(task.support_x, task.support_y)(task.query_x)
    assert logits.tolist() == [[-1, -1], [-4, 0]]
    losses, accuracy = learner.task_losses(TaskBatch.stack([task]))
    expected = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-4.0)))) / 2
    assert losses.item() == pytest.approx(expected.item(), rel=1e-6)
    assert accuracy.item() == 1.0  # argmax takes the first of a tie
    # d/ds of log(1 + exp(-s²)) / 2, since the tie stays a tie
    (slope,) = torch.autograd.grad(losses.sum(), learner.model.scale)
    assert slope.item() == pytest.approx(-2 * 2 / (1 + torch.e**4) / 2, rel=1e-5)


def by_hand(model, params, task):
    """Loops and scalars; the embedding alone is the model's."""
    kwargs = {}
    if model.norm == "support":
        x = torch.cat([task.support_x, task.query_x])
        kwargs = {"n_support": len(task.support_x)}
        features = embedded(model, params, x, **kwargs)
        support, query = features[: len(task.support_x)], features[len(task.support_x) :]
    else:
        support, query = (embedded(model, params, x) for x in (task.support_x, task.query_x))
    total = 0.0
    for q, label in zip(query, task.query_y, strict=True):
        distances = []
        for c in range(WAYS):
            center = torch.stack(
                [s for s, y in zip(support, task.support_y, strict=True) if y == c]
            )
            distances.append(((q - center.mean(0)) ** 2).sum())
        total = total + distances[label] + torch.logsumexp(-torch.stack(distances), 0)
    return total / len(query)


def embedded(model, params, x, **kwargs):
    """``model.embed`` with these parameters in place of the model's."""

    class Embed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, **kwargs):
            return self.net.embed(x, **kwargs)

    named = {f"net.{n}": p for n, p in params.items()}
    return torch.func.functional_call(Embed(), named, (x,), kwargs)


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_losses_and_gradients_against_loops_and_finite_differences(norm):
    model, batch = conv4(norm), images(shots=2)
    learner = ProtoNet(model)
    metas = learner.meta_parameters()
    assert set(metas) == {n for n, _ in model.named_parameters() if not n.startswith("head.")}
    losses = learner.task_losses(batch).losses
    theta = {n: p for n, p in parameters(model).items() if n in metas}
    expected = torch.stack([by_hand(model, theta, task) for task in batch])
    torch.testing.assert_close(losses, expected, rtol=1e-11, atol=0)
    found, wanted = (
        dict(zip(metas, torch.autograd.grad(x.sum(), list(at.values())), strict=True))
        for x, at in ((losses, metas), (expected, theta))
    )
    assert_same(found, wanted)
    slope, direction = difference(
        lambda p: sum(by_hand(model, p, task) for task in batch), theta, 1e-6
    )
    assert sum((found[n] * d).sum().item() for n, d in direction.items()) == pytest.approx(
        slope, rel=1e-6
    )


def test_adapting_gives_the_logits_that_training_scores():
    learner, batch = ProtoNet(conv4("support")), images(tasks=3, queries=4)
    losses, accuracy = learner.task_losses(batch)
    for task, loss, share in zip(batch, losses, accuracy, strict=True):
        logits = learner.adapt(task.support_x, task.support_y)(task.query_x)
        assert F.cross_entropy(logits, task.query_y).item() == pytest.approx(loss.item(), rel=1e-12)
        assert (logits.argmax(1) == task.query_y).float().mean().item() == share.item()
        assert not logits.requires_grad


def test_ways_are_free_in_training_and_afterwards():
    learner = ProtoNet(conv4("support"))  # a head of three rows, which is not used
    x, y = torch.rand(40, 1, 16, 16, dtype=torch.float64), torch.arange(40) % 8
    sampler = tasks.from_arrays(x, y).sampler(ways=7, shots=1, queries=2)
    losses, _ = learner.task_losses(sampler.batch(0, 2))
    assert torch.isfinite(losses).all()
    for ways in (2, 5):
        logits = learner.adapt(x[:ways], torch.arange(ways))(x[8:11])
        assert logits.shape == (3, ways)


def test_a_query_image_is_classified_alone_in_the_deployable_mode():
    task = images(queries=4)[0]
    for norm in ("support", "group", "none"):
        predict = ProtoNet(conv4(norm)).adapt(task.support_x, task.support_y)
        alone = torch.cat([predict(x.unsqueeze(0)) for x in task.query_x])
        torch.testing.assert_close(alone, predict(task.query_x), rtol=1e-10, atol=1e-12)
    predict = ProtoNet(conv4("batch")).adapt(task.support_x, task.support_y)
    assert (predict(task.query_x[:6]) - predict(task.query_x)[:6]).abs().max() > 1e-3


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_a_deployed_network_gives_the_same_probabilities_from_a_linear_head(ways):
    learner = ProtoNet(conv4("support"))
    x, y = torch.rand(2 * ways, 1, 16, 16, dtype=torch.float64), torch.arange(2 * ways) % ways
    predict, query = learner.adapt(x, y), torch.rand(7, 1, 16, 16, dtype=torch.float64)
    network = predict.deploy()
    assert not network.training and network.head.weight.shape[0] == ways
    expected = predict(query).softmax(1)
    torch.testing.assert_close(network(query).softmax(1), expected, rtol=1e-10, atol=1e-12)
    moved = network(query) - predict(query)
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved), rtol=1e-9, atol=1e-9)


def test_predicting_takes_bytes():
    learner = ProtoNet(conv4("support"))
    x = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    floats = x.double() / 255
    predictions = (learner.adapt(i, torch.arange(3))(i) for i in (x, floats))
    assert torch.equal(*predictions)


def test_evaluation_holds_nothing():
    learner, task = ProtoNet(conv4("support")), images()[0]
    with LiveBytes() as live:
        for _ in range(5):
            outputs = learner.adapt(task.support_x, task.support_y)(task.query_x)
    assert live.count() == outputs.untyped_storage().nbytes()


def test_thirty_steps_of_training_help():
    torch.manual_seed(0)
    learner = ProtoNet(conv4("support").float())
    sampler = easy_source().sampler(ways=WAYS, shots=1, queries=3)
    optimizer = torch.optim.Adam(learner.meta_parameters().values(), lr=0.02)
    history = []
    for step in range(30):
        losses, _ = learner.task_losses(sampler.batch(step, 4))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        history.append(losses.mean().item())
    assert sum(history[-5:]) < 0.6 * sum(history[:5])


# Bad input


def with_labels(**changed):
    batch = images()
    labels = {n: changed.get(n, getattr(batch, n)) for n in ("support_y", "query_y")}
    return TaskBatch(batch.support_x, labels["support_y"], batch.query_x, labels["query_y"])


Y = torch.tensor([[0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"support_y": Y - 1}, r"support_y must hold labels >= 0, got -1"),
        ({"support_y": Y.int()}, r"support_y must be int64 labels, got torch.int32"),
        ({"support_y": Y.double()}, r"support_y must be int64 labels, got torch.float64"),
        ({"support_y": 2 * Y}, r"support_y must hold every label in 0..4, got no 1"),
        ({"support_y": Y * 0}, r"query_y must hold labels in 0..0, got 2"),
        ({"query_y": images().query_y + 1}, r"query_y must hold labels in 0..2, got 3"),
    ],
)
def test_bad_labels(changed, message):
    with pytest.raises(ValueError, match=message) as caught:
        ProtoNet(conv4()).task_losses(with_labels(**changed))
    assert "\n" not in str(caught.value)


def test_bad_support_sets():
    learner, x = ProtoNet(conv4()), images()[0].support_x
    for bad_x, y, message in (
        (x, Y[0] - 1, r"support_y must hold labels >= 0, got -1"),
        (x, Y[0].double(), r"support_y must be int64 labels, got torch.float64"),
        (x, 2 * Y[0], r"support_y must hold every label in 0..4, got no 1"),
        (x / 0, Y[0], r"support_x must be finite"),
        (x, Y[0, :2], r"support_x and support_y must have one row per example, got 3 .* and 2"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.adapt(bad_x, y)
    with pytest.raises(ValueError, match=r"ProtoNet needs a model with embed\(x\), got Linear"):
        ProtoNet(nn.Linear(3, 3))
