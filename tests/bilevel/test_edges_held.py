"""Whatever holds a layer or writes to itself: one gradient in every engine, nothing changed."""

import copy
import enum
import sys
import threading
import types
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize
from zoo import NETWORKS, Held, Pair, build, helper, mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile
from metalearn_tut.bilevel import adapt as bilevel_adapt
from metalearn_tut.bilevel import meta_gradient
from metalearn_tut.bilevel.forward import functional, norm_of, query_outputs
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.learners.maml import anil
from metalearn_tut.tasks import Task, TaskBatch

RANDOM = ("dropout", "rrelu")
KINKED = {  # where a difference of losses is no derivative: clamped weights, many ReLUs and norms
    *("projected weight", "embedding, largest norm"),
    *("Conv4, batch", "Conv4, support", "Conv4, group"),
}


def in_double(name):
    found = [t.double() if t.is_floating_point() else t for t in task_of(name)]
    return build(name).double(), Task(*found)


def measured_slope(model, task, along, by=1e-5):
    """The query loss after two steps, along a direction of the start: by central differences."""

    def loss(shift):
        start = {n: p.detach() + shift * along[n] for n, p in model.named_parameters()}
        p = bilevel_adapt(
            model, task.support_x, task.support_y, inner_lr=0.1, inner_steps=2, params=start
        )
        x = task.support_x, task.query_x
        outputs = query_outputs(functional(model), p, *x, norm_of(model))
        return F.cross_entropy(outputs, task.query_y)

    with torch.no_grad():
        return ((loss(by) - loss(-by)) / (2 * by)).item()


@pytest.mark.parametrize("name", [n for n in NETWORKS if not any(r in n for r in RANDOM)])
def test_every_engine_gives_the_gradient_or_refuses_in_one_sentence(name):
    model, task = in_double(name)
    settings = {"inner_lr": 0.1, "inner_steps": 2}
    generator = torch.Generator().manual_seed(0)
    params = dict(model.named_parameters())
    along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in params.items()}
    first = None
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        slope = measured_slope(model, task, along)
        for engine in ("functional", "higher", "vectorised"):
            try:
                found = meta_gradient(model, task, engine=engine, **settings)
            except ValueError as refused:
                assert "\n" not in str(refused) and f"engine='{engine}'" in str(refused)
                continue
            first = first or found
            for n, g in found.items():
                torch.testing.assert_close(g, first[n], msg=f"{engine}, {n}")
    if first and name not in KINKED:
        total = sum((g * along[n]).sum() for n, g in first.items()).item()
        assert total == pytest.approx(slope, rel=1e-4, abs=1e-7)
    # which none may be differentiated twice is said in bilevel.safety
    assert first or "weight norm" in name or "spectral norm" in name


# What forward() writes to: inputs, weights, helpers


@pytest.mark.parametrize("name", ["projected weight", "embedding, largest norm"])
@pytest.mark.parametrize(
    "make",
    [
        lambda m: MAML(m, 0.1, 2),
        lambda m: MAML(m, 0.1, 0),
        lambda m: MAML(m, 0.1, 2, engine="higher"),
        lambda m: MAML(m, 0.1, 2, engine="implicit", prox_weight=1.0),
        lambda m: MAML(m, 0.1, 2, recompute=True),
        lambda m: anil(m, 0.1, 2),
        lambda m: Reptile(m, 0.1, 2),
        lambda m: MetaDistiller(MAML(m, 0.1, 2), MAML(copy.deepcopy(m), 0.1, 2)),
        lambda m: MetaDistiller(MAML(copy.deepcopy(m), 0.1, 2), MAML(m, 0.1, 2)),
        lambda m: MAML(m, 0.1, 2, groups=[["head.weight"], ["head.bias"]]),
    ],
)
def test_a_weight_that_forward_writes_to_is_never_the_models(name, make):
    model, (sx, sy, qx, qy) = build(name), task_of(name)
    before = copy.deepcopy(model.state_dict())
    learner = make(model)
    predict = learner.adapt(sx, sy)
    once = predict(qx)
    predict.deploy()
    learner.task_losses(TaskBatch.stack([Task(sx, sy, qx, qy)])).losses.sum().backward()
    assert torch.equal(predict(qx), once)
    for n, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[n]), n


@pytest.mark.parametrize("engine", ["functional", "higher", "vectorised", "implicit"])
def test_inputs_are_never_written_to(engine):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    task = Task(*(t - 0.5 if t.is_floating_point() else t for t in task_of("mlp")))
    kept = copy.deepcopy(task)
    learner = MAML(
        model, 0.1, 2, engine=engine, **({"prox_weight": 1.0} if engine == "implicit" else {})
    )
    learner.task_losses(TaskBatch.stack([task]))
    predict = learner.adapt(task.support_x, task.support_y)
    assert torch.equal(predict(task.query_x), predict(task.query_x))
    predict.deploy()
    meta_gradient(model, task, inner_lr=0.1, inner_steps=1)
    for a, b in zip(vars(task).values(), vars(kept).values(), strict=True):
        assert not isinstance(a, torch.Tensor) or torch.equal(a, b)


def test_prototypes_never_write_to_their_inputs():
    class Embeds(nn.Sequential):
        def embed(self, x):
            return self(x)

    sx, sy, qx, qy = (t - 0.5 if t.is_floating_point() else t for t in task_of("mlp"))
    learner = ProtoNet(Embeds(nn.ReLU(inplace=True), nn.Linear(6, 3)))
    kept = sx.clone(), qx.clone()
    predict = learner.adapt(sx, sy)
    once, network = predict(qx), predict.deploy()
    learner.task_losses(TaskBatch.stack([Task(sx, sy, qx, qy)]))
    assert torch.equal(sx, kept[0]) and torch.equal(qx, kept[1])
    torch.testing.assert_close(network(qx.clone()).softmax(1), once.softmax(1))


class Kind(enum.Enum):
    ONE = 1


class Counter:
    def __init__(self):
        self.calls = 0


class Counts(nn.Module):
    """How often it was called decides what it answers."""

    def __init__(self, kind):
        super().__init__()
        self.head, self.kind = nn.Linear(6, 3), kind
        self.seen = {
            "helper": Counter(),
            "namespace": types.SimpleNamespace(calls=0),
            "array": np.zeros(1),
            "deque": deque(),
            "generator": torch.Generator().manual_seed(0),
        }[kind]

    def forward(self, x):
        if self.kind in ("helper", "namespace"):
            self.seen.calls += 1
            return self.head(x) * self.seen.calls
        if self.kind == "generator":
            return self.head(x) + torch.rand(3, generator=self.seen)
        if self.kind == "array":
            self.seen += 1
            return self.head(x) * float(self.seen[0])
        self.seen.append(1)
        return self.head(x) * len(self.seen)


@pytest.mark.parametrize("kind", ["helper", "namespace", "array", "deque", "generator"])
def test_what_a_network_remembers_anywhere_is_not_written_to_by_a_prediction(kind):
    torch.manual_seed(0)
    model, (sx, sy, qx, _) = Counts(kind), task_of("mlp")
    fresh = copy.deepcopy(model) if kind != "generator" else None
    predict = MAML(model, 0.1, 2).adapt(sx, sy)
    once = predict(qx)
    assert torch.equal(predict(qx), once)
    assert torch.equal(MAML(model, 0.1, 2).adapt(sx, sy)(qx), once)
    if fresh is not None:
        assert torch.equal(model(qx), fresh(qx))  # its first call, still
    else:
        assert torch.equal(model.seen.get_state(), torch.Generator().manual_seed(0).get_state())


def test_what_a_network_has_of_libraries_stays_as_it_is():
    class Rich(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.lock = nn.Linear(6, 3), threading.Lock()
            self.shape, self.largest = torch.Size([6]), torch.ones(2, 2).max(0)
            self.kind, self.again = Kind.ONE, []
            self.again.append((self.again, self.head))

        def forward(self, x):
            assert self.kind is Kind.ONE and isinstance(self.shape, torch.Size)
            with self.lock:
                return self.again[0][0][0][1](x) * self.largest.values.sum()

    (sx, sy, qx, _), model = task_of("mlp"), Rich()
    plain = nn.Linear(6, 3)
    plain.load_state_dict(model.head.state_dict())
    for _ in range(2):
        grads = torch.autograd.grad(F.cross_entropy(2 * plain(sx), sy), [*plain.parameters()])
        with torch.no_grad():
            for p, g in zip(plain.parameters(), grads, strict=True):
                p -= 0.1 * g
    torch.testing.assert_close(MAML(model, 0.1, 2).adapt(sx, sy)(qx), 2 * plain(qx).detach())


def test_two_names_of_one_list_stay_one():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.read = nn.Linear(6, 3), []
            self.written = self.read

        def forward(self, x):
            self.written.append(2.0)
            return self.head(x) * sum(self.read)

    model, (sx, sy, qx, _) = Twice(), task_of("mlp")
    predict = MAML(model, 0.1, 0).adapt(sx, sy)
    torch.testing.assert_close(predict(qx), 2 * model.head(qx).detach())


# A cache of parametrized weights is of the model, not of its copies


def test_a_cache_of_weights_is_refused():
    model, (sx, sy, *_) = build("parametrized"), task_of("parametrized")
    with parametrize.cached(), pytest.raises(RuntimeError, match=r"inside parametrize.cached\(\)"):
        MAML(model, 0.1).adapt(sx, sy)
    with parametrize.cached():  # which concerns no other network
        MAML(mlp(), 0.1).adapt(sx, sy)


# Tensors of inference_mode()


def test_tasks_made_in_inference_mode_are_learned_from():
    with torch.inference_mode():
        given = [t.clone() for t in task_of("mlp")]
    learner, task = MAML(build("mlp"), 0.1, 2), Task(*task_of("mlp"))
    expected = learner.adapt(task.support_x, task.support_y)(task.query_x)
    assert torch.equal(learner.adapt(*given[:2])(given[2]), expected)
    for engine in ("functional", "vectorised"):
        found = meta_gradient(
            learner.model, Task(*given), inner_lr=0.1, inner_steps=1, engine=engine
        )
        right = meta_gradient(learner.model, task, inner_lr=0.1, inner_steps=1)
        for n, g in found.items():
            torch.testing.assert_close(g, right[n])


# Threads: tracing a network replaces nn.Module.__call__ for all of them


def test_a_batched_graph_is_made_while_other_threads_predict():
    model, (sx, sy, qx, qy) = build("mlp"), task_of("mlp")
    batch = TaskBatch.stack([Task(sx, sy, qx, qy)] * 2)
    learners = [MAML(model, 0.1, 2, engine=e) for e in ("vectorised", "functional", "higher")]
    expected = learners[1].task_losses(batch).losses.detach()
    answer, call = learners[1].adapt(sx, sy)(qx), nn.Module.__call__

    def one(i):
        if i % 4 == 3:
            assert torch.equal(learners[1].adapt(sx, sy)(qx), answer)
            return
        torch.testing.assert_close(learners[i % 4].task_losses(batch).losses.detach(), expected)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(120)))
    finally:
        sys.setswitchinterval(before)
        left, nn.Module.__call__ = nn.Module.__call__, call
    assert left is call


def test_helpers_and_tuples_keep_their_kind():
    model = Held(Pair)
    twin = MAML(model, 0.1).working().model
    assert type(twin.held) is Pair and twin.held.first is twin.body is not model.body
    twin = MAML(Held(helper), 0.1).working().model
    assert twin.held[0].layer is twin.body and twin.held[1].__self__.layer is twin.head


# A loss may be a module with a mode and a memory of its own


class NoisyLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3, affine=False), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, outputs, targets):
        self.calls += 1
        return F.cross_entropy(self.drop(self.norm(outputs)), targets)


@pytest.mark.parametrize("kind", ["maml", "inner", "reptile", "anil", "tsmd", "kd"])
def test_a_loss_with_a_mode_and_a_memory_predicts_without_a_trace(kind):
    loss, (sx, sy, qx, _) = NoisyLoss(), task_of("mlp")
    loss.norm(torch.randn(20, 3))
    learner = {
        "maml": lambda: MAML(mlp(), 0.5, 2, loss=loss),
        "inner": lambda: MAML(mlp(), 0.5, 2, inner_loss=loss),
        "reptile": lambda: Reptile(mlp(), 0.5, 2, loss=loss),
        "anil": lambda: anil(mlp(), 0.5, 2, head="2", loss=loss),
        "tsmd": lambda: MetaDistiller(
            MAML(mlp(), 0.5, 2, loss=loss), MAML(mlp(), 0.5, 2, loss=loss)
        ),
        "kd": lambda: MetaDistiller(MAML(mlp(), 0.5, 2), MAML(mlp(), 0.5, 2), kd=KdOf(loss)),
    }[kind]()
    before, rng = copy.deepcopy(loss.state_dict()), torch.get_rng_state()
    assert torch.equal(learner.adapt(sx, sy)(qx), learner.adapt(sx, sy)(qx))
    assert torch.equal(torch.get_rng_state(), rng) and loss.calls == 0 and loss.drop.training
    assert all(torch.equal(before[n], t) for n, t in loss.state_dict().items())


class KdOf(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def forward(self, outputs, teachers):
        return self.loss(outputs, teachers.argmax(1))


def test_random_numbers_of_other_threads_are_not_the_networks():
    model, states = build("mlp"), iter([0, 1, 2, 2])
    vectorised = sys.modules["metalearn_tut.bilevel.vectorised"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectorised, "_random_states", lambda: next(states))
        assert vectorised.trace(model).nodes  # the second time nobody drew


# Two networks of one learner


@pytest.mark.parametrize("fixed", [True, False])
def test_a_teacher_that_shares_weights_with_its_student_is_not_trained(fixed):
    teacher, student = mlp(), mlp()
    student[0] = teacher[0]
    pair = MetaDistiller(MAML(teacher, 0.1), MAML(student, 0.1), fixed_teacher=fixed)
    sx, sy, qx, qy = task_of("mlp")
    batch = TaskBatch.stack([Task(sx, sy, qx, qy)])
    pair.adapt(sx, sy)
    with pytest.raises(ValueError, match=r"teacher and student share 0\.weight, which both"):
        pair.task_losses(batch)
    teacher[0].requires_grad_(False)
    pair.task_losses(batch).losses.sum().backward()
    assert teacher[0].weight.grad is None and student[2].weight.grad.any()
