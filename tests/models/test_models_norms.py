"""Batch normalization's derivatives in closed form are those of its definition."""

import pytest
import torch

from metalearn_tut.models import Conv4, ResNet12
from metalearn_tut.models.norms import task_batch_norm

EPS = 1e-3


def defined(x, weight, bias):
    """The definition, differentiated operation by operation."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    return (x - mean) / (variance + EPS).sqrt() * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)


def ours(x, weight, bias):
    return task_batch_norm(x, weight, bias, None, EPS)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def inputs(request):
    seed = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 4, 2, dtype=torch.float64, generator=seed) + 1
    weight, bias = torch.randn(2, 2, dtype=torch.float64, generator=seed)
    x = x.contiguous(memory_format=request.param)
    return [t.requires_grad_() for t in (x, weight, bias)]


def test_second_derivatives_agree_with_finite_differences(inputs):
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives_of_every_order_are_those_of_the_definition(inputs, order):
    def derivative(norm):
        value = norm(*inputs).sin().sum()
        for _ in range(order - 1):
            found = torch.autograd.grad(value, inputs, create_graph=True)
            value = sum(torch.sin(1 + g).sum() for g in found)
        return torch.autograd.grad(value, inputs)

    for found, wanted in zip(derivative(ours), derivative(defined), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_an_inner_step_keeps_fewer_tensors_of_the_images_size_than_the_definition(inputs):
    def kept(norm):
        images = set()

        def pack(t):
            images.update([t.data_ptr()] if t.shape == inputs[0].shape else [])
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            found = torch.autograd.grad(norm(*inputs).sin().sum(), inputs, create_graph=True)
        assert len(found) == 3
        return len(images)

    assert kept(ours) < kept(defined) / 2


@pytest.mark.parametrize("build", [Conv4, ResNet12])
def test_groups_behind_a_frozen_convolution_have_their_derivatives(build):
    """PyTorch's own group norm ends the process here, if channels are last on a CPU."""
    torch.manual_seed(0)
    sizes = {"image_size": 16, "width": 8} if build is Conv4 else {"widths": (8, 8, 8, 8)}
    network = build(in_channels=3, ways=2, norm="group", **sizes).double()
    torch.nn.init.normal_(network.head.weight)
    x, found = torch.rand(4, 3, 16, 16, dtype=torch.float64), []
    norms = [p for n, p in network.named_parameters() if "norm" in n]
    for frozen in (False, True):
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.requires_grad_(not frozen)
        first = torch.autograd.grad(network(x).square().mean(), norms, create_graph=True)
        total = sum(g.square().sum() for g in first)
        again = torch.autograd.grad(network(x).square().mean(), norms)  # by another routine
        found.append([*first, *torch.autograd.grad(total, norms), *again])
    for whole, part in zip(*found, strict=True):
        torch.testing.assert_close(whole, part, rtol=1e-10, atol=1e-12)
