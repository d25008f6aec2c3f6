"""A learner is a PyTorch module: what a PyTorch user tries first works."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.learners import Learner, anil, meta_sgd
from metalearn_tut.learners.state import load_state, state_of
from metalearn_tut.models import Conv4
from metalearn_tut.tasks import Task, TaskBatch


def small(**options):
    return Conv4(1, 3, width=4, image_size=16, norm="support", **options)


MASK = {"0.weight": torch.arange(48).view(8, 6) % 3}
MAKE = {
    "maml": lambda: MAML(mlp(nn.Dropout(0.5)), 0.1),
    "shared": lambda: MAML(mlp(), 0.1, 2, rate_mode="shared"),
    "per step": lambda: MAML(mlp(), 0.1, 2, rate_mode="per_layer_and_step"),
    "meta_sgd": lambda: meta_sgd(mlp()),
    "anil": lambda: anil(mlp(nn.BatchNorm1d(8)), head="3"),
    "pruned": lambda: MAML(mlp(), 0.1, masks=MASK),
    "zero head": lambda: MAML(small(), 0.1, 2, zero_head=True),
    "reptile": lambda: Reptile(mlp(), 0.1),
    "protonet": lambda: ProtoNet(small()),
    "tsmd": lambda: MetaDistiller(MAML(mlp(width=9), 0.1, masks={}), meta_sgd(mlp(), masks=MASK)),
    "metagater": lambda: MetaGater(ChannelGatedConv4(small()), 0.1),
}
learners = pytest.mark.parametrize("name", MAKE)


def made(name, seed=0):
    torch.manual_seed(seed)
    learner = MAKE[name]()
    with torch.no_grad():
        for p in learner.parameters():
            p.add_(0.1 * torch.rand(p.shape))  # also of rates and of heads that start equal
    return learner


def task(name, dtype=torch.float32):
    if name in ("zero head", "protonet", "metagater"):
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(15, 1, 16, 16, generator=generator).to(dtype)
        y = torch.arange(15) % 3
        return Task(x[:6], y[:6], x[6:], y[6:])
    sx, sy, qx, qy = task_of("mlp")
    return Task(sx.to(dtype), sy, qx.to(dtype), qy)


def answer(learner, of):
    return learner.adapt(of.support_x, of.support_y)(of.query_x)


@learners
def test_parameters_are_what_is_trained_and_what_is_frozen(name):
    learner = made(name)
    [*learner.parameters()][1].requires_grad_(False)
    metas = learner.meta_parameters().values()
    given = {id(p) for p in learner.parameters()}
    assert {id(p) for p in metas} <= given and len(given) == len([*learner.parameters()])
    learner.task_losses(TaskBatch.stack([task(name)])).losses.sum().backward()
    trained = {id(p) for p in learner.parameters() if p.grad is not None}
    assert trained == {id(p) for p in metas}


@learners
def test_a_step_of_an_optimizer_of_parameters_is_one_of_the_meta_parameters(name):
    one, other = made(name), made(name)
    batch = TaskBatch.stack([task(name)])
    for learner, tensors in ((one, one.parameters()), (other, other.meta_parameters().values())):
        optimizer = torch.optim.Adam(tensors, 0.01)
        torch.manual_seed(3)
        learner.task_losses(batch).losses.sum().backward()
        optimizer.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@learners
def test_the_state_dict_is_all_that_decides_an_answer(name):
    one, other, of = made(name), made(name, seed=1), task(name)
    assert not torch.equal(answer(one, of), answer(other, of))
    other.load_state_dict(one.state_dict())
    assert torch.equal(answer(one, of), answer(other, of))
    assert {n: t.shape for n, t in state_of(one).items()} == {
        n: t.shape for n, t in state_of(other).items()
    }
    assert all(torch.equal(t, state_of(other)[n]) for n, t in state_of(one).items())


def test_names_in_the_state_dict():
    rates = MAML(mlp(), 0.1, 2, rate_mode="per_layer", masks=MASK).state_dict()
    assert {n for n in rates if not n.startswith("model.")} == {
        *("rates.0.weight", "rates.0.bias", "rates.2.weight", "rates.2.bias", "mask.0.weight")
    }
    shared = MetaDistiller(MAML(mlp()), MAML(mlp(), rate_mode="shared")).state_dict()
    assert {"student.rates", "student.model.0.weight", "teacher.model.2.bias"} <= shared.keys()


@pytest.mark.parametrize("name", ["maml", "tsmd"])
def test_the_state_of_a_pruned_learner_prunes_a_dense_one(name):
    dense, pruned = (MAML(mlp(), 0.1, masks=masks) for masks in (None, MASK))
    if name == "tsmd":
        dense, pruned = (MetaDistiller(MAML(mlp(), 0.1), x) for x in (dense, pruned))
    state = dense.state_dict()
    dense.load_state_dict(pruned.state_dict())
    assert dense.masks.keys() == pruned.masks.keys() and len(dense.masks) == 1
    assert all(torch.equal(m, pruned.masks[n]) for n, m in dense.masks.items())
    of = task("mlp")
    assert torch.equal(answer(dense, of), answer(pruned, of))
    with pytest.raises(RuntimeError, match=r"Missing key.*mask\.0\.weight"):
        dense.load_state_dict(state)  # as PyTorch says it; set_masks(None) comes first


@pytest.mark.parametrize("wrong", ["mask.0.weight", "mask.5.weight"])
def test_masks_that_do_not_fit_are_reported(wrong):
    learner = MAML(mlp(), 0.1)
    state = {**learner.state_dict(), wrong: torch.ones(2, 2)}
    with pytest.raises(RuntimeError, match=rf"Unexpected key.*{wrong}"):
        learner.load_state_dict(state)
    assert not learner.masks


@learners
def test_to_moves_all_of_it(name):
    learner, of = made(name).to(torch.float64), task(name, torch.float64)
    assert {t.dtype for t in learner.state_dict().values()} <= {torch.float64, torch.int64}
    assert {p.dtype for p in learner.meta_parameters().values()} == {torch.float64}
    found = answer(learner, of)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), answer(made(name), task(name)), rtol=1e-3, atol=1e-3)
    learner.task_losses(TaskBatch.stack([of])).losses.sum().backward()


@learners
@pytest.mark.parametrize("training", [True, False])
def test_modes_reach_the_network_and_a_predictor_is_in_evaluation_mode(name, training):
    learner, of = made(name).train(training), task(name)
    parts = [layer for network in learner.networks().values() for layer in network.modules()]
    assert {layer.training for layer in parts} == {training}
    predict = learner.adapt(of.support_x, of.support_y)
    assert not any(layer.training for layer in predict.network.modules())
    assert torch.equal(predict(of.query_x), predict(of.query_x))
    assert {layer.training for layer in parts} == {training}


@learners
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_answer_the_same_and_share_nothing(name, copied):
    learner, of = made(name), task(name)
    other, before = copied(learner), answer(learner, of)
    assert type(other) is type(learner) and other.settings() == learner.settings()
    assert torch.equal(answer(other, of), before)
    ours = {t.data_ptr() for t in learner.state_dict().values() if t.numel()}
    assert not ours & {t.data_ptr() for t in other.state_dict().values() if t.numel()}
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(-1.5)
    assert torch.equal(answer(learner, of), before)
    other.task_losses(TaskBatch.stack([of])).losses.sum().backward()
    assert all(p.grad is None for p in learner.parameters())


def test_a_shallow_copy_with_another_network_leaves_the_original():
    learner, of = MAML(mlp(), 0.1, rate_mode="per_layer"), task("mlp")
    before, network = answer(learner, of), learner.model
    other = copy.copy(learner)
    assert (
        other.model is network
        and other.learned_rates["rates.0.bias"] is (learner.learned_rates["rates.0.bias"])
    )
    other.model, other.loss = mlp(width=3), nn.MultiMarginLoss()
    other.set_masks({"0.bias": torch.zeros(3)})
    assert learner.model is network and learner.loss is F.cross_entropy and not learner.masks
    assert torch.equal(answer(learner, of), before)


def test_a_loss_with_weights_of_its_own_moves_and_is_saved_with_the_learner():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    learner = MAML(mlp(), 0.1, loss=loss).double()
    assert loss.weight.dtype == torch.float64 and "loss.weight" in learner.state_dict()
    answer(learner, task("mlp", torch.float64))


@learners
def test_a_learner_is_not_called_itself(name):
    learner = made(name)
    with pytest.raises(TypeError, match=r"answers after adapting: .*\.adapt\(support_x, support_y"):
        learner(task(name).query_x)


class NearestMean(Learner):
    """What a reader writes: three verbs, and the rest is there."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))

    def settings(self):
        return {"method": "NearestMean"}

    def adapt(self, support_x, support_y):
        means = F.one_hot(support_y).float().T @ self.body(support_x)
        return lambda x: self.body(x) @ means.T


def test_a_learner_of_ones_own_has_state_and_parameters(tmp_path):
    torch.manual_seed(0)
    one, other = NearestMean(), NearestMean()
    assert one.meta_parameters().keys() == {n for n, _ in one.named_parameters()}
    one.body[0].requires_grad_(False)
    assert one.meta_parameters().keys() == {"body.1.weight", "body.1.bias"}
    state = state_of(one)
    assert {"fixed.body.0.weight", "meta.body.1.bias", "buffer.body.1.running_var"} <= state.keys()
    load_state("file", state, other)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in one.state_dict().items())
    with pytest.raises(NotImplementedError, match="NearestMean must define task_losses"):
        one.task_losses(None)


@learners
def test_another_network_takes_the_place_of_the_one_that_answers(name):
    learner, donor = made(name), made(name, seed=1)
    network = copy.deepcopy(donor.model)
    learner.model = network
    assert learner.model is network
    assert {id(p) for p in network.parameters()} <= {id(p) for p in learner.parameters()}
    state = learner.state_dict()
    assert state.keys() == made(name).state_dict().keys()
    whole = made(name)
    whole.load_state_dict(state)
    one = task(name)
    answers = (of.adapt(one.support_x, one.support_y)(one.query_x) for of in (learner, whole))
    assert torch.equal(*answers)


def test_a_network_in_the_place_of_what_cannot_be_set_is_refused():
    with pytest.raises(AttributeError, match="masks"):
        made("maml").masks = nn.Identity()
