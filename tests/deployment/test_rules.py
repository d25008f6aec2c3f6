"""The rules for operators that ONNX lacks, against PyTorch's own derivatives in float64."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from metalearn_tut.deployment.rules import RULES, NoRule, convolution_backward, max_pool2d_backward

CONVOLUTIONS = [
    (size, kernel, stride, padding, dilation)
    for size, kernel, stride, padding, dilation in product(
        [(9, 8), (7, 7)], [(1, 1), (3, 3), (2, 3)], [1, 2, 3], [0, 1], [1, 2]
    )
    if padding < min(kernel)
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "kernel", "stride", "padding", "dilation"), CONVOLUTIONS)
def test_the_gradients_of_a_convolution(size, kernel, stride, padding, dilation, bias):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        x = torch.randn(shape, dtype=torch.float64, generator=generator)
        return x.requires_grad_()

    x, weight = random(3, 2, *size), random(4, 2, *kernel)
    given = [x, weight, random(4)] if bias else [x, weight]
    out = F.conv2d(*given, stride=stride, padding=padding, dilation=dilation)
    grad = random(*out.shape).detach()
    expected = torch.autograd.grad(out, given, grad)
    pairs = [stride] * 2, [padding] * 2, [dilation] * 2
    wanted = [True, True, bias]
    with torch.no_grad():
        found = convolution_backward(
            grad, x, weight, [4] if bias else None, *pairs, False, [0, 0], 1, wanted
        )
    for ours, theirs in zip(found, expected, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gradients_that_nobody_wants_are_not_computed():
    x, weight, grad = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), torch.ones(1, 1, 2, 2)
    rest = None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1
    assert convolution_backward(grad, x, weight, *rest, [False] * 3) == (None, None, None)


@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (2, 3)])
@pytest.mark.parametrize("size", [(6, 6), (7, 8), (11, 9)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_gradient_of_max_pooling_goes_where_pytorch_sends_it(kernel, size, ties):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator)
    x = (x.round() if ties else x).requires_grad_()
    out, indices = F.max_pool2d(x, kernel, return_indices=True)
    grad = torch.randn(out.shape, dtype=torch.float64, generator=generator)
    (expected,) = torch.autograd.grad(out, x, grad)
    with torch.no_grad():
        found = max_pool2d_backward(grad, x, kernel, [], [0, 0], [1, 1], False, indices)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: F.max_pool2d(x, 3, stride=2), "whose windows do not lie side by side"),
        (lambda x: F.max_pool2d(x, 3, padding=1), "whose windows do not lie side by side"),
        (lambda x: F.max_pool2d(x, 4, ceil_mode=True), "whose windows do not lie side by side"),
        (lambda x: F.conv2d(x, torch.ones(2, 1, 3, 3), groups=2), "transposed or grouped"),
        (lambda x: F.conv_transpose2d(x, torch.ones(2, 1, 3, 3)), "transposed or grouped"),
    ],
)
def test_what_has_no_rule_is_not_computed_wrongly(function, said):
    from metalearn_tut.deployment.traced import traced

    def gradient(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(function(x).sum(), x)[0]

    with pytest.raises(NoRule, match=said):
        traced(gradient, [torch.rand(2, 2, 10, 10)])


def test_a_rule_is_of_an_operator_that_is_not_taken_apart_by_pytorch_itself():
    from torch._decomp import core_aten_decompositions

    assert not set(RULES) & set(core_aten_decompositions())
