"""Layer Hessians at adapted weights: the rows they are made of, and their inverses."""

import pytest
import torch
import torch.nn.functional as F
from bilevel_cases import WAYS, conv4, images, mlp, seeded, vectors
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from metalearn_tut import MAML, ProtoNet, models
from metalearn_tut.learners.maml import anil
from metalearn_tut.saliency import (
    LayerHessian,
    layer_hessians,
    layer_inputs,
    obs_scores,
    patches,
    prunable_layers,
)
from metalearn_tut.tasks import Task, TaskBatch

LAYERS = ["head", *(f"blocks.{i}.conv" for i in range(4))]


def resnet():
    return seeded(lambda: models.ResNet12(WAYS, widths=(4, 4, 4, 4), in_channels=1))


def close(found, expected, rtol=1e-10):
    assert (found - expected).norm() <= rtol * expected.norm()


# Rows


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from([0, 1, (2, 1), "same", "valid"]),
    dilation=st.integers(1, 2),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
    bias=st.booleans(),
    patch_stride=st.integers(1, 4),
)
def test_rows_times_weights_are_the_outputs_of_any_convolution(
    kernel, stride, padding, dilation, mode, bias, patch_stride
):
    odd = kernel[0] % 2 == kernel[1] % 2 == 1  # PyTorch warns of a copy otherwise
    assume(padding != "same" or (stride == (1, 1) and odd))
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, kernel, stride, padding, dilation, bias=bias, padding_mode=mode)
    conv, x = conv.double(), torch.randn(2, 2, 9, 7, dtype=torch.float64)
    weights = conv.weight.flatten(1)
    weights = torch.cat([weights, conv.bias[:, None]], 1) if bias else weights
    found = patches(conv, x, patch_stride) @ weights.T  # [positions, 3]
    first = [(side - 1) % patch_stride // 2 for side in conv(x).shape[2:]]
    taken = conv(x)[:, :, first[0] :: patch_stride, first[1] :: patch_stride]
    torch.testing.assert_close(found, taken.permute(0, 2, 3, 1).flatten(0, 2))


def test_a_coarse_grid_of_patches_is_centered():
    """The middle of a 3 x 3 map, not its corner, whose patch is mostly padding."""
    conv, x = nn.Conv2d(1, 1, 3, padding=1, bias=False), torch.arange(9.0).view(1, 1, 3, 3)
    assert patches(conv, x, 5).tolist() == [list(range(9))]


def test_a12_linear_and_1x1_layers_go_through_the_same_routine():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.equal(patches(nn.Conv2d(3, 5, 1, bias=False), x), pixels)
    assert torch.equal(patches(nn.Linear(3, 5, bias=False), pixels), pixels)
    with_one = torch.cat([pixels, torch.ones(32, 1)], 1)
    assert torch.equal(patches(nn.Conv2d(3, 5, 1), x), with_one)
    assert torch.equal(patches(nn.Linear(3, 5), pixels.view(2, 16, 3)), with_one)


def test_a12_a_convolution_without_bias_has_no_extra_row():
    sizes = {
        norm: {n: len(h.gram) for n, h in layer_hessians(MAML(conv4(norm)), images()).items()}
        for norm in ("batch", "none")
    }
    assert list(sizes["batch"].values()) == [5, 9, 36, 36, 36]
    assert list(sizes["none"].values()) == [5, 10, 37, 37, 37]
    assert list(sizes["batch"]) == LAYERS


# Which network, which images


def seen_by(model, params, x, layer, **kwargs):
    """The input of a layer while the network runs, by a hook of its own."""
    seen = []
    module = model.get_submodule(layer)
    hook = module.register_forward_hook(lambda m, args, out: seen.append(args[0].detach()))
    functional_call(model, params, (x,), kwargs)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("norm", ["batch", "support"])
@pytest.mark.parametrize("data", ["support", "query"])
def test_the_rows_are_those_of_the_adapted_network_on_the_images_asked_for(data, norm):
    learner, task = MAML(conv4(norm), 0.4, 2), images(queries=3)[0]
    params = learner.adapt(task.support_x, task.support_y).params
    support, query = task.support_x, task.query_x
    found = layer_inputs(learner, task, data=data)
    for layer in LAYERS:
        if data == "support":
            x = seen_by(learner.model, params, support, layer)
        elif norm == "batch":
            x = seen_by(learner.model, params, query, layer)
        else:
            both = torch.cat([support, query])
            x = seen_by(learner.model, params, both, layer, n_support=len(support))[len(support) :]
        if layer != "head":
            x = F.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
        else:
            x = torch.cat([x, torch.ones(len(x), 1)], 1)
        torch.testing.assert_close(found[layer], x, rtol=1e-12, atol=1e-14)


def test_a_learners_masks_hold_while_it_adapts():
    learner, task = MAML(conv4(), 0.4, 2), images()[0]
    mask = torch.zeros(4, 1, 3, 3, dtype=torch.bool)
    mask[0] = True
    learner.set_masks({"blocks.0.conv.weight": mask})
    rows = layer_inputs(learner, task)["blocks.1.conv"].view(-1, 4, 9)
    assert rows[:, 0].abs().max() > 0
    norm = learner.adapt(task.support_x, task.support_y).params["blocks.0.norm.bias"]
    values = rows[:, 1:].flatten(2)[:, :, 4].unique(dim=0)  # what masked filters put out
    torch.testing.assert_close(values, F.relu(norm)[None, 1:])


def test_grams_are_means_over_all_rows_of_all_tasks():
    learner, batch = MAML(conv4(), 0.4, 1), images(tasks=3)
    found = layer_hessians(learner, batch)
    rows = [layer_inputs(learner, task) for task in batch]
    for layer, hessian in found.items():
        x = torch.cat([r[layer] for r in rows])
        assert hessian.rows == len(x)
        close(hessian.gram, x.T @ x / len(x), 1e-13)


def test_a11_order_and_batching_of_tasks_do_not_matter():
    learner, batch = MAML(conv4().float(), 0.4, 2), images(tasks=4)
    tasks = [Task(t.support_x.float(), t.support_y, t.query_x.float(), t.query_y) for t in batch]
    found = layer_hessians(learner, TaskBatch.stack(tasks))
    for order in ([3, 1, 0, 2], [2, 3, 0, 1]):
        other = layer_hessians(learner, [tasks[i] for i in order])
        for layer, hessian in found.items():
            close(other[layer].gram, hessian.gram, 1e-14)
    halves = [layer_hessians(learner, tasks[:2]), layer_hessians(learner, tasks[2:])]
    for layer, hessian in found.items():
        close((halves[0][layer].gram + halves[1][layer].gram) / 2, hessian.gram, 1e-14)


def assert_bitwise(found, expected, layers):
    for layer in layers:
        assert torch.equal(found[layer].gram, expected[layer].gram), layer
        assert torch.equal(found[layer].inverse, expected[layer].inverse), layer


def test_a3_without_inner_steps_anp_is_bitwise_lobs():
    """L-OBS written out: hooks while the network itself runs, no learner, no adaptation."""
    model, batch = conv4(), images(tasks=3)
    found = layer_hessians(MAML(model, 0.4, 3), batch, inner_steps=0)
    still = layer_hessians(MAML(model, 0.0, 3), batch)
    assert_bitwise(still, found, LAYERS)
    for layer in LAYERS:
        gram, rows = 0, 0
        for task in batch:
            x = seen_by(model, {}, task.support_x, layer)
            x = (
                F.unfold(x, 3, padding=1).mT.flatten(0, 1)
                if x.ndim == 4
                else F.pad(x, (0, 1), value=1)
            )
            gram, rows = gram + x.T @ x, rows + len(x)
        close(found[layer].gram, gram / rows, 1e-13)
        inverse = torch.linalg.inv(gram / rows + 1e-6 * torch.eye(len(gram)))
        scores = obs_scores(MAML(model, 0.4, 3), {layer: found[layer]})[f"{layer}.weight"]
        w = model.get_submodule(layer).weight.detach().flatten(1)
        expected = w.square() / (inverse.diagonal()[: w.shape[1]] + 1e-5)
        torch.testing.assert_close(scores.flatten(1), expected, rtol=1e-7, atol=0)
    same = obs_scores(MAML(model), still), obs_scores(MAML(model), found)
    assert all(torch.equal(same[0][n], same[1][n]) for n in same[1])


@pytest.mark.parametrize("make", [conv4, resnet])
def test_a3_adaptation_changes_every_layer_but_the_first(make):
    """In ResNet-12 the image is also the input of the first shortcut."""
    learner, batch = MAML(make(), 0.4, 2), images()
    adapted, before = layer_hessians(learner, batch), layer_hessians(learner, batch, inner_steps=0)
    first = {"blocks.0.conv", "blocks.0.convs.0", "blocks.0.shortcut"} & adapted.keys()
    assert len(first) == (1 if make is conv4 else 2)
    assert_bitwise(adapted, before, first)
    for layer in adapted.keys() - first:
        change = (adapted[layer].gram - before[layer].gram).norm() / before[layer].gram.norm()
        assert change > 1e-3, layer


@pytest.mark.parametrize(
    "learner",
    [anil(conv4(), 0.4, 2), MAML(conv4(), 0.4, 1, zero_head=True)],
    ids=["anil", "one step from a zero head"],
)
def test_where_the_head_alone_moves_adaptation_changes_no_hessian(learner):
    adapted = layer_hessians(learner, images())
    assert_bitwise(adapted, layer_hessians(learner, images(), inner_steps=0), adapted)


# The inverse


def woodbury(rows, ridge=1e-6):
    """One update per row, as in the authors' code."""
    inverse = torch.eye(rows.shape[1], dtype=torch.float64) / ridge
    for x in rows:
        image = inverse @ x
        inverse = inverse - torch.outer(image, image) / (len(rows) + x @ image)
    return inverse


@pytest.mark.parametrize("patch_stride", [1, 2])
def test_a1_the_inverse_is_that_of_the_recursion_and_of_linalg_inv(patch_stride):
    learner, task = MAML(conv4(), 0.4, 2), images(shots=2)[0]
    rows = layer_inputs(learner, task, patch_stride=patch_stride)
    hessians = layer_hessians(learner, [task], patch_stride=patch_stride)
    for layer, hessian in hessians.items():
        x = rows[layer]
        plain = torch.linalg.inv(1e-6 * torch.eye(x.shape[1]) + x.T @ x / len(x))
        close(hessian.inverse, plain, 1e-8)
        close(hessian.inverse, woodbury(x), 1e-6)
    assert any(h.rows < len(h.gram) for h in hessians.values())  # the ridge alone makes these so


def test_the_condition_number_is_that_of_the_1_norm():
    hessian = layer_hessians(MAML(conv4()), images())["blocks.1.conv"]
    matrix = hessian.gram + 1e-6 * torch.eye(36)
    assert hessian.condition == pytest.approx(torch.linalg.cond(matrix, 1).item(), rel=1e-6)


# What is refused


def test_prunable_layers_are_convolutions_and_linear_layers_that_are_learned():
    assert list(prunable_layers(MAML(conv4()))) == LAYERS
    assert list(prunable_layers(MAML(conv4(), zero_head=True))) == LAYERS[1:]
    assert list(prunable_layers(MAML(conv4()), ["blocks.3.conv", "head"])) == [
        "head",
        "blocks.3.conv",
    ]
    assert len(prunable_layers(MAML(resnet()))) == 4 * 4 + 1
    assert list(prunable_layers(MAML(nn.Linear(3, 2)))) == [""]


def grouped():
    return nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 14 * 14, WAYS))


@pytest.mark.parametrize(
    ("learner", "layers", "message"),
    [
        (MAML(conv4()), ["blocks.9"], "names 'blocks.9'.*has no such layer.*'blocks.0.conv'"),
        (MAML(conv4()), ["blocks.0.norm"], "only Conv2d and Linear can, it is TaskBatchNorm2d"),
        (MAML(conv4(), zero_head=True), ["head"], "not among the meta-parameters"),
        (MAML(grouped()), None, "layer '0' is a convolution with groups=2"),
        (MAML(nn.Sequential(nn.Conv1d(1, 1, 1))), None, "Sequential has no layer that can be"),
    ],
)
def test_a_layer_that_cannot_be_pruned_is_refused_by_name(learner, layers, message):
    with pytest.raises(ValueError, match=message):
        prunable_layers(learner, layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "test"}, "data must be one of 'support', 'query', got 'test'"),
        ({"patch_stride": 0}, "patch_stride must be an integer >= 1, got 0"),
        ({"ridge": -1.0}, "ridge must be finite and >= 0, got -1.0"),
        ({"inner_steps": -1}, "steps must be an integer >= 0, got -1"),
        ({"tasks": []}, "at least one task, got none"),
    ],
)
def test_bad_arguments_are_refused(settings, message):
    settings = {"tasks": images(), **settings}
    with pytest.raises(ValueError, match=message):
        layer_hessians(MAML(conv4()), **settings)


def test_a_learner_that_adapts_no_parameters_is_refused():
    with pytest.raises(ValueError, match="MAML or one of its relatives, got ProtoNet"):
        layer_hessians(ProtoNet(conv4()), images())
    with pytest.raises(ValueError, match="got Linear, which has no model"):
        layer_hessians(nn.Linear(2, 2), images())


def test_a_task_without_support_images_is_refused():
    task = images()[0]
    empty = Task(task.support_x[:0], task.support_y[:0], task.query_x, task.query_y)
    with pytest.raises(ValueError, match="support_y must not be empty"):
        layer_hessians(MAML(conv4()), [task, empty])


def test_too_few_rows_without_a_ridge_are_refused():
    hessian = layer_hessians(MAML(mlp()), vectors(tasks=1, shots=1), ridge=0.0)["2"]
    with pytest.raises(ValueError, match="layer '2' cannot be inverted: 3 input rows for 9 inputs"):
        hessian.inverse  # noqa: B018


def test_a_hessian_that_is_not_finite_is_refused():
    learner = MAML(conv4("none"), 1e200, 3)
    with pytest.raises(ValueError, match=r"Hessian of layer '.*' is not finite.*task 0"):
        layer_hessians(learner, images())
    with pytest.raises(ValueError, match="the Hessian of layer 'x' is not finite"):
        LayerHessian("x", torch.full((2, 2), torch.nan), 1, 0.0).inverse  # noqa: B018


class Odd(nn.Module):
    """One layer is called twice and one never."""

    def __init__(self):
        super().__init__()
        self.twice, self.never = nn.Linear(5, 5), nn.Linear(5, 5)
        self.out = nn.Linear(5, WAYS)

    def forward(self, x):
        return self.out(self.twice(self.twice(x)))


def test_a_layer_that_is_not_called_is_refused():
    learner = MAML(seeded(Odd), 0.1, 1)
    with pytest.raises(ValueError, match="layer 'never' is given no input"):
        layer_hessians(learner, vectors())
    assert list(layer_hessians(learner, vectors(), layers=["twice", "out"])) == ["twice", "out"]


def test_a_layer_that_is_called_twice_has_the_rows_of_both_calls():
    learner, batch = MAML(seeded(Odd), 0.1, 1), vectors(tasks=1)
    hessians = layer_hessians(learner, batch, layers=["twice", "out"])
    assert hessians["twice"].rows == 2 * hessians["out"].rows == 2 * batch.support_x.shape[1]


def test_nothing_of_the_learner_is_changed():
    learner = MAML(conv4(), 0.4, 2)
    before = {n: p.clone() for n, p in learner.meta_parameters().items()}
    layer_hessians(learner, images(), data="query")
    assert all(torch.equal(p, before[n]) for n, p in learner.meta_parameters().items())
    assert not any(m._forward_pre_hooks for m in learner.model.modules())
