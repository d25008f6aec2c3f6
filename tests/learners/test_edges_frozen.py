"""Frozen means frozen: in every inner and outer loop, score, distillation and federation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import IMAGES, conv, mlp, task_of

from metalearn_tut import MAML, ProtoNet, Reptile, meta_train, saliency, tasks
from metalearn_tut.bilevel import adapt, meta_gradient
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.federated import Federation, by_classes, per_fed_avg, run_rounds
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.learners.maml import anil, fomaml, meta_sgd
from metalearn_tut.models import Conv4
from metalearn_tut.tasks import Task, TaskBatch
from metalearn_tut.training import checkpoint

ENGINES = ("functional", "higher", "vectorised")


def task(dtype=torch.float32):
    sx, sy, qx, qy = task_of("mlp")
    return Task(sx.to(dtype), sy, qx.to(dtype), qy)


def frozen(model, *layers):
    for layer in layers:
        model.get_submodule(layer).requires_grad_(False)
    return model


def sampler(shape=(6,)):
    x = torch.rand(90, *shape, generator=torch.Generator().manual_seed(0))
    return tasks.from_arrays(x, torch.arange(90) % 9).sampler(3, 2, 3)


def constant_features(model):
    """The network with its frozen first layer computed beforehand: what freezing has to equal."""
    first, rest = model[0], nn.Sequential(*[*model][1:])
    given = task(torch.float64)
    with torch.no_grad():
        x = [first(given.support_x), first(given.query_x)]
    return rest, Task(x[0], given.support_y, x[1], given.query_y)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first_order", [False, True])
def test_the_rest_is_trained_as_if_frozen_layers_were_data(engine, first_order):
    torch.manual_seed(0)
    model = frozen(mlp().double(), "0")
    rest, features = constant_features(model)
    settings = {"inner_lr": 0.3, "inner_steps": 3, "engine": engine, "first_order": first_order}
    found = meta_gradient(model, task(torch.float64), **settings)
    expected = meta_gradient(rest, features, **settings)
    assert set(found) == {"2.weight", "2.bias"}
    for name, g in expected.items():
        torch.testing.assert_close(found[f"2.{name.partition('.')[2]}"], g)


@pytest.mark.parametrize("make", [MAML, fomaml, meta_sgd, Reptile])
def test_frozen_layers_are_neither_stepped_nor_trained(make):
    torch.manual_seed(0)
    model = frozen(mlp(), "0")
    learner, before = make(model, 0.3, 2), model[0].weight.clone()
    head = model[2].weight.clone()
    adapted = learner.adapt(task().support_x, task().support_y).params
    assert torch.equal(adapted["0.weight"], before) and not torch.equal(adapted["2.weight"], head)
    meta_train(learner, sampler(), steps=3, progress=False, outer_lr=0.1)
    assert torch.equal(model[0].weight, before) and not torch.equal(model[2].weight, head)
    assert not any(n.startswith(("0.", "rates.0")) for n in learner.meta_parameters())


@pytest.mark.parametrize("rate_mode", ["per_layer", "per_layer_and_step", "per_weight", "shared"])
@pytest.mark.parametrize("engine", ENGINES)
def test_learned_rates_are_those_of_what_is_stepped(rate_mode, engine):
    torch.manual_seed(0)
    model = frozen(mlp().double(), "0")
    rest, features = constant_features(model)
    batches = TaskBatch.stack([task(torch.float64)]), TaskBatch.stack([features])
    losses = []
    for m, batch in zip((model, rest), batches, strict=True):
        learner = MAML(m, 0.3, 2, rate_mode=rate_mode, engine=engine)
        found = learner.task_losses(batch).losses.sum()
        found.backward()
        grads = [p.grad for p in learner.meta_parameters().values()]
        losses.append((found.detach(), grads))
    (a, grads_a), (b, grads_b) = losses
    torch.testing.assert_close(a, b)
    for g, h in zip(grads_a, grads_b, strict=True):
        torch.testing.assert_close(g, h)


def test_a_frozen_bias_alone():
    model = mlp().double()
    model[2].bias.requires_grad_(False)
    found = meta_gradient(model, task(torch.float64), inner_lr=0.1, inner_steps=2)
    assert set(found) == {"0.weight", "0.bias", "2.weight"}

    def loss(shift):
        start = {n: p.detach().clone() for n, p in model.named_parameters()}
        start["2.weight"][1, 2] += shift
        with torch.no_grad():
            p = adapt(
                model, task(torch.float64).support_x, task().support_y,
                inner_lr=0.1, inner_steps=2, params=start,
            )  # fmt: skip
            x = torch.tanh(F.linear(task(torch.float64).query_x, p["0.weight"], p["0.bias"]))
            return F.cross_entropy(F.linear(x, p["2.weight"], p["2.bias"]), task().query_y)

    measured = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(found["2.weight"][1, 2], measured, rtol=1e-6, atol=1e-9)


def test_groups_step_what_is_not_frozen_of_them():
    model = frozen(mlp(), "2")
    model[2].bias.requires_grad_(True)
    learner = anil(model, 0.3, 2, head="2")
    adapted = learner.adapt(task().support_x, task().support_y).params
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, adapted[n])}
    assert moved == {"2.bias"}


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_members_of_given_groups_are_passed_over(engine):
    torch.manual_seed(0)
    model = frozen(mlp().double(), "0")
    settings = {"inner_lr": 0.3, "inner_steps": 2, "engine": engine}
    groups = [["0.weight", "2.bias"], ["0.bias"], ["2.weight"]]
    found = meta_gradient(model, task(torch.float64), groups=groups, **settings)
    fewer = [["2.bias"], ["2.weight"]]
    expected = meta_gradient(model, task(torch.float64), groups=fewer, **settings)
    for name, g in expected.items():
        torch.testing.assert_close(found[name], g)
    given = task(torch.float64)
    rest = {"inner_lr": 0.3, "inner_steps": 2, "groups": groups}
    adapted = adapt(model, given.support_x, given.support_y, **rest)
    assert torch.equal(adapted["0.weight"], model[0].weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MAML(frozen(mlp(), "0", "2")),
        lambda: Reptile(frozen(mlp(), "0", "2")),
        lambda: anil(frozen(mlp(), "2"), head="2"),
        lambda: MAML(frozen(mlp(), "0"), groups=[["0.weight"]]),
    ],
)
def test_nothing_to_step_is_said_when_the_learner_is_made(make):
    with pytest.raises(
        ValueError, match=r"has nothing to adapt: all parameters .* are frozen"
    ) as e:
        make()
    assert "\n" not in str(e.value)


def test_all_frozen_later_is_said_before_any_work():
    learner = MAML(mlp(), 0.1)
    learner.model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to adapt: all parameters"):
        learner.adapt(task().support_x, task().support_y)
    with pytest.raises(ValueError, match="nothing to train: all"):
        meta_train(learner, sampler(), steps=1, progress=False)
    with pytest.raises(ValueError, match=r"nothing to adapt: all parameters .* are frozen"):
        meta_gradient(learner.model, task(), inner_lr=0.1, inner_steps=1)


def test_a_frozen_embedding_still_has_prototypes_and_a_zero_head():
    """Both learn a task on features that are not trained."""
    network = Conv4(2, 3, width=4, image_size=16, norm="group").requires_grad_(False)
    sx, sy, qx, _ = task_of("Conv4, group")
    assert ProtoNet(network).adapt(sx, sy)(qx).shape == (9, 3)
    with pytest.raises(ValueError, match="nothing to train"):
        meta_train(ProtoNet(network), sampler((2, 16, 16)), steps=1, progress=False)
    network.head.requires_grad_(True)
    learner = MAML(network, 0.5, 3, zero_head=True)
    features = network.embed(sx)
    w, b = torch.zeros(3, 4), torch.zeros(3)
    for _ in range(3):  # logistic regression by hand
        p = (features @ w.T + b).softmax(1) - F.one_hot(sy)
        w, b = w - 0.5 * p.T @ features / len(sy), b - 0.5 * p.mean(0)
    adapted = learner.adapt(sx, sy).params
    torch.testing.assert_close(adapted["head.weight"], w.detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="nothing to train"):
        meta_train(learner, sampler((2, 16, 16)), steps=1, progress=False)


def test_a_zero_head_is_not_frozen():
    network = Conv4(2, 3, width=4, image_size=16)
    network.head.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="zero_head=True needs a head 'head' of one layer that is"):
        MAML(network, zero_head=True)


def test_a_frozen_batch_norm_in_evaluation_mode_stays_as_it_is():
    model = conv(nn.BatchNorm2d(4))
    model(torch.randn(20, *IMAGES))
    model[1].requires_grad_(False).eval()
    before = {n: t.clone() for n, t in model[1].state_dict().items()}
    learner = MAML(model, 0.1)
    meta_train(learner, sampler(IMAGES), steps=2, progress=False)
    assert all(torch.equal(before[n], t) for n, t in model[1].state_dict().items())
    assert not model[1].training
    sx, sy, qx, _ = task_of("batch norm 2d")
    p = learner.adapt(sx, sy).params
    h = F.batch_norm(
        F.conv2d(qx, p["0.weight"], p["0.bias"]),
        *(before["running_mean"], before["running_var"], before["weight"], before["bias"]),
    )
    expected = F.linear(h.relu().flatten(1), p["4.weight"], p["4.bias"])
    torch.testing.assert_close(learner.adapt(sx, sy)(qx), expected, rtol=1e-4, atol=1e-5)


# Distillation


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_a_distiller_steps_and_trains_neither_networks_frozen_layers(order):
    teacher, student = frozen(mlp(width=16), "0"), frozen(mlp(), "0")
    pair = MetaDistiller(MAML(teacher, 0.2, 2), MAML(student, 0.2, 2), order=order)
    before = teacher[0].weight.clone(), student[0].weight.clone()
    adapted = pair.adapt(task().support_x, task().support_y).params
    assert torch.equal(adapted["0.weight"], before[1])
    meta_train(pair, sampler(), steps=2, progress=False, outer_lr=0.1)
    assert torch.equal(teacher[0].weight, before[0]) and torch.equal(student[0].weight, before[1])
    assert set(pair.meta_parameters()) == {
        f"{n}.2.{leaf}" for n in ("teacher", "student") for leaf in ("weight", "bias")
    }


def test_a_frozen_teacher_that_does_not_adapt_can_still_teach():
    teacher = mlp(width=16)
    fixed = {"fixed_teacher": True, "fixed_teacher_inner_adapt": False}
    pair = MetaDistiller(MAML(teacher, 0.2, 2), MAML(mlp(), 0.2, 2), **fixed)
    before = pair.adapt(task().support_x, task().support_y)(task().query_x)
    teacher.requires_grad_(False)
    found = pair.adapt(task().support_x, task().support_y)(task().query_x)
    torch.testing.assert_close(found, before)


# Gates


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("update", ["full", "first_order"])
@pytest.mark.parametrize("part", ["gates", "blocks.0", "head"])
def test_frozen_parts_of_a_gated_network_stay(update, part):
    torch.manual_seed(0)
    network = ChannelGatedConv4(Conv4(2, 3, width=4, norm="support", image_size=16))
    frozen(network, part)
    before = {n: p.clone() for n, p in network.named_parameters()}
    learner = MetaGater(network, 0.1, update=update)
    sx, sy, *_ = task_of("Conv4, support")
    adapted = learner.adapt(sx, sy).params
    meta_train(learner, sampler((2, 16, 16)), steps=2, progress=False, outer_lr=0.1)
    for name, p in network.named_parameters():
        stays = name.startswith(f"{part}.")
        assert torch.equal(before[name], p) or not stays, name
        assert torch.equal(before[name], adapted[name]) or not stays, name
    assert not torch.equal(before["blocks.1.conv.weight"], network.blocks[1].conv.weight)


# Scores and federations


def test_frozen_layers_are_not_pruned():
    model = frozen(mlp(nn.Linear(8, 8)), "1")
    learner = MAML(model, 0.2)
    masks, _ = saliency.anp_prune(
        learner, sampler(), (0.3,), saliency.Criterion(n_tasks=2), progress=False
    )
    assert set(masks) == {f"{i}.{leaf}" for i in (0, 3) for leaf in ("weight", "bias")}
    assert model[1].weight.all()


def test_a_federation_leaves_frozen_layers_alone():
    model = frozen(mlp(), "0")
    before = model[0].weight.clone()
    source = tasks.from_arrays(torch.randn(90, 6), torch.arange(90) % 9)
    nodes = by_classes(source, nodes=3, classes_per_node=3, local_labels=True, unseen=0).train
    learner = per_fed_avg(model, 0.1)
    records = run_rounds(Federation(learner, nodes, rounds=2, support=6, query=6))
    assert torch.equal(model[0].weight, before) and records[-1]["moved"] > 0


def test_a_frozen_weight_is_not_pruned_by_hand():
    learner = MAML(frozen(mlp(), "0"), 0.2)
    before = learner.model[0].weight.clone()
    with pytest.raises(
        ValueError, match=r"masks\['0\.weight'\] would prune 0\.weight, which is fr"
    ):
        learner.set_masks({"0.weight": torch.zeros(8, 6)})
    assert torch.equal(learner.model[0].weight, before) and not learner.masks


@pytest.mark.parametrize("late", [True, False])
def test_a_pruned_weight_may_be_frozen_saved_and_loaded(tmp_path, late):
    learner, mask = MAML(mlp(), 0.2), torch.rand(8, 6).gt(0.5).float()
    learner.set_masks({"0.weight": mask})
    frozen(learner.model, "0")
    kept = learner.model[0].weight.clone()
    meta_train(learner, sampler(), steps=2, progress=False, out=tmp_path)
    again = MAML(mlp(), 0.2)
    if not late:
        frozen(again.model, "0")
    checkpoint.load(tmp_path / "last.safetensors", again)
    assert torch.equal(again.model[0].weight, kept) and not kept[mask == 0].any()
    assert torch.equal(again.masks["0.weight"], mask)
    adapted = again.adapt(task().support_x, task().support_y).params["0.weight"]
    assert not adapted[mask == 0].any() and torch.equal(adapted, kept) != late
