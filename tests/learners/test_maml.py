"""MAML and its relatives against hand computations, and losses that carry their gradients."""

import copy
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import (
    UNROLLED,
    WAYS,
    Louder,
    assert_same,
    bilevel_loss,
    conv4,
    difference,
    easy_source,
    images,
    mlp,
    parameters,
    seeded,
    vectors,
    written_out,
)
from torch import nn

from metalearn_tut import MAML, Reptile, models, tasks
from metalearn_tut.bilevel import TaskGradients, meta_gradient, parameters_of
from metalearn_tut.learners.gradients import attach_gradients
from metalearn_tut.learners.maml import anil, fomaml, meta_sgd
from metalearn_tut.scoring import scores

HEAD = ("head.weight", "head.bias")
unrolled = pytest.mark.parametrize("engine", UNROLLED)


def backward(learner, batch, progress=1.0, aggregate=torch.mean):
    """Gradients of the aggregated losses with respect to the meta-parameters."""
    metas = learner.meta_parameters()
    loss = aggregate(learner.task_losses(batch, progress).losses)
    grads = torch.autograd.grad(loss, list(metas.values()), materialize_grads=True)
    return dict(zip(metas, grads, strict=True))


# Losses that carry their gradients


AGGREGATES = {
    "mean": torch.mean,
    "max": torch.max,
    "weighted": lambda losses: losses @ torch.tensor([0.1, -2.0, 0.7], dtype=torch.float64),
    "not linear": lambda losses: torch.logsumexp(3 * losses, 0) + losses.prod(),
    "ranked range": lambda losses: losses.sort().values[1:].mean(),
}


@pytest.mark.slow(quick=5)
@unrolled
@pytest.mark.parametrize("name", AGGREGATES)
def test_any_aggregate_of_the_losses_has_the_gradient_of_one_big_graph(name, engine):
    model, batch, aggregate = mlp(), vectors(tasks=3), AGGREGATES[name]
    theta = parameters(model)
    losses = torch.stack(
        [bilevel_loss(model, theta, t, lr=lambda k, n: 0.4, steps=2) for t in batch]
    )
    grads = torch.autograd.grad(aggregate(losses), list(theta.values()))
    learner = MAML(model, 0.4, 2, engine=engine)
    found = backward(learner, batch, aggregate=aggregate)
    assert_same(found, dict(zip(theta, grads, strict=True)))
    torch.testing.assert_close(learner.task_losses(batch).losses, losses, rtol=1e-12, atol=0)


def test_attached_gradients_are_weighted_sums_in_each_tensors_own_dtype():
    w = torch.zeros(2, 2, requires_grad=True)
    b = torch.zeros((), dtype=torch.float64, requires_grad=True)
    frozen = torch.zeros(1)
    gradients = {
        "w": torch.arange(12.0).view(3, 2, 2),
        "b": torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64),
        "frozen": torch.ones(3, 1),
    }
    result = TaskGradients(torch.tensor([1.0, 2.0, 3.0]), torch.empty(0), gradients)
    losses = attach_gradients(result, {"w": w, "b": b, "frozen": frozen})
    assert losses.tolist() == [1.0, 2.0, 3.0]
    (losses * torch.tensor([1.0, 0.5, -1.0])).sum().backward()
    assert torch.equal(w.grad, gradients["w"][0] + gradients["w"][1] / 2 - gradients["w"][2])
    assert b.grad.item() == 1 + 1 - 4
    assert b.grad.dtype == torch.float64
    assert frozen.grad is None


def test_backward_leaves_the_meta_gradient_in_the_model():
    model = conv4()
    MAML(model, 0.4, 1).task_losses(images()).losses.mean().backward()
    found = {n: p.grad for n, p in model.named_parameters()}
    assert_same(found, meta_gradient(model, images(), inner_lr=0.4, inner_steps=1), rtol=1e-12)


def test_accuracy_counts_the_right_labels_of_each_task():
    outputs = torch.tensor([[[2.0, 1.0], [0.0, 3.0]], [[2.0, 1.0], [9.0, 3.0]]])
    assert scores(None, outputs, torch.tensor([[0, 1], [1, 0]])).tolist() == [1.0, 0.5]
    assert scores(None, outputs, torch.zeros(2, 2)) is None


def test_the_reported_accuracy_is_that_of_the_adapted_model():
    learner, batch = MAML(conv4(), 0.4, 2), images(tasks=3, queries=5)
    reported = learner.task_losses(batch).accuracy
    for task, accuracy in zip(batch, reported, strict=True):
        outputs = learner.adapt(task.support_x, task.support_y)(task.query_x)
        assert accuracy.item() == (outputs.argmax(1) == task.query_y).float().mean().item()


# A head that starts at zero


def zero_headed(norm="support", **settings):
    return MAML(conv4(norm), **{"inner_lr": 0.4, "zero_head": True, **settings})


def with_zero_head(model):
    model = copy.deepcopy(model)
    for p in model.head.parameters():
        nn.init.zeros_(p)
    return model


@pytest.mark.slow(quick=6)
@unrolled
@pytest.mark.parametrize("norm", ["support", "group"])
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_zero_head_trains_the_embedding_from_heads_at_zero(steps, norm, engine):
    """One step moves the head alone; that shortcut must be exact."""
    learner = zero_headed(norm, inner_steps=steps, engine=engine)
    assert set(learner.meta_parameters()) == {
        n for n, _ in learner.model.named_parameters() if n not in HEAD
    }
    expected = written_out(
        with_zero_head(learner.model), images(), lr=lambda k, n: 0.4, steps=steps
    )
    found = backward(learner, images())
    assert_same(found, {n: g for n, g in expected.items() if n not in HEAD})


@pytest.mark.parametrize("ways", [2, 3, 5])
def test_zero_head_adapts_to_any_number_of_ways(ways):
    """One step from zero: W = lr / n · (Y - 1/N)' F, and b = lr · mean(Y - 1/N)."""
    learner = zero_headed(inner_steps=1)
    x, query = torch.randn(2 * ways, 1, 16, 16).double(), torch.randn(4, 1, 16, 16).double()
    y = torch.arange(2 * ways) % ways
    pushed = F.one_hot(y).double() - 1 / ways
    features = learner.model.embed(torch.cat([x, query]), 2 * ways).detach()
    weight = 0.4 / (2 * ways) * pushed.T @ features[: 2 * ways]
    expected = features[2 * ways :] @ weight.T + 0.4 * pushed.mean(0)
    found = learner.adapt(x, y)(query)
    assert found.shape == (4, ways)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


def test_zero_head_treats_labels_alike():
    learner, task = zero_headed(inner_steps=3), images(shots=2)[0]
    order = torch.tensor([2, 0, 1])
    plain = learner.adapt(task.support_x, task.support_y)(task.query_x)
    permuted = learner.adapt(task.support_x, order[task.support_y])(task.query_x)
    torch.testing.assert_close(permuted[:, order], plain, rtol=1e-12, atol=1e-13)


def test_a_forward_of_your_own_takes_no_shortcut():
    class Skip(models.Conv4):
        def forward(self, x, n_support=None):
            features = self.embed(x, n_support)
            return self.head(features) + features[:, :WAYS]

    model = seeded(lambda: Skip(1, WAYS, width=4, norm="group", image_size=16))
    learner = MAML(model, 0.4, 1, zero_head=True)
    expected = written_out(with_zero_head(model), images(), lr=lambda k, n: 0.4, steps=1)
    found = backward(learner, images())
    assert_same(found, {n: g for n, g in expected.items() if n not in HEAD})
    task = images()[0]
    params = learner.adapt(task.support_x, task.support_y).params
    moved = params["blocks.0.conv.weight"] - model.blocks[0].conv.weight
    assert moved.abs().max() > 1e-4


# Learned rates


SHAPES = {
    "fixed": {},
    "shared": {"rates": ()},
    "per_layer": {f"rates.{n}": () for n in ("0.weight", "0.bias", "2.weight", "2.bias")},
    "per_layer_and_step": {
        f"rates.{n}": (2,) for n in ("0.weight", "0.bias", "2.weight", "2.bias")
    },
    "per_weight": {f"rates.{n}": tuple(p.shape) for n, p in mlp().named_parameters()},
}
kinds = pytest.mark.parametrize("kind", [k for k in SHAPES if k != "fixed"])


@pytest.mark.parametrize("kind", SHAPES)
def test_learned_rates_are_meta_parameters_that_start_equal(kind):
    model = mlp()
    metas = MAML(model, 0.4, 2, rate_mode=kind).meta_parameters()
    rates = {n: r for n, r in metas.items() if n not in dict(model.named_parameters())}
    assert {n: tuple(r.shape) for n, r in rates.items()} == SHAPES[kind]
    for r in rates.values():
        assert (r == 0.4).all() and r.requires_grad and r.is_leaf and r.dtype == torch.float64


@kinds
@unrolled
def test_equal_rates_give_the_gradient_of_the_fixed_one(kind, engine):
    found = backward(MAML(mlp(), 0.4, 2, rate_mode=kind, engine=engine), vectors())
    fixed = backward(MAML(mlp(), 0.4, 2, engine=engine), vectors())
    assert_same({n: found[n] for n in fixed}, fixed, rtol=1e-11)


@kinds
@unrolled
def test_the_rates_gradient_by_finite_differences(kind, engine):
    learner, batch = MAML(mlp(), 0.4, 2, rate_mode=kind, engine=engine), vectors()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # away from equal rates
        for r in learner.learned_rates.values():
            r.mul_(1 + 0.5 * torch.rand(r.shape, generator=generator, dtype=torch.float64))
    found = backward(learner, batch)
    own = {n: r.detach().clone() for n, r in learner.learned_rates.items()}

    def loss(rates):
        with torch.no_grad():
            for n, r in learner.learned_rates.items():
                r.copy_(rates[n])
        return learner.task_losses(batch).losses.mean().detach()

    expected, direction = difference(loss, own)
    assert sum((found[n] * d).sum().item() for n, d in direction.items()) == pytest.approx(
        expected, rel=1e-6
    )


@kinds
def test_a_step_downhill_changes_the_rates_and_lowers_the_loss(kind):
    learner, batch = MAML(mlp(), 0.4, 2, rate_mode=kind), vectors()
    before = learner.task_losses(batch).losses.mean()
    before.backward()
    with torch.no_grad():
        for r in learner.learned_rates.values():
            assert r.grad.abs().max() > 0
            r -= 0.05 * r.grad
    after = learner.task_losses(batch).losses.mean()
    assert after < before


def test_steps_beyond_the_trained_ones_use_the_last_rate():
    learner, task = MAML(mlp(), 0.4, 2, rate_mode="per_layer_and_step"), vectors()[0]
    with torch.no_grad():
        for r in learner.learned_rates.values():
            r.copy_(torch.tensor([0.1, 0.3], dtype=torch.float64))
    found = learner.adapt(task.support_x, task.support_y, steps=4).params
    fixed = [MAML(learner.model, lr, 1) for lr in (0.1, 0.3, 0.3, 0.3)]
    model = copy.deepcopy(learner.model)
    for step in fixed:
        step.model = model
        params = step.adapt(task.support_x, task.support_y).params
        model.load_state_dict(params)
    assert_same(found, params, rtol=1e-12)
    one = learner.adapt(task.support_x, task.support_y, steps=1).params
    assert_same(one, MAML(learner.model, 0.1, 1).adapt(task.support_x, task.support_y).params)


# Losses after every step


def test_step_weights_fade_from_all_equal_to_the_last_alone():
    learner = MAML(mlp(), 0.4, 4, multi_step_loss=0.5)
    assert learner.step_weights(0.0) == pytest.approx([0.25] * 4)
    assert learner.step_weights(0.25) == pytest.approx([0.125] * 3 + [0.625])
    for progress in (0.0, 0.1, 0.3, 0.49):
        weights = learner.step_weights(progress)
        assert sum(weights) == pytest.approx(1, abs=1e-15)
        assert min(weights) > 0
    assert learner.step_weights(0.5) is None
    assert learner.step_weights(1.0) is None
    assert MAML(mlp(), 0.4, 4).step_weights(0.0) is None
    assert MAML(mlp(), 0.4, 1, multi_step_loss=0.5).step_weights(0.0) is None


@unrolled
def test_early_steps_count_while_they_have_a_weight(engine):
    learner = MAML(mlp(), 0.4, 2, multi_step_loss=0.5, engine=engine)
    for progress, weights in ((0.25, [0.25, 0.75]), (0.5, [0.0, 1.0])):
        expected = written_out(mlp(), vectors(), lr=lambda k, n: 0.4, steps=2, step_weights=weights)
        assert_same(backward(learner, vectors(), progress), expected)


# The relatives


def test_first_order_maml_is_the_gradient_at_the_adapted_parameters():
    model, task = conv4(), images(tasks=1)[0]
    adapted = MAML(model, 0.4, 2).adapt(task.support_x, task.support_y).params
    leaves = {n: p.requires_grad_() for n, p in adapted.items()}
    outputs = torch.func.functional_call(model, leaves, (task.query_x,))
    grads = torch.autograd.grad(F.cross_entropy(outputs, task.query_y), list(leaves.values()))
    found = backward(fomaml(model, 0.4, 2), images(tasks=1))
    assert_same(found, dict(zip(leaves, grads, strict=True)))


def test_anil_adapts_the_head_and_trains_everything():
    model, batch = conv4(), images()
    learner = anil(model, 0.4, 2)
    expected = written_out(model, batch, lr=lambda k, n: 0.4, steps=2, groups=[list(HEAD)])
    assert_same(backward(learner, batch), expected)
    params = learner.adapt(batch[0].support_x, batch[0].support_y).params
    for name, p in model.named_parameters():
        assert torch.equal(params[name], p) == (name not in HEAD)


def test_meta_sgd_has_one_rate_per_weight():
    learner = meta_sgd(mlp(), 0.3, 2)
    assert (learner.rate_mode, learner.inner_lr) == ("per_weight", 0.3)
    expected = backward(MAML(mlp(), 0.3, 2), vectors())
    found = backward(learner, vectors())
    assert_same({n: found[n] for n in expected}, expected, rtol=1e-12)


def descended(model, x, y, start, steps=3, lr=0.1):
    """Plain gradient descent, written out."""
    params = {n: p.detach().clone() for n, p in start.items()}
    for _ in range(steps):
        leaves = {n: p.requires_grad_() for n, p in params.items()}
        loss = F.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        params = {n: (p - lr * g).detach() for (n, p), g in zip(leaves.items(), grads, strict=True)}
    return params


@pytest.mark.parametrize("zero_head", [False, True])
def test_reptile_moves_towards_where_each_task_ends(zero_head):
    model, batch = conv4(), images()
    learner = Reptile(model, 0.1, 3, zero_head=zero_head)
    start = parameters(with_zero_head(model) if zero_head else model)
    moves = []
    for task in batch:
        x, y = torch.cat([task.support_x, task.query_x]), torch.cat([task.support_y, task.query_y])
        end = descended(model, x, y, start)
        moves.append({n: start[n] - end[n] for n in learner.meta_parameters()})
    found = backward(learner, batch)
    assert_same(found, {n: (moves[0][n] + moves[1][n]) / 2 for n in moves[0]}, rtol=1e-11)


def test_reptile_reports_the_query_loss_after_the_support_set_alone():
    model, batch = conv4(), images()
    result = Reptile(model, 0.1, 3).task_losses(batch)
    for task, loss, accuracy in zip(batch, *result, strict=True):
        end = descended(model, task.support_x, task.support_y, parameters(model))
        outputs = torch.func.functional_call(model, end, (task.query_x,))
        assert loss.item() == pytest.approx(F.cross_entropy(outputs, task.query_y).item())
        assert accuracy.item() == (outputs.argmax(1) == task.query_y).float().mean().item()


def test_reptile_leaves_masked_weights_alone():
    mask = (torch.arange(40).view(8, 5) % 2).double()
    found = backward(Reptile(mlp(), 0.1, 2, masks={"0.weight": mask}), vectors())
    assert torch.equal(found["0.weight"] == 0, mask == 0)


def test_settings_reach_training_and_adapting():
    model, batch = mlp(), vectors()
    mask = (torch.arange(40).view(8, 5) % 2).double()
    settings = {
        "masks": {"0.weight": mask},
        "prox_weight": 0.5,
        "groups": [["2.weight", "2.bias"], ["0.weight"]],
        "inner_loss": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.3),
    }
    learner = MAML(model, 0.4, 2, **settings)
    expected = written_out(model, batch, lr=lambda k, n: 0.4, steps=2, **settings)
    assert_same(backward(learner, batch), expected)
    task = batch[0]
    loss = F.cross_entropy(
        learner.adapt(task.support_x, task.support_y)(task.query_x), task.query_y
    )
    assert loss.item() == pytest.approx(learner.task_losses(batch).losses[0].item(), rel=1e-12)
    again = MAML(model, 0.4, 2, recompute=True, **settings)
    assert_same(backward(again, batch), expected)


class Counting(nn.Linear):
    """A layer that counts its calls, in every copy of it."""

    calls: ClassVar[list[int]] = []

    def forward(self, x):
        self.calls.append(len(x))
        return super().forward(x)


def test_a_learner_told_to_recompute_calls_the_network_again_in_each_step():
    model, batch = nn.Sequential(Counting(5, 3)).double(), vectors(tasks=1)
    support, calls = batch.support_y.shape[1], {}
    for recompute in (False, True):
        Counting.calls.clear()
        backward(MAML(model, 0.1, 4, recompute=recompute), batch)
        calls[recompute] = Counting.calls.count(support)
    assert calls[False] == 4 and calls[True] >= 2 * 4


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_implicit_gradients_of_a_learner(solver):
    model, batch = mlp(), vectors()
    settings = {"engine": "implicit", "prox_weight": 2.0, "solver": solver, "solver_steps": 5}
    found = backward(MAML(model, 0.2, 20, **settings), batch)
    assert_same(found, meta_gradient(model, batch, inner_lr=0.2, inner_steps=20, **settings), 0)


@pytest.mark.parametrize("kind", [MAML, Reptile])
def test_adapting_takes_a_loss_that_is_a_module_as_it_is_in_use(kind):
    model, task, loss = mlp(), vectors()[0], Louder()
    found = kind(model, 0.4, 2, inner_loss=loss).adapt(task.support_x, task.support_y)
    expected = kind(model, 0.4, 2).adapt(task.support_x, task.support_y)
    assert loss.training
    assert_same(found.params, expected.params, 0)


def test_one_implicit_step_from_a_zero_head_solves_for_all_parameters():
    model, batch = conv4("none"), images(tasks=1)
    settings = {"engine": "implicit", "prox_weight": 2.0, "zero_head": True, "solver_steps": 3}
    found = backward(MAML(model, 0.1, 1, **settings), batch)
    every = [[name for name, _ in model.named_parameters()]]
    expected = backward(MAML(model, 0.1, 1, groups=every, **settings), batch)
    assert_same(found, expected, 0)


def test_regression_has_no_accuracy():
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    batch = tasks.sinusoid(shots=4, queries=4, seed=0).batch(0, 2)
    learner = MAML(model, 0.01, 2, loss=F.mse_loss)
    losses, accuracy = learner.task_losses(batch)
    assert accuracy is None
    predict = learner.adapt(batch[0].support_x, batch[0].support_y)
    assert F.mse_loss(predict(batch[0].query_x), batch[0].query_y).item() == pytest.approx(
        losses[0].item(), rel=1e-5
    )


def spread(outputs, targets):
    """A metric that is neither accuracy nor loss."""
    return outputs.std() + targets.float().mean()


@pytest.mark.parametrize("kind", [MAML, Reptile])
def test_a_metric_of_ones_own_scores_the_query_outputs_of_each_task(kind):
    learner, batch = kind(mlp(), 0.4, 2, metric=spread), vectors(tasks=2)
    for task, found in zip(batch, learner.task_losses(batch).accuracy, strict=True):
        outputs = learner.adapt(task.support_x, task.support_y)(task.query_x)
        torch.testing.assert_close(found.double(), spread(outputs, task.query_y).double())


# Predicting


def test_a_query_image_is_classified_alone_in_the_deployable_mode():
    task = images(queries=4)[0]
    for norm in ("support", "group", "none"):
        predict = MAML(conv4(norm), 0.4, 2).adapt(task.support_x, task.support_y)
        together = predict(task.query_x)
        alone = torch.cat([predict(x.unsqueeze(0)) for x in task.query_x])
        torch.testing.assert_close(alone, together, rtol=1e-10, atol=1e-12)
    predict = MAML(conv4("batch"), 0.4, 2).adapt(task.support_x, task.support_y)
    assert (predict(task.query_x[:6]) - predict(task.query_x)[:6]).abs().max() > 1e-3


def test_predicting_takes_bytes_and_gives_no_graph():
    learner = MAML(conv4("support"), 0.4, 1)
    x = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    outputs = learner.adapt(x, torch.arange(3))(x)
    floats = learner.adapt(x.double() / 255, torch.arange(3))(x.double() / 255)
    assert torch.equal(outputs, floats)
    assert not outputs.requires_grad


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("norm", ["support", "group"])
def test_the_deployed_network_predicts_the_same(norm, zero_head):
    learner, task = MAML(conv4(norm), 0.4, 2, zero_head=zero_head), images(queries=4)[0]
    predict = learner.adapt(task.support_x, task.support_y)
    network = predict.deploy()
    with torch.no_grad():
        torch.testing.assert_close(
            network(task.query_x), predict(task.query_x), rtol=1e-9, atol=1e-11
        )


def test_adapting_leaves_the_model_and_takes_as_many_steps_as_told():
    model, task = conv4(), images()[0]
    before = copy.deepcopy(model.state_dict())
    learner = MAML(model, 0.4, 2)
    for steps in (0, 1, 2, 5, None):
        params = learner.adapt(task.support_x, task.support_y, steps=steps).params
        k = 2 if steps is None else steps
        expected = descended(model, task.support_x, task.support_y, parameters(model), k, 0.4)
        assert_same(params, expected, rtol=1e-11)
        assert all(p.grad_fn is None for p in params.values())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("make", [MAML, anil])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_predictor_keeps_its_answers_while_training_goes_on(make, steps):
    learner, task = make(conv4("support"), 0.4, steps), images()[0]
    predict = learner.adapt(task.support_x, task.support_y)
    before = predict(task.query_x)
    with torch.no_grad():
        for p in learner.meta_parameters().values():
            p.add_(1.0)
    assert torch.equal(predict(task.query_x), before)


# Training


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("make", [MAML, fomaml, anil, meta_sgd])
def test_thirty_steps_of_training_help(make):
    torch.manual_seed(1)
    model = models.Conv4(1, WAYS, width=4, norm="support", image_size=16)
    learner = make(model, 0.4, 1)
    sampler = easy_source().sampler(ways=WAYS, shots=1, queries=3)
    optimizer = torch.optim.Adam(learner.meta_parameters().values(), lr=0.05)
    history = []
    for step in range(30):
        losses, accuracy = learner.task_losses(sampler.batch(step, 4))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        history.append((losses.mean().item(), accuracy.mean().item()))
    (first, early), (last, late) = (
        [sum(v) / 5 for v in zip(*part, strict=True)] for part in (history[:5], history[-5:])
    )
    assert last < 0.75 * first
    assert late > early + 0.05


# Bad input


BAD = {
    "engine": ({"engine": "jax"}, r"engine must be one of 'functional', .* got 'jax'"),
    "rates": ({"rate_mode": "many"}, r"rate_mode must be one of 'fixed', 'shared', .* got 'many'"),
    "multi_step_loss": ({"multi_step_loss": 1.5}, r"multi_step_loss must be in 0..1, got 1.5"),
    "steps": ({"inner_steps": -1}, r"steps must be an integer >= 0, got -1"),
    "rate": ({"inner_lr": float("inf")}, r"inner_lr must be finite and >= 0, got inf"),
    "zero_head": (
        {"zero_head": True},
        r"Sequential has no layer 'head' .* name it with head=, one of '0', '2'",
    ),
    "masks": ({"masks": {"w": torch.ones(1)}}, r"masks names no parameter of the model: w"),
    "groups": ({"groups": [["w"]]}, r"groups names no parameter of the model: w"),
    "step rates": (
        {"rate_mode": "per_layer_and_step", "inner_steps": 0},
        r"rate_mode='per_layer_and_step' needs inner_steps >= 1, got 0",
    ),
    "rates from rates": (
        {"rate_mode": "shared", "inner_lr": [0.1]},
        r"rate_mode='shared' start at one number, got inner_lr=\[0.1\]",
    ),
    "solver": ({"solver": "neumann"}, r"are of engine='implicit', got engine='functional'"),
    "implicit rates": (
        {"rate_mode": "shared", "engine": "implicit", "prox_weight": 1.0},
        r"engine='implicit' cannot learn rates, got rate_mode='shared'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        MAML(mlp(), **settings)
    assert "\n" not in str(caught.value)


def test_unknown_settings_are_refused_when_the_learner_is_made():
    with pytest.raises(
        TypeError, match=r"MAML.* unexpected keyword argument 'inner_learning_rate'"
    ):
        MAML(mlp(), inner_learning_rate=0.1)
    for name in ("engine", "rates", "first_order", "multi_step_loss", "recompute"):
        with pytest.raises(TypeError, match=f"Reptile.* unexpected keyword argument '{name}'"):
            Reptile(mlp(), **{name: True})
    with pytest.raises(ValueError, match=r"Sequential has no layer 'head' .* name it with head="):
        anil(mlp())


BAD_SUPPORT = {
    "negative": (torch.tensor([0, 1, -1]), r"support_y must hold labels .*, got -1"),
    "ignored": (torch.tensor([0, 1, -100]), r"support_y must hold labels .*, got -100"),
    "all negative": (torch.tensor([-1, -1, -1]), r"support_y must hold labels .*, got -1"),
    "int32": (torch.tensor([0, 1, 2]).int(), r"support_y must be int64 labels, got torch.int32"),
    "float": (torch.tensor([0.0, 1, 2]), r"support_y must be int64 labels, got torch.float32"),
    "short": (torch.tensor([0, 1]), r"one row per example, got 3 inputs and 2 targets"),
}


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("name", BAD_SUPPORT)
def test_bad_support_sets(name, zero_head):
    y, message = BAD_SUPPORT[name]
    learner = MAML(conv4(), 0.4, 1, zero_head=zero_head)
    with pytest.raises(ValueError, match=message) as caught:
        learner.adapt(images()[0].support_x, y)
    assert "\n" not in str(caught.value)


def test_bad_support_images_and_too_many_ways():
    x, y = images()[0].support_x, torch.arange(3)
    learner = MAML(conv4(), 0.4, 1)
    with pytest.raises(ValueError, match=r"support_y must hold labels in 0..2, got 3"):
        learner.adapt(x, y + 1)
    with pytest.raises(ValueError, match="support_x must be finite"):
        learner.adapt(x / 0, y)
    with pytest.raises(ValueError, match="steps must be an integer >= 0, got -1"):
        learner.adapt(x, y, steps=-1)
    per_weight = MAML(conv4(), 0.4, 1, zero_head=True, rate_mode="per_weight")
    with pytest.raises(ValueError, match=r"inner_lr\['head.*'\] must .* shape \[2.*got shape \[3"):
        per_weight.adapt(x[:2], y[:2])
    with pytest.raises(ValueError, match="inner_lr has 1 entries, fewer than inner_steps=2"):
        MAML(conv4(), [0.4], 1).adapt(x, y, steps=2)


def test_the_learner_protocol():
    learner = MAML(conv4(), 0.4, 1)
    metas = learner.meta_parameters()
    assert all(metas[n] is p for n, p in parameters_of(learner.model).items())
