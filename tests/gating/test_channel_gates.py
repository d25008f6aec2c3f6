"""Channel gates and gated networks: identities G1 to G5, G7, and the regularizer of G8."""

import math

import pytest
import torch
import torch.nn.functional as F
from channel_cases import NETWORKS, frozen, gated, images, plain, sliced
from torch.func import functional_call

from metalearn_tut import gating
from metalearn_tut.bilevel import parameters_of
from metalearn_tut.evaluation import cost
from metalearn_tut.gating import (
    ChannelGate,
    ChannelGatedConv4,
    ChannelGatedResNet12,
    channel_mask,
    open_share,
    skip,
    skip_each,
)
from metalearn_tut.models import Conv4, ResNet12
from metalearn_tut.models.random_masks import logistic_noise

SKIPPABLE = ("none", "support")


def gradients(network, x, **options):
    loss = network(x, **options).square().mean()
    return dict(
        zip(
            parameters_of(network),
            torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True),
            strict=True,
        )
    )


def skippable(kind, norm, x):
    """A network in front of whose norms filters can be skipped."""
    network = gated(kind, norm)
    return frozen(network, x) if norm == "support" else network


# The gate itself


def test_a_gate_written_out():
    gate, x = gated().gates[1], images(3).expand(-1, 4, -1, -1) * torch.arange(4.0).view(4, 1, 1)
    pooled = x.sum((2, 3)) / 256
    hidden = torch.einsum("bi,hi->bh", pooled, gate.inner.weight) + gate.inner.bias
    logits = torch.einsum("bh,oh->bo", hidden.clamp(min=0), gate.outer.weight) + gate.outer.bias
    torch.testing.assert_close(gate(x), logits)


def test_gates_start_open_at_88_percent():
    torch.manual_seed(0)
    logits = ChannelGate(8, 400)(torch.zeros(1, 8, 2, 2))
    assert math.isclose(logits.sigmoid().mean().item(), 1 / (1 + math.exp(-2)), abs_tol=0.02)


@pytest.mark.parametrize("tau", [0.1, 2 / 3, 5.0])
@pytest.mark.parametrize("u", [-2.0, 0.0, 1.0])
def test_G4_a_training_gate_opens_with_probability_sigmoid_u_whatever_tau(u, tau):
    logits = torch.full((100_000,), u, dtype=torch.float64)
    noise = logistic_noise(logits, torch.Generator().manual_seed(0))
    p = 1 / (1 + math.exp(-u))
    share = channel_mask(logits, noise, tau=tau).mean().item()
    assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / 100_000)  # one Gumbel: 1 - exp(-e^u)


def test_thresholds_a_logit_of_0_is_open_in_training_and_closed_in_use():
    zero = torch.zeros(2, 3)
    assert channel_mask(zero, torch.zeros(2, 3)).eq(1).all() and channel_mask(zero).eq(0).all()


def test_G5_masks_are_exactly_0_or_1_in_float32():
    logits = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    for noise in (None, logistic_noise(logits, torch.Generator().manual_seed(1))):
        mask = channel_mask(logits, noise)
        assert set(mask.tolist()) == {0.0, 1.0}
        soft = channel_mask(logits, noise, soft=True)
        wrong = mask.detach() + soft - soft  # without the parentheses
        assert (wrong[mask == 1] != 1).float().mean() > 0.1


def test_G5_first_and_second_derivatives_are_those_of_the_relaxation():
    tau, u = 0.7, torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    noise = torch.linspace(1, -2, 7, dtype=torch.float64)
    (first,) = torch.autograd.grad(channel_mask(u, noise, tau=tau).sum(), u, create_graph=True)
    s = 1 / (1 + torch.exp(-(u.detach() + noise) / tau))
    torch.testing.assert_close(first.detach(), s * (1 - s) / tau)
    (second,) = torch.autograd.grad(first.sum(), u)
    torch.testing.assert_close(second, s * (1 - s) * (1 - 2 * s) / tau**2)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_networks_own_tau_is_that_of_all_its_gates(kind):
    x = images(3)
    for tau in (0.25, 2.0):
        network = type(gated(kind))(plain(kind), open_bias=0.0, tau=tau)
        first = network.gates[0](x)
        for given in (None, network.noise(3, torch.Generator().manual_seed(0))):
            soft = network.masks(x, gate_mode="soft", noise=given)
            noisy = first if given is None else first + given[0]
            torch.testing.assert_close(soft[0], (noisy / tau).sigmoid())
        features = network.embed(x, gate_mode="soft")
        torch.testing.assert_close(network.head(features), network(x, gate_mode="soft"))


def test_noise_that_is_infinite_gives_no_nan():
    u = torch.zeros(2, requires_grad=True)
    mask = channel_mask(u, torch.tensor([-math.inf, math.inf]))
    (first,) = torch.autograd.grad(mask.sum(), u, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), u)
    assert mask.tolist() == [0, 1] and first.eq(0).all() and second.eq(0).all()


# Gated networks


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_G1_open_gates_change_no_bit_of_logits_and_no_gradient(kind, norm, training):
    network, x = gated(kind, norm).train(training), images()
    bare = plain(kind, norm).train(training)
    for gate in network.gates:  # learned, and as good as always open
        torch.nn.init.constant_(gate.outer.bias, 500.0)
    for options in ({"gate_mode": "open"}, {}, {"noise": network.noise(5)}):
        n_support = 3 if norm == "support" else None
        assert torch.equal(network(x, n_support, **options), bare(x, n_support))
        found = gradients(network, x, **options)
        for name, gradient in gradients(bare, x).items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_G1_also_in_float32_where_rounding_shows(kind):
    network, bare = gated(kind, "batch").float(), plain(kind, "batch").float()
    x = images(40).float()
    for gate in network.gates:  # logits for which sigmoid is not exactly 1
        torch.nn.init.constant_(gate.outer.bias, 6.0)
        torch.nn.init.zeros_(gate.outer.weight)
    assert torch.equal(network(x), bare(x))


@pytest.mark.parametrize("kind", NETWORKS)
def test_ungated_is_the_network_that_was_wrapped(kind):
    bare = plain(kind)
    back = gated(kind).ungated()
    assert type(back) is type(bare) and torch.equal(back(images()), bare(images()))
    assert back.state_dict().keys() == bare.state_dict().keys()


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_network_that_is_wrapped_is_left_alone(kind):
    network = plain(kind)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with torch.no_grad():
        for p in type(gated(kind))(network).parameters():
            p.zero_()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_ungated_has_all_modes_and_options_and_draws_no_numbers(kind):
    network = gated(kind, "batch").eval()
    network.blocks[1].train()
    network.blocks[0].requires_grad_(False)
    network.norm = "support"
    state, modes = torch.get_rng_state(), {n: m.training for n, m in network.named_modules()}
    back = network.ungated()
    assert torch.equal(torch.get_rng_state(), state) and back.norm == "support"
    assert all(m.training == modes[n] for n, m in back.named_modules())
    assert not any(p.requires_grad for p in back.blocks[0].parameters())
    assert all(getattr(back, name) == getattr(plain(kind), name) for name in network.options)
    back.head.weight.data.zero_()
    assert network.head.weight.any() and back(images(), 3).device == images().device


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_G2_a_closed_filter_gets_no_gradient_and_is_as_good_as_cut_out(norm):
    network, x = gated("conv4", norm), images()
    mask = [torch.ones(4, dtype=torch.float64) for _ in range(4)]
    mask[1][2] = 0.0
    found = gradients(network, x, gate_mode=mask)
    assert not found["blocks.1.conv.weight"][2].any()
    assert not found["blocks.2.conv.weight"][:, 2].any()
    assert found["blocks.1.conv.weight"][1].any() and found["blocks.2.conv.weight"][:, 1].any()
    if norm == "batch":
        assert not found["blocks.1.norm.weight"][2].any()
        assert not found["blocks.1.norm.bias"][2].any()
    cut = sliced(network, x, [m.bool() for m in mask])
    torch.testing.assert_close(network(x, gate_mode=mask), cut(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "support", "none"])
def test_G2_also_where_the_gate_itself_closes_it(norm):
    network, x = gated("conv4", norm), images()
    with torch.no_grad():
        network.gates[1].outer.weight[2] = 0.0
        network.gates[1].outer.bias[2] = -1e3
    found = gradients(network, x)
    assert not found["blocks.1.conv.weight"][2].any()
    assert not found["blocks.2.conv.weight"][:, 2].any()


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_G3_all_closed_a_plain_network_is_constant_a_residual_one_is_not(norm):
    x = images()
    conv4, resnet = gated("conv4", norm), gated("resnet12", norm)
    logits = conv4(x, gate_mode="closed")
    assert torch.equal(logits, conv4.head.bias.expand(5, -1))
    logits = resnet(x, gate_mode="closed")
    assert torch.isfinite(logits).all() and logits.std(0).min() > 1e-3
    with torch.no_grad():  # the shortcuts alone
        y = x
        for block in resnet.blocks:
            y = F.leaky_relu(F.max_pool2d(block.shortcut_norm(block.shortcut(y)), 2), 0.1)
        torch.testing.assert_close(logits, resnet.head(y.mean((2, 3))))


def test_G3_one_closed_layer_of_a_plain_network_is_enough():
    mask = [torch.ones(4), torch.zeros(4), torch.ones(4), torch.ones(4)]
    logits = gated("conv4", "batch")(images(), gate_mode=mask)
    assert torch.isfinite(logits).all() and (logits == logits[0]).all()


@pytest.mark.parametrize("norm", SKIPPABLE)
@pytest.mark.parametrize("kind", NETWORKS)
def test_G4_in_use_a_row_does_not_depend_on_its_batch_nor_on_chance(kind, norm):
    x = images()
    network = skippable(kind, norm, x)
    logits, masks = network.run(x)
    assert any(0 < mask.mean() < 1 and len(mask.unique(dim=0)) > 1 for mask in masks)
    assert torch.equal(network(x), logits)
    torch.testing.assert_close(network(x[2:3]), logits[2:3], rtol=1e-10, atol=1e-12)
    for mask, alone in zip(masks, network.masks(x[2:3]), strict=True):
        assert torch.equal(mask[2:3], alone)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_closed_filter_still_learns_what_opening_it_would_bring(kind):
    network, x = gated(kind), images()
    ones = [torch.ones(size, dtype=torch.float64) for size in network.sizes]

    def loss(mask):
        return network(x, gate_mode=[ones[0], mask, *ones[2:]]).square().sum()

    step = torch.zeros_like(ones[1])
    step[1] = 1e-6
    closed = ones[1] - 1e6 * step
    (found,) = torch.autograd.grad(loss(mask := closed.clone().requires_grad_()), mask)
    difference = (loss(closed + step) - loss(closed - step)).item() / 2e-6
    assert math.isclose(found[1].item(), difference, rel_tol=1e-5)
    assert abs(difference) > 1e-3  # in front of a ReLU the gradient would be 0


def test_gate_gradients_agree_with_finite_differences_of_the_relaxation():
    network, x = gated("conv4", "batch"), images()
    noise = network.noise(5, torch.Generator().manual_seed(0))
    gates = {n: p for n, p in parameters_of(network).items() if n.startswith("gates.")}

    def loss(params):
        gating = {"gate_mode": "soft", "noise": noise}
        return functional_call(network, params, (x,), gating).square().sum()

    generator = torch.Generator().manual_seed(3)
    along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in gates.items()}
    up, down = (
        loss({n: p + s * 1e-6 * along[n] for n, p in gates.items()}).item() for s in (1, -1)
    )
    found = torch.autograd.grad(loss(gates), list(gates.values()))
    slope = sum((g * along[n]).sum().item() for g, n in zip(found, gates, strict=True))
    assert math.isclose(slope, (up - down) / 2e-6, rel_tol=1e-6)


# Skipping


@pytest.mark.parametrize("norm", SKIPPABLE)
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("skipping", [skip, skip_each])
def test_skipping_gives_the_same_logits(skipping, kind, norm):
    x = images()
    network = skippable(kind, norm, x)
    torch.testing.assert_close(skipping(network, x), network(x), rtol=1e-9, atol=1e-12)
    for mode in ("open", "closed"):
        skipped = skipping(network, x, gate_mode=mode)
        torch.testing.assert_close(skipped, network(x, gate_mode=mode), rtol=1e-9, atol=1e-12)


def test_skipping_with_given_masks_and_with_groups_of_one_channel():
    network = gated("conv4", "group", group_size=1)
    torch.testing.assert_close(skip(network, images()), network(images()))
    mask = [torch.tensor(m, dtype=torch.float64) for m in ([1, 0, 1, 0], [0, 1, 1, 1]) * 2]
    torch.testing.assert_close(
        skip(network, images(), gate_mode=mask), network(images(), gate_mode=mask)
    )
    assert skip_each(network, images()[:0]).shape == (0, 3)


def test_skipping_takes_a_norms_own_eps():
    network, x = frozen(gated("conv4", "support"), images()), images()
    before = network(x)
    for norm in (m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.eps = 0.5
    assert not torch.allclose(network(x), before)
    torch.testing.assert_close(skip(network, x), network(x))


class Counted(torch.utils._python_dispatch.TorchDispatchMode):
    """Multiply-adds of the convolutions that are really called."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.total += out.numel() * args[1][0].numel()
        return out


@pytest.mark.parametrize("kind", NETWORKS)
def test_closed_filters_are_really_left_out(kind):
    network, x = gated(kind), images()
    active = gating.active_macs(network, network.masks(x), (1, 16, 16))
    linear = sum(p.numel() for n, p in network.gates.named_parameters() if n.endswith("weight"))
    assert len(active.unique()) > 1
    for row, expected in zip(x.split(1), active, strict=True):
        masks = network.masks(row)
        assert all(mask.any() for mask in masks)
        head = int(masks[-1].sum()) * 3 if kind == "conv4" else network.head.weight.numel()
        with Counted() as counted:
            skip(network, row)
        assert counted.total + linear + head == expected


def test_G7_active_multiply_adds_by_the_formula_and_of_the_cut_network():
    network, x = gated(), images()
    masks = network.masks(x)
    overhead = 16 * (1 + 4) + 3 * 16 * (4 + 4)
    for row, total in enumerate(gating.active_macs(network, masks, (1, 16, 16)).tolist()):
        opened, by_hand = [1, *(int(mask[row].sum()) for mask in masks)], overhead
        for layer, side in enumerate((16, 8, 4, 2)):
            by_hand += 9 * opened[layer] * opened[layer + 1] * side * side
        assert total == by_hand + opened[-1] * 3
        cut = sliced(network, x, [mask[row].bool() for mask in masks])
        assert total == cost.macs(cut, (1, 16, 16)) + overhead


@pytest.mark.parametrize("kind", NETWORKS)
def test_G7_all_open_is_dense_and_overhead_and_opening_never_saves(kind):
    network, x = gated(kind), images(2)
    dense = cost.macs(network.ungated(), (1, 16, 16))
    inputs = [gate.inner.in_features for gate in network.gates]
    overhead = sum(16 * (c + d) for c, d in zip(inputs, network.sizes, strict=True))
    opened = network.masks(x, gate_mode="open")
    assert gating.active_macs(network, opened, (1, 16, 16)).tolist() == [dense + overhead] * 2
    before = gating.active_macs(network, masks := network.masks(x), (1, 16, 16))
    for i, mask in enumerate(masks):
        more = list(masks)
        more[i] = torch.ones_like(mask)
        assert (gating.active_macs(network, more, (1, 16, 16)) >= before).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_G8_the_open_share_lies_between_0_and_1(kind):
    network, x = gated(kind), images()
    masks = network.masks(x)
    by_hand = sum(mask.sum().item() / mask.numel() for mask in masks) / len(masks)
    assert math.isclose(open_share(masks).item(), by_hand) and 0 < by_hand < 1
    assert open_share(network.masks(x, gate_mode="open")) == 1
    assert open_share(network.masks(x, gate_mode="closed")) == 0


# What is refused


def test_clear_errors():
    network, x = gated(), images()
    for mode in ("ajar", [torch.ones(4)] * 3, [torch.ones(5)] * 4):
        with pytest.raises(ValueError, match="gate_mode must be"):
            network(x, gate_mode=mode)
    with pytest.raises(ValueError, match=r"noise must be one tensor for each gate, of \[4, 4"):
        network(x, noise=[torch.zeros(5, 4)])
    with pytest.raises(ValueError, match="hidden must be an integer >= 1, got 0"):
        ChannelGatedConv4(Conv4(1, 5, width=4), hidden=0)
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        ChannelGatedConv4(Conv4(1, 5, width=4), tau=0.0)
    with pytest.raises(TypeError, match="network must be a Conv4, got ResNet12"):
        ChannelGatedConv4(ResNet12(5, (4, 4, 4, 4)))
    with pytest.raises(TypeError, match="network must be a ResNet12, got ChannelGatedResNet12"):
        ChannelGatedResNet12(gated("resnet12"))
    with pytest.raises(ValueError, match="gate_mode='soft' leaves no filter out"):
        skip(network, x, gate_mode="soft")


@pytest.mark.parametrize("norm", ["batch", "support", "group"])
def test_norms_in_front_of_which_no_filter_can_be_skipped_are_named(norm):
    network = gated("conv4", norm, **({"group_size": 2} if norm == "group" else {}))
    with pytest.raises(ValueError, match=r"cannot be skipped in front of (TaskBatch|Group)Norm"):
        skip(network, images())
