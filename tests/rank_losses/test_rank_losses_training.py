"""Rank losses in the training loop: exact resume, skipped steps, the hypergradient (H7, H8)."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import background
import pytest
import torch
import torch.nn.functional as F
import training_runs
from bilevel_cases import UNROLLED, WAYS, images, mlp, seeded, vectors
from torch import nn
from training_runs import REMEMBERING, learner, resumable, sampler

from metalearn_tut import MAML, RankedRange, models
from metalearn_tut.learners.learner import TaskLosses
from metalearn_tut.learners.maml import anil, fomaml
from metalearn_tut.rank_losses import LogNormalGuidance, Oracle, ThresholdTracker, clean_losses
from metalearn_tut.tasks import TaskBatch
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import NonFiniteLoss, meta_train

SCRIPT = Path(training_runs.__file__)


def train(trained, **settings):
    settings = {"steps": 8, "tasks_per_step": 5, "outer_lr": 0.01, "progress": False, **settings}
    return meta_train(trained, sampler(), **settings)


def contents(path):
    tensors, state = checkpoint.read(path)
    state.pop("run"), state.pop("memory")
    return {n: (t.dtype, t.numpy().tobytes()) for n, t in tensors.items()}, state


# The training loop


@pytest.mark.parametrize("clip", [None, 0.05])
def test_H4_training_on_the_full_range_is_bitwise_training_on_the_mean(tmp_path, clip):
    train(learner(), out=tmp_path / "mean", clip=clip)
    for name, aggregate in {
        "ranks": RankedRange(0, 5),
        "shares": RankedRange.fractions(),
        "tracked": ThresholdTracker(0, 5, burn_in=2),
        "guided": LogNormalGuidance.fractions(),
    }.items():
        train(learner(), out=tmp_path / name, clip=clip, aggregate=aggregate)
        found = contents(tmp_path / name / "last.safetensors")
        assert found == contents(tmp_path / "mean" / "last.safetensors"), name


def test_a_step_descends_the_tasks_of_the_ranks_kept():
    trained, by_hand = learner(), learner()
    losses = by_hand.task_losses(sampler().batch(0, 5)).losses
    losses.sort().values[1:4].mean().backward()  # of 5: without the hardest and the easiest
    torch.optim.Adam(by_hand.meta_parameters().values(), lr=0.01).step()
    aggregate = RankedRange(1, 4)
    train(trained, steps=1, aggregate=aggregate)
    for name, p in trained.meta_parameters().items():
        torch.testing.assert_close(p, by_hand.meta_parameters()[name], rtol=1e-6, atol=1e-7)
    order = losses.argsort(descending=True).tolist()
    assert aggregate.log[0].kept == tuple(sorted(order[1:4]))


def test_an_aggregate_is_called_once_a_step_and_never_to_evaluate(monkeypatch):
    aggregate, calls = RankedRange(1, 4), []
    select = aggregate.select
    monkeypatch.setattr(aggregate, "select", lambda x: calls.append(x) or select(x))
    validation = {"validation": sampler(1), "validate_every": 2, "validation_tasks": 5}
    train(learner(), aggregate=aggregate, **validation)
    assert len(calls) == len(aggregate.log) == 8
    assert all(not losses.grad_fn and len(losses) == 5 for losses in calls)


def test_every_run_begins_with_an_empty_memory():
    aggregate = ThresholdTracker(1, 4, rate=0.3, burn_in=3)
    first, second = learner(), learner()
    train(first, aggregate=aggregate)
    memory = aggregate.state_dict()
    train(second, aggregate=aggregate)
    assert aggregate.state_dict() == memory and len(aggregate.log) == 8
    for name, p in first.meta_parameters().items():
        assert torch.equal(p, second.meta_parameters()[name])


def test_a_memory_that_is_not_json_is_refused():
    class Forgetful:
        def __call__(self, losses):
            return losses.mean()

        def state_dict(self):
            return {"mean": torch.zeros(1)}

        def load_state_dict(self, state):
            pass

    with pytest.raises(ValueError, match=r"the state_dict\(\) of aggregate must be JSON"):
        train(learner(), aggregate=Forgetful())


@pytest.mark.slow
def test_runs_that_were_killed_and_resumed_remember_to_the_bit(tmp_path):
    run = subprocess.run(
        [sys.executable, SCRIPT, "remember", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        timeout=background.HANG,
    )
    assert run.stdout.split() == ["9", "0"] * len(REMEMBERING)
    for name, make in REMEMBERING.items():
        aggregate = make()
        resumable(tmp_path / f"{name}-whole", aggregate=aggregate)
        for file in ("last.safetensors", "best.safetensors"):
            killed, whole = (tmp_path / folder / file for folder in (name, f"{name}-whole"))
            assert contents(killed) == contents(whole), (name, file)
            assert checkpoint.read(killed)[1] == checkpoint.read(whole)[1], (name, file)
        memory = checkpoint.read(tmp_path / name / "last.safetensors")[1]["memory"]
        assert memory == json.loads(json.dumps(aggregate.state_dict()))
        assert len({tuple(kept) for *_, kept in memory["log"]}) > 1, name


def test_another_aggregate_is_another_run(tmp_path):
    train(learner(), out=tmp_path, aggregate=ThresholdTracker(1, 4))
    with pytest.raises(ValueError, match=r"aggregate was .*m=1, k=4.*, now .*m=1, k=3"):
        train(learner(), out=tmp_path, aggregate=ThresholdTracker(1, 3), resume=True)


def test_an_exported_run_has_no_memory(tmp_path):
    train(learner(), out=tmp_path, aggregate=RankedRange(1, 4))
    checkpoint.export(tmp_path, tmp_path / "small.safetensors")
    assert "memory" not in checkpoint.read(tmp_path / "small.safetensors")[1]


# Steps without a task


def test_a_step_without_a_task_is_skipped_counted_and_resumed_over(tmp_path):
    noisy = {*range(5), *range(15, 20), *range(35, 40), 6, 12}  # all tasks of steps 0, 3, 7

    def oracle(stop_at=None):
        def is_noisy(index):
            if index == stop_at:
                raise KeyboardInterrupt
            return index in noisy

        return Oracle(is_noisy)

    whole, again = learner(), learner()
    start = {n: p.detach().clone() for n, p in whole.meta_parameters().items()}
    history = train(whole, out=tmp_path / "whole", aggregate=oracle(), save_every=1)
    assert history.skipped == [0, 3, 7] and len(history.loss) == 8
    assert json.loads((tmp_path / "whole" / "history.json").read_text())["skipped"] == [0, 3, 7]
    for stop_at in (5, 22):  # the only checkpoint is of a step without a task; one in the middle
        with pytest.raises(KeyboardInterrupt, match=f"step {stop_at // 5}"):
            train(
                learner(),
                out=tmp_path / "again",
                aggregate=oracle(stop_at),
                save_every=1,
                resume=True,
            )
        if stop_at == 5:
            tensors, _ = checkpoint.read(tmp_path / "again" / "last.safetensors")
            assert all(torch.equal(tensors[f"meta.{n}"], p) for n, p in start.items())
    assert (
        train(again, out=tmp_path / "again", aggregate=oracle(), save_every=1, resume=True)
        == history
    )
    last = (contents(tmp_path / f / "last.safetensors") for f in ("whole", "again"))
    assert next(last) == next(last)


def test_thresholds_move_while_steps_are_skipped():
    aggregate = ThresholdTracker(1, 4, rate=0.5, decay=0.0, burn_in=1)

    class Shrinking:
        """Losses that are a hundredth of the first step's from the second on."""

        def __init__(self):
            self.w = torch.zeros(1, requires_grad=True)

        def meta_parameters(self):
            return {"w": self.w}

        def task_losses(self, batch, progress=1.0):
            scale = 1.0 if progress == 0 else 0.01
            return TaskLosses(scale * torch.arange(5.0, 0.0, -1.0) + 0 * self.w, None)

    history = train(Shrinking(), aggregate=aggregate, steps=4)
    assert history.skipped[0] == 1
    assert aggregate.log[1].low > aggregate.log[2].low


def test_losses_that_are_not_finite_still_name_their_tasks():
    class Broken(training_runs.Noisy):
        def task_losses(self, batch, progress=1.0):
            losses, _ = self.base.task_losses(batch, progress)
            return TaskLosses(losses + torch.tensor([0, 0, 0, torch.nan, 0]), None)

    with pytest.raises(NonFiniteLoss, match=r"step 0, task indices \[3\]; no checkpoint"):
        train(Broken(learner()), aggregate=RankedRange(1, 4))


def test_clean_validation_losses_can_guide_a_run():
    trained = learner()
    source = lambda: clean_losses(trained, sampler(1), 4)  # noqa: E731
    aggregate = LogNormalGuidance(-2, 1, source=source, every=2)
    train(trained, aggregate=aggregate)
    assert len(aggregate.log) == 8


# Deferred meta-gradients


class Counted(torch.autograd.Function):
    """The identity, which counts its backward passes."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Counted.calls += 1
        return grad


def gradients(trained, batch, aggregate):
    metas = trained.meta_parameters()
    loss = aggregate(trained.task_losses(batch).losses)
    grads = torch.autograd.grad(loss, list(metas.values()), materialize_grads=True)
    return loss.detach(), dict(zip(metas, grads, strict=True))


def conv():
    return seeded(lambda: models.Conv4(1, WAYS, width=4, norm="batch", image_size=16))


PULLED = {"prox_weight": 1.0, "inner_lr": 0.3, "inner_steps": 20}
LEARNERS = {
    "maml": (mlp, MAML, {}),
    "higher": (mlp, MAML, {"engine": "higher"}),
    "first order": (mlp, fomaml, {}),
    "learned rates": (mlp, MAML, {"rate_mode": "per_layer_and_step"}),
    "recomputed": (mlp, MAML, {"recompute": True}),
    "head only": (conv, anil, {}),
    "implicit": (mlp, MAML, {"engine": "implicit", **PULLED}),
    "neumann": (mlp, MAML, {"engine": "implicit", "solver": "neumann", **PULLED}),
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("name", LEARNERS)
def test_deferred_meta_gradients_are_the_same(name):
    model, make, settings = LEARNERS[name]
    settings = {"inner_lr": 0.4, "inner_steps": 2, **settings}
    batch = (images if model is conv else vectors)(tasks=5)
    for aggregate in (RankedRange(1, 4), torch.mean, lambda x: torch.logsumexp(3 * x, 0)):
        eager, deferred = (
            gradients(make(model(), **settings, deferred=later), batch, aggregate)
            for later in (False, True)
        )
        torch.testing.assert_close(deferred, eager, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["functional", "implicit"])
def test_a_task_left_out_costs_no_backward_pass(engine):
    def counted(outputs, targets):
        return Counted.apply(F.cross_entropy(outputs, targets))

    settings = {**PULLED, "engine": engine, "loss": counted, "inner_loss": F.cross_entropy}
    calls = {}
    for deferred in (False, True):
        Counted.calls = 0
        gradients(MAML(mlp(), **settings, deferred=deferred), vectors(tasks=6), RankedRange(1, 4))
        calls[deferred] = Counted.calls
    assert calls == {False: 6, True: 3}


def test_deferred_training_follows_eager_training():
    eager, deferred = learner(), learner()
    deferred.deferred = True
    for trained in (eager, deferred):
        train(trained, aggregate=ThresholdTracker(1, 4, burn_in=2, rate=0.3))
    for name, p in eager.meta_parameters().items():
        torch.testing.assert_close(p, deferred.meta_parameters()[name], rtol=1e-4, atol=1e-5)


def test_deferred_losses_can_be_differentiated_once():
    losses = MAML(mlp(), 0.4, 1, deferred=True).task_losses(vectors()).losses
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        losses.sum().backward()


def test_one_graph_for_all_tasks_cannot_be_deferred():
    with pytest.raises(ValueError, match="engine='vectorised' cannot be deferred"):
        MAML(mlp(), engine="vectorised", deferred=True)


# The hypergradient, head-only and for all parameters


class Headed(nn.Module):
    """Features tanh(body(x)) and a linear head without bias."""

    def __init__(self, inputs=4, outputs=1):
        super().__init__()
        self.body, self.head = nn.Linear(inputs, 3), nn.Linear(3, outputs, bias=False)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


@pytest.mark.parametrize("engine", UNROLLED)
@pytest.mark.parametrize("make", [MAML, anil])
def test_the_unrolled_hypergradient_follows_finite_differences(engine, make):
    model = seeded(lambda: Headed(5, WAYS))
    trained, aggregate = make(model, 0.4, 2, engine=engine), RankedRange(1, 4)
    check_differences(trained, vectors(tasks=5), aggregate, rtol=1e-6)


def test_the_implicit_hypergradient_follows_finite_differences():
    model, settings = mlp(), {"prox_weight": 2.0, "inner_lr": 0.3, "inner_steps": 40}
    implicit = MAML(model, engine="implicit", deferred=True, **settings)
    batch, aggregate = vectors(tasks=4), RankedRange(1, 3)
    check_differences(implicit, batch, aggregate, rtol=1e-6)
    unrolled = gradients(MAML(model, **settings), batch, aggregate)
    torch.testing.assert_close(
        gradients(implicit, batch, aggregate), unrolled, rtol=1e-7, atol=1e-9
    )


def check_differences(trained, batch, aggregate, rtol, h=1e-6):
    """Central differences of the aggregated loss along one direction per parameter."""
    _, found = gradients(trained, batch, aggregate)
    generator = torch.Generator().manual_seed(0)
    for name, p in trained.meta_parameters().items():
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * h * direction)
            values.append(aggregate(trained.task_losses(batch).losses.detach()).item())
            with torch.no_grad():
                p.sub_(sign * h * direction)
        slope = (values[0] - values[1]) / (2 * h)
        assert (found[name] * direction).sum().item() == pytest.approx(slope, rel=rtol, abs=1e-8)


# H7 and H8: a ridge head, whose inner problem has a closed form


MU, N, M, K = 0.1, 8, 2, 6


def half_square(outputs, targets):
    return (outputs - targets).square().mean() / 2


def regression():
    generator = torch.Generator().manual_seed(3)
    parts = []
    for size in (10, 6):
        x = torch.randn(N, size, 4, generator=generator, dtype=torch.float64)
        noise = torch.randn(N, size, 1, generator=generator, dtype=torch.float64)
        parts += [x, x.sum(-1, keepdim=True) + torch.linspace(0.1, 2, N).view(N, 1, 1) * noise]
    return TaskBatch(*parts)


def ridge_head(body, x, y):
    z = torch.tanh(body(x))
    matrix = z.T @ z / len(z) + MU * torch.eye(z.shape[1], dtype=z.dtype)
    return torch.linalg.solve(matrix, z.T @ y / len(z))  # [3, 1]


def closed_form(body, batch):
    """Query losses [N] at the exact solution of each inner problem."""
    return torch.stack(
        [
            half_square(
                torch.tanh(body(t.query_x)) @ ridge_head(body, t.support_x, t.support_y), t.query_y
            )
            for t in batch
        ]
    )


@torch.no_grad()
def curvatures(model):
    """Eigenvalues [N, 3] of the inner Hessians."""
    z = torch.tanh(model.body(regression().support_x))
    return torch.linalg.eigvalsh(z.transpose(1, 2) @ z / z.shape[1]) + MU


def unrolled(model, steps, **settings):
    """Descent on the head alone from zero, pulled to zero by mu: the ridge problem."""
    rate = 1 / curvatures(model).max().item()
    settings = {"groups": [["head.weight"]], "zero_head": True, "prox_weight": MU, **settings}
    return MAML(model, rate, steps, loss=half_square, **settings)


def exact(model, batch):
    loss = RankedRange(M, K)(closed_form(model.body, batch))
    return dict(
        zip(("weight", "bias"), torch.autograd.grad(loss, [*model.body.parameters()]), strict=True)
    )


def aid(model, batch, steps):
    """The implicit hypergradient with a conjugate-gradient solve, averaged over the ranks kept."""
    trained = unrolled(model, 250, engine="implicit", solver_steps=steps)
    _, found = gradients(trained, batch, RankedRange(M, K))
    return {n.removeprefix("body."): g for n, g in found.items()}


def distance(found, expected):
    return max((found[n] - expected[n]).abs().max().item() for n in expected)


def itd(model, batch, steps, **settings):
    _, found = gradients(unrolled(model, steps, **settings), batch, RankedRange(M, K))
    return {n.removeprefix("body."): g for n, g in found.items()}


def test_H7_the_hypergradient_of_a_ridge_head_follows_finite_differences():
    model, batch, h = seeded(Headed), regression(), 1e-5
    analytic = aid(model, batch, steps=10)
    assert distance(analytic, exact(model, batch)) < 1e-12
    for name, p in model.body.named_parameters():
        flat = p.data.view(-1)
        for i in range(len(flat)):
            values = []
            for sign in (1, -2):
                flat[i] += sign * h
                values.append(RankedRange(M, K)(closed_form(model.body, batch).detach()).item())
            flat[i] += h
            slope = (values[0] - values[1]) / (2 * h)
            assert analytic[name].view(-1)[i].item() == pytest.approx(slope, abs=1e-8)
    # as many products as the head has weights solve it; fewer do not
    assert distance(aid(model, batch, steps=3), analytic) < 1e-12
    assert distance(aid(model, batch, steps=2), analytic) > 1e-6


@pytest.mark.slow
def test_H8_unrolling_converges_to_the_implicit_hypergradient_geometrically():
    model, batch = seeded(Headed), regression()
    expected = aid(model, batch, steps=10)
    # a step shrinks the slowest part of a head's error by 1 - smallest/largest eigenvalue
    eigenvalues = curvatures(model)
    rate = (1 - eigenvalues.min() / eigenvalues.max()).item()
    errors = [distance(itd(model, batch, d), expected) for d in (15, 30, 45, 60, 75, 90)]
    for before, after in pairwise(errors):
        assert after / before == pytest.approx(rate**15, rel=0.3)
    assert distance(itd(model, batch, 250), expected) < 1e-12


def test_H8_without_inner_steps_or_second_order_only_the_direct_part_remains():
    model, batch = seeded(Headed), regression()
    trained = unrolled(model, 250, first_order=True)
    _, found = gradients(trained, batch, RankedRange(M, K))
    heads = [ridge_head(model.body, t.support_x, t.support_y).detach() for t in batch]
    losses = [
        half_square(torch.tanh(model.body(t.query_x)) @ w, t.query_y)
        for w, t in zip(heads, batch, strict=True)
    ]
    direct = torch.autograd.grad(RankedRange(M, K)(torch.stack(losses)), [*model.body.parameters()])
    for (name, _), d in zip(model.body.named_parameters(), direct, strict=True):
        torch.testing.assert_close(found[f"body.{name}"], d, rtol=1e-9, atol=1e-12)
    _, untouched = gradients(unrolled(model, 0), batch, RankedRange(M, K))
    assert not any(g.any() for g in untouched.values())  # the head is zero, and hides the body
