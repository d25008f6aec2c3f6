"""The networks: shapes, norms whose statistics are what they say, layouts, deployment."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metalearn_tut.models import (
    NORMS,
    CifarResNet,
    Conv4,
    ResNet12,
    TaskBatchNorm2d,
    deploy,
    inputs,
    norms,
)
from metalearn_tut.models.conv4 import ConvBlock
from metalearn_tut.models.resnet12 import ResidualBlock

NETWORKS = {
    "conv4": lambda norm: Conv4(2, ways=3, width=8, norm=norm, image_size=20),
    "resnet12": lambda norm: ResNet12(3, widths=(8, 8, 16, 16), in_channels=2, norm=norm),
}


def trained_looking(network, seed=0):
    """Float64 with every parameter random: at initialization many are 0 or 1 and hide errors."""
    torch.manual_seed(seed)
    network = network.double()
    for p in network.parameters():
        if p.dim() < 2 or p.abs().sum() == 0:
            nn.init.normal_(p, mean=0.5, std=0.5)
    return network


def images(rows, channels=2, side=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, channels, side, side, generator=generator, dtype=torch.float64)


@pytest.fixture(params=[f"{n}-{norm}" for n in NETWORKS for norm in NORMS])
def network(request):
    name, norm = request.param.split("-")
    return trained_looking(NETWORKS[name](norm))


# TaskBatchNorm2d


def test_batch_mode_is_the_normalization_written_out():
    layer, x = trained_looking(TaskBatchNorm2d(4)), images(6, 4)
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)  # biased
    by_hand = (x - mean) / (var + 1e-5).sqrt()
    by_hand = by_hand * layer.weight.view(1, 4, 1, 1) + layer.bias.view(1, 4, 1, 1)
    torch.testing.assert_close(layer(x), by_hand, rtol=0, atol=1e-12)


def test_support_mode_normalizes_every_row_by_the_first_rows():
    layer, x = trained_looking(TaskBatchNorm2d(4)), images(6, 4)
    mean = x[:2].mean((0, 2, 3), keepdim=True)
    var = ((x[:2] - mean) ** 2).mean((0, 2, 3), keepdim=True)
    by_hand = (x - mean) / (var + 1e-5).sqrt()
    by_hand = by_hand * layer.weight.view(1, 4, 1, 1) + layer.bias.view(1, 4, 1, 1)
    torch.testing.assert_close(layer(x, n_support=2), by_hand, rtol=0, atol=1e-12)


def test_all_rows_as_support_is_the_batch_mode():
    layer, x = trained_looking(TaskBatchNorm2d(4)), images(6, 4)
    torch.testing.assert_close(layer(x, n_support=6), layer(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_support", [None, 2])
def test_second_derivatives_of_the_norm_are_finite_differences(n_support):
    x = images(4, 2, side=2).requires_grad_()
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)

    def normalized(x, weight, bias):
        layer = TaskBatchNorm2d(2).double()
        return functional_call(layer, {"weight": weight, "bias": bias}, (x, n_support))

    assert torch.autograd.gradcheck(normalized, (x, weight, bias))
    assert torch.autograd.gradgradcheck(normalized, (x, weight, bias))


def test_the_norm_does_the_same_in_evaluation_mode():
    layer, x = TaskBatchNorm2d(4), images(6, 4).float()
    assert torch.equal(layer.train()(x), layer.eval()(x))
    assert not list(layer.buffers())


# Whose images a query image's logits depend on


def test_query_logits_do_not_depend_on_other_queries_given_support_statistics(network):
    support, query = images(3), images(5, seed=2)
    together = network(torch.cat([support, query]), n_support=3)[3:]
    for i, x in enumerate(query):
        alone = network(torch.cat([support, x[None]]), n_support=3)[3]
        torch.testing.assert_close(alone, together[i], rtol=0, atol=1e-12)


def test_query_logits_depend_on_other_queries_in_batch_mode_only(network):
    query = images(5)
    gap = (network(query)[:2] - network(query[:2])).abs().max()
    assert (gap > 1e-3) == (network.norm in ("batch", "support")), gap


# deploy


def test_deployed_network_equals_the_support_statistics_mode(network):
    support, query = images(3), images(5, seed=2)
    params = {name: p + 0.01 for name, p in network.named_parameters()}
    deployed = deploy(network, params, support)
    expected = functional_call(network, params, (torch.cat([support, query]), 3))[3:]
    torch.testing.assert_close(deployed(query), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(deployed(query[:1]), expected[:1], rtol=0, atol=1e-12)


def test_deployed_network_is_ordinary_and_the_model_untouched():
    model = trained_looking(NETWORKS["conv4"]("batch"))
    before = copy.deepcopy(model.state_dict())
    deployed = deploy(model, {"head.bias": torch.ones(3).double()}, images(3))
    modules = list(deployed.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in modules) == 4
    assert not any(isinstance(m, TaskBatchNorm2d) or m.training for m in modules)
    assert not any(m._forward_pre_hooks for m in modules)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert (model.norm, deployed.norm) == ("batch", "support")


def test_the_number_of_ways_is_free_at_test_time():
    model, support = trained_looking(NETWORKS["conv4"]("support")), images(7)
    head = {"head.weight": torch.randn(7, 8).double(), "head.bias": torch.randn(7).double()}
    deployed = deploy(model, head, support)
    assert (deployed.ways, deployed.head.out_features, model.ways) == (7, 7, 3)
    by_hand = model.embed(support) @ head["head.weight"].T + head["head.bias"]
    torch.testing.assert_close(deployed(support), by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"haed.bias": torch.ones(3)}, r"params\['haed.bias'\] is not a parameter of Conv4"),
        ({"blocks.0.conv.weight": torch.ones(3)}, r"must have shape \[8, 2, 3, 3\], got \[3\]"),
        ({"head.weight": torch.ones(5, 8)}, "same number of rows"),
    ],
)
def test_deploy_refuses_parameters_of_another_network(params, message):
    with pytest.raises(ValueError, match=message):
        deploy(NETWORKS["conv4"]("batch"), params, images(3).float())


# The functions the networks compute


def test_zero_head_gives_uniform_predictions(network):
    nn.init.zeros_(network.head.weight), nn.init.zeros_(network.head.bias)
    assert torch.equal(network(images(4)), torch.zeros(4, 3).double())


@pytest.mark.parametrize("make", [lambda: Conv4(1, 5), lambda: ResNet12(5, widths=(8, 8, 8, 8))])
def test_heads_start_at_zero(make):
    assert all(not p.any() for p in make().head.parameters())


def test_pooling_before_the_relu_is_the_same_function_and_gradient():
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    for activation in (F.relu, lambda t: F.leaky_relu(t, 0.1)):
        first, second = activation(F.max_pool2d(x, 2)), F.max_pool2d(activation(x), 2)
        assert torch.equal(first, second)
        gradients = [torch.autograd.grad(y, x, cotangent)[0] for y in (first, second)]
        # Where all four pixels are negative the ReLU's zeros tie, and have no gradient anyway.
        assert torch.equal(*gradients)


@pytest.mark.parametrize("norm", NORMS)
def test_conv4_written_out(norm):
    model, x = trained_looking(NETWORKS["conv4"](norm)), images(4)
    state, y = dict(model.named_parameters()), x
    for i in range(4):
        block = f"blocks.{i}."
        y = F.conv2d(y, state[block + "conv.weight"], state.get(block + "conv.bias"), padding=1)
        if norm in ("batch", "support"):
            scale, shift = state[block + "norm.weight"], state[block + "norm.bias"]
            y = F.batch_norm(y, None, None, scale, shift, training=True)
        elif norm == "group":
            scale, shift = state[block + "norm.weight"], state[block + "norm.bias"]
            y = F.group_norm(y, 8, scale, shift)
        y = F.max_pool2d(F.relu(y), 2)
    logits = y.flatten(1) @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(model(x), logits, rtol=0, atol=1e-12)


def test_residual_block_written_out():
    block, x = trained_looking(ResidualBlock(2, 8, "none")), images(4) - 0.5
    y = x
    for conv in block.convs[:2]:
        y = F.leaky_relu(F.conv2d(y, conv.weight, conv.bias, padding=1), 0.1)
    y = F.conv2d(y, block.convs[2].weight, block.convs[2].bias, padding=1)
    y = y + torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], x)
    expected = F.max_pool2d(F.leaky_relu(y, 0.1), 2)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_option_a_shortcut_subsamples_and_pads_with_zero_channels():
    model = CifarResNet(20)
    x = torch.randn(2, 16, 5, 5)
    short = model.blocks[3].shortcut(x)  # the first block of the second stage
    assert torch.equal(short[:, 8:24], x[:, :, ::2, ::2])
    assert not short[:, :8].any() and not short[:, 24:].any()
    assert model.blocks[2].shortcut(x) is x


@pytest.mark.parametrize("i", [1, 3])  # a plain block, and one that halves the image
def test_cifar_block_written_out(i):
    block, x = trained_looking(CifarResNet(20).blocks[i]), images(4, 16, 8) - 0.5
    y = F.conv2d(x, block.conv1.weight, stride=block.stride, padding=1)
    y = F.batch_norm(y, None, None, block.bn1.weight, block.bn1.bias, training=True)
    y = F.conv2d(F.relu(y), block.conv2.weight, padding=1)
    y = F.batch_norm(y, None, None, block.bn2.weight, block.bn2.bias, training=True)
    expected = F.relu(y + block.shortcut(x))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_cifar_resnet_starts_with_unit_gain_and_runs_without_any_plain_block():
    torch.manual_seed(0)
    model = CifarResNet(32).eval()
    std = model.blocks[-1].conv2.weight.std()
    assert abs(std - (2 / (64 * 9)) ** 0.5) < 1e-3
    with torch.no_grad():
        for i in reversed([i for i, block in enumerate(model.blocks) if block.stride == 1]):
            del model.blocks[i]
        assert len(model.blocks) == 2 and model(torch.rand(1, 3, 32, 32)).shape == (1, 10)


def test_signal_keeps_its_size_without_a_norm():
    torch.manual_seed(0)
    model = Conv4(3, 5, width=64, norm="none", image_size=64)
    x = torch.randn(8, 3, 64, 64)
    assert 0.3 < model.embed(x).square().mean().sqrt() / x.square().mean().sqrt() < 10


@pytest.mark.parametrize(("width", "groups"), [(32, 8), (12, 4), (30, 2), (7, 1)])
def test_group_norm_divides_any_width(width, groups):
    assert ConvBlock(1, width, "group").norm.num_groups == groups


def test_seed_decides_the_initialization():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(Conv4(1, 5).parameters())

    assert torch.equal(weights(3), weights(3)) and not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("norm", NORMS)
def test_equal_widths_are_one_width(norm):
    narrow = {"widths": (8, 16, 8, 16), "in_channels": 1, "norm": norm}
    pairs = (
        (lambda: Conv4(1, 5, 8, norm), lambda: Conv4(1, 5, [8] * 4, norm, group_size=1)),
        (
            lambda: ResNet12(5, **narrow),
            lambda: ResNet12(5, **narrow, inner=[(8, 8), (16, 16)] * 2),
        ),
    )
    for pair in pairs:
        networks = []
        for make in pair:
            torch.manual_seed(0)
            networks.append(make())
        a, b = networks
        assert repr(a) == repr(b)
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


@pytest.mark.parametrize("norm", NORMS)
def test_each_layer_has_the_width_asked_for(norm):
    model = Conv4(2, 3, width=[4, 8, 12, 6], norm=norm, image_size=33, group_size=2)
    shapes = [tuple(b.conv.weight.shape[:2]) for b in model.blocks]
    assert shapes == [(4, 2), (8, 4), (12, 8), (6, 12)] and model.width == (4, 8, 12, 6)
    x = torch.rand(2, 2, 33, 33)
    assert model.embed(x).shape == (2, 6 * 4) and model(x).shape == (2, 3)
    inner = ((4, 6), (2, 8), (1, 7), (16, 2)) if norm != "group" else ((4, 6), (2, 8)) * 2
    net = ResNet12(3, widths=(16, 8, 16, 8), in_channels=1, norm=norm, inner=inner)
    for block, (a, b), out in zip(net.blocks, inner, (16, 8, 16, 8), strict=True):
        assert [c.out_channels for c in block.convs] == [a, b, out]
        assert [c.in_channels for c in block.convs[1:]] == [a, b]
        if norm == "group":  # groups as large as the block's, however few are left
            assert [n.num_groups for n in block.norms] == [a * 8 // out, b * 8 // out, 8]
    assert net.inner == inner and net(torch.rand(2, 1, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize("side", [16, 28, 31, 84])
def test_conv4_features_follow_the_image_size(side):
    model = Conv4(1, 5, width=4, image_size=side)
    assert model.embed(torch.rand(2, 1, side, side)).shape == (2, 4 * (side // 16) ** 2)


def test_norm_is_a_label_that_switches_between_modes_of_the_same_layers():
    model = Conv4(1, 5)
    model.norm = "support"
    assert model.norm == "support"
    for refused in ("group", "layer"):
        with pytest.raises(ValueError, match=f"norm 'support' cannot become '{refused}'"):
            model.norm = refused


# Layout


@pytest.mark.parametrize("channels", [1, 3])
def test_activations_are_channels_last_from_the_first_layer_on(channels):
    model, strides = Conv4(channels, 5), []
    for block in model.blocks:
        block.register_forward_hook(lambda _, args, __: strides.append(args[0].stride(1)))
    for n_support in (None, 2):
        model(torch.rand(4, channels, 28, 28), n_support)
    assert strides == [1] * 8


@pytest.mark.parametrize("channels", [1, 2])
def test_layouts_agree_to_second_order(channels, monkeypatch):
    model = trained_looking(Conv4(channels, 3, width=8, image_size=20))
    x, y = images(6, channels), torch.arange(6) % 3

    def meta_gradient():
        params = dict(model.named_parameters())
        inner = torch.autograd.grad(
            F.cross_entropy(model(x), y), params.values(), create_graph=True
        )
        adapted = {k: p - 0.1 * g for (k, p), g in zip(params.items(), inner, strict=True)}
        outer = F.cross_entropy(functional_call(model, adapted, (x, 3)), y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(outer, params.values())])

    channels_last = meta_gradient()
    monkeypatch.setattr(inputs, "prefer_channels_last", lambda x: x)
    torch.testing.assert_close(channels_last, meta_gradient(), rtol=1e-10, atol=1e-12)


def test_layout_conversion_changes_no_value_and_works_in_vmap():
    x = torch.rand(3, 4, 2, 5, 5)
    assert torch.equal(torch.vmap(inputs.prefer_channels_last)(x), x)


# Tracing


class NormAsLeaf(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, TaskBatchNorm2d) or super().is_leaf_module(module, name)


@pytest.mark.parametrize("n_support", [None, 3])
def test_traced_networks_compute_the_same(network, n_support):
    x, fixed = images(5), {"n_support": n_support}
    graphs = [
        torch.fx.symbolic_trace(network, concrete_args=fixed),
        torch.fx.GraphModule(network, NormAsLeaf().trace(network, concrete_args=fixed)),
    ]
    for graph in graphs:
        assert torch.equal(graph(x, n_support), network(x, n_support))
    norms = [n for n in graphs[1].graph.nodes if n.op == "call_module" and "norm" in n.target]
    task_norms = sum(isinstance(m, TaskBatchNorm2d) for m in network.modules())
    assert sum(isinstance(network.get_submodule(n.target), TaskBatchNorm2d) for n in norms) == (
        task_norms
    )


def test_cifar_resnet_can_be_traced():
    model, x = CifarResNet(20).eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


# Bad input


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Conv4(1, 5, image_size=15), "image_size must be at least 16, got 15"),
        (lambda: Conv4(0, 5), "in_channels must be at least 1, got 0"),
        (lambda: Conv4(1, 0), "ways must be at least 1, got 0"),
        (lambda: Conv4(1, 5, norm="layer"), "norm must be one of 'batch', .* got 'layer'"),
        (
            lambda: Conv4(1, 5, width=(8, 8, 8)),
            r"width must be one number or four, got \(8, 8, 8\)",
        ),
        (lambda: Conv4(1, 5, width=[8, 8, 0, 8]), "width must be at least 1, got 0"),
        (lambda: Conv4(1, 5, 6, "group", group_size=4), "group_size must divide the 6 .* got 4"),
        (lambda: ResNet12(5, (8,) * 4, inner=[(8, 8)] * 3), "inner must be four pairs of numbers"),
        (lambda: ResNet12(5, (8,) * 4, inner=[(8, 0)] * 4), "inner must be four pairs of numbers"),
        (lambda: ResNet12(5, widths=(8, 8)), r"widths must be four numbers .* got \(8, 8\)"),
        (lambda: ResNet12(5, norm=None), "norm must be one of .* got None"),
        (lambda: CifarResNet(26), "depth must be one of 20, 32, 44, 56, 110, got 26"),
        (lambda: CifarResNet(20, classes=0), "classes must be at least 1, got 0"),
    ],
)
def test_networks_that_cannot_be_built(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("model", "x", "n_support", "message"),
    [
        (Conv4(1, 5), torch.rand(2, 28, 28), None, r"\[B, 1, 28, 28\], got shape \[2, 28, 28\]"),
        (Conv4(1, 5), torch.rand(2, 3, 28, 28), None, r"got shape \[2, 3, 28, 28\]"),
        (Conv4(1, 5), torch.rand(2, 1, 32, 32), None, r"got shape \[2, 1, 32, 32\]"),
        (Conv4(1, 5), torch.rand(2, 1, 28, 28), 0, r"n_support must be None or in 1..2 .* got 0"),
        (Conv4(1, 5), torch.rand(2, 1, 28, 28), 3, r"n_support must be None or in 1..2 .* got 3"),
        (ResNet12(5, (8, 8, 8, 8)), torch.rand(2, 3, 8, 84), None, r"side 16 or more, got shape"),
        (CifarResNet(20), torch.rand(3, 32, 32), None, r"\[B, 3, H, W\], got shape \[3, 32, 32\]"),
    ],
)
def test_images_that_a_network_cannot_read(model, x, n_support, message):
    args = (x,) if n_support is None else (x, n_support)
    with pytest.raises(ValueError, match=message):
        model(*args)


@pytest.mark.parametrize(
    "model", [Conv4(3, 5, image_size=32), ResNet12(5, (8, 8, 8, 8)), CifarResNet(20)]
)
def test_stored_images_are_refused_with_the_way_out(model):
    with pytest.raises(TypeError, match=r"torch.uint8: pass uint8 images through tasks.as_float"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


# Batch normalization with channels last


def test_float32_statistics_are_accurate_where_channels_come_last():
    """``F.batch_norm`` is off by 1e-5 there, which flips maxima of the poolings that follow."""
    x = torch.randn(75, 8, 28, 28, generator=torch.Generator().manual_seed(0)) + 3
    x = x.contiguous(memory_format=torch.channels_last)
    exact = F.batch_norm(x.double(), None, None, training=True)
    assert (TaskBatchNorm2d(8)(x).double() - exact).abs().max() < 5e-6


def test_batch_norm_under_vmap_has_the_right_second_derivative():
    torch.manual_seed(0)
    tasks = torch.randn(3, 4, 2, 3, 3, dtype=torch.float64)
    weight, bias = torch.rand(2, 2, dtype=torch.float64)

    def outer(weight, x):
        def inner(w):
            return norms.task_batch_norm(x, w, bias, None, 1e-5).pow(3).sum().tanh()

        moved = weight - torch.func.grad(inner)(weight)
        return norms.task_batch_norm(2 * x, moved, bias, None, 1e-5).pow(4).sum()

    together = torch.func.grad(lambda w: torch.func.vmap(outer, (None, 0))(w, tasks).sum())(weight)
    one_by_one = sum(torch.func.grad(outer)(weight, x) for x in tasks)
    torch.testing.assert_close(together, one_by_one, rtol=1e-10, atol=1e-12)
