"""Tasks in threads: every learner's training and evaluation, bit by bit those of one thread."""

import copy
import threading

import pytest
import torch
from torch import nn

from metalearn_tut import MAML, ProtoNet, Reptile, evaluate, meta_train, tasks
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.learners import anil, fomaml, meta_sgd
from metalearn_tut.models import Conv4
from metalearn_tut.rank_losses import RankedRange

X = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
SAMPLER = tasks.from_arrays(X, torch.arange(60) % 6).sampler(ways=3, shots=1, queries=3)
SPECIAL = {"engine": "implicit", "prox_weight": 1.0, "solver_steps": 3}


def conv4(norm="batch", width=4):
    net = Conv4(1, 3, width=width, norm=norm, image_size=16)
    nn.init.normal_(net.head.weight, std=0.3)
    return net


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Dropout(0.3), nn.Linear(8, 3))


LEARNERS = {
    "functional": lambda: MAML(conv4(), 0.1, 2),
    "inductive": lambda: MAML(conv4("support"), 0.1, 2),
    "group norm": lambda: MAML(conv4("group"), 0.1, 2),
    "higher": lambda: MAML(conv4(), 0.1, 2, engine="higher"),
    "vectorised": lambda: MAML(conv4(), 0.1, 2, engine="vectorised"),
    "implicit": lambda: MAML(conv4("none"), 0.1, 2, **SPECIAL),
    "deferred": lambda: MAML(conv4(), 0.1, 2, deferred=True),
    "recomputed": lambda: MAML(conv4(), 0.1, 2, recompute=True),
    "multi-step": lambda: MAML(conv4(), 0.1, 2, multi_step_loss=1.0),
    "learned rates": lambda: MAML(conv4(), 0.1, 2, rate_mode="per_layer_and_step"),
    "first order": lambda: fomaml(conv4(), 0.1, 2),
    "ANIL": lambda: anil(conv4(), 0.1, 2),
    "Meta-SGD": lambda: meta_sgd(conv4(), 0.1),
    "zero head": lambda: MAML(conv4(), 0.1, zero_head=True),
    "Reptile": lambda: Reptile(conv4(), 0.1, 2),
    "prototypes": lambda: ProtoNet(conv4("support")),
    "gates": lambda: MetaGater(ChannelGatedConv4(conv4("support", 8)), 0.1),
    "distilled": lambda: MetaDistiller(MAML(conv4(width=8), 0.1, 2), MAML(conv4(), 0.1, 2)),
    "dropout": lambda: MAML(with_dropout(), 0.1, 2),
    "teacher with dropout": lambda: MetaDistiller(MAML(with_dropout(), 0.1), MAML(conv4(), 0.1)),
    "student with dropout": lambda: MetaDistiller(MAML(conv4(), 0.1), MAML(with_dropout(), 0.1)),
}


def trained(name, workers, **settings):
    torch.manual_seed(0)
    learner = LEARNERS[name]().train()
    how = {"steps": 2, "tasks_per_step": 5, "progress": False, "workers": workers, **settings}
    return learner, meta_train(learner, SAMPLER, **how)


@pytest.mark.parametrize("name", LEARNERS)
def test_training_with_workers_is_bitwise_that_of_one(name):
    (one, first), (two, second) = trained(name, 1), trained(name, 2)
    assert first == second
    for key, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[key]), key
    torch.manual_seed(0)
    pairs = zip(_p(one), _p(LEARNERS[name]()), strict=True)
    assert any(not torch.equal(now, before) for now, before in pairs)


def _p(learner):
    return learner.meta_parameters().values()


@pytest.mark.parametrize("name", LEARNERS)
def test_evaluation_with_workers_is_bitwise_that_of_one(name):
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    one, two = (evaluate(learner, SAMPLER, 9, workers=n) for n in (1, 2))
    assert torch.equal(one.values, two.values) and one.to_dict() == two.to_dict()


def test_rank_losses_on_deferred_gradients_are_too():
    settings = {"aggregate": RankedRange(1, 3), "validation": SAMPLER, "validation_tasks": 3}
    one, two = (trained("deferred", n, **settings) for n in (1, 2))
    assert one[1] == two[1]
    assert all(torch.equal(a, b) for a, b in zip(*map(_p, (one[0], two[0])), strict=True))


class Meeting(nn.Linear):
    """It answers when two threads have asked."""

    def __init__(self):
        super().__init__(256, 3)
        self.seen = []

    def forward(self, x):
        MEET(self)
        return super().forward(x.flatten(1))


def MEET(layer):
    raise NotImplementedError


@pytest.mark.parametrize("work", ["training", "evaluation"])
def test_two_threads_are_at_work(work, monkeypatch):
    seen = set()
    both = threading.Event()

    def meet(_):
        seen.add(threading.get_ident())
        if len(seen) == 2:
            both.set()

    monkeypatch.setitem(globals(), "MEET", meet)
    learner = MAML(Meeting(), 0.1, 1)
    for _ in range(1000):  # a thread may be slow to begin, and the other do all the work
        if work == "training":
            meta_train(learner, SAMPLER, steps=1, tasks_per_step=8, workers=2, progress=False)
        else:
            evaluate(learner, SAMPLER, 16, workers=2)
        if both.is_set():
            return
    raise AssertionError("one thread did everything")


def test_a_task_that_fails_fails_the_step_and_changes_nothing():
    learner = MAML(Meeting(), 0.1, 1)
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(NotImplementedError):
        meta_train(learner, SAMPLER, steps=1, tasks_per_step=8, workers=2, progress=False)
    assert all(torch.equal(before[n], p) for n, p in learner.state_dict().items())


def test_workers_are_no_part_of_a_run(tmp_path):
    trained("functional", 1, out=tmp_path, steps=3)
    _, history = trained("functional", 2, out=tmp_path, steps=3, resume=True)
    assert len(history.loss) == 3
