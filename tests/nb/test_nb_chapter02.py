"""The checkers of chapter 2's exercises take every right answer and no wrong one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad

from metalearn_tut import bilevel, deployment
from metalearn_tut.nb.chapters import chapter02


def not_attempted(*args):
    raise NotImplementedError


@pytest.mark.parametrize(
    "check",
    [chapter02.check_curved_gradient, chapter02.check_adapt_some],
)
def test_an_exercise_not_attempted_is_no_failure(check, capsys):
    check(not_attempted)
    assert capsys.readouterr().out.endswith("not attempted yet\n")


# Exercise 2.1: curvature


def closed_form(w, a, b, alpha, h, k):
    kept = (1 - alpha * h) ** k
    return (a + (w - a) * kept - b) * kept


def by_chain_rule(w, a, b, alpha, h, k):
    factor = 1.0
    for _ in range(k):
        w, factor = w - alpha * h * (w - a), factor * (1 - alpha * h)
    return np.float64(factor * (w - b))


def by_complex_step(w, a, b, alpha, h, k):
    w = w + 1e-30j
    for _ in range(k):
        w = w - alpha * h * (w - a)
    return ((w - b) ** 2 / 2).imag / 1e-30


@pytest.mark.parametrize("answer", [closed_form, by_chain_rule, by_complex_step])
def test_right_curved_gradients_are_taken(answer, capsys):
    chapter02.check_curved_gradient(answer)
    assert capsys.readouterr().out == "Exercise 2.1: correct\n"


WRONG_CURVED = {
    "first order": lambda w, a, b, alpha, h, k: a + (w - a) * (1 - alpha * h) ** k - b,
    "curvature forgotten": lambda w, a, b, alpha, h, k: closed_form(w, a, b, alpha, 1.0, k),
    "one factor too many": lambda w, a, b, alpha, h, k: (
        closed_form(w, a, b, alpha, h, k) * (1 - alpha * h)
    ),
    "sign of the start": lambda w, a, b, alpha, h, k: closed_form(a, w, b, alpha, h, k),
    "not a number": lambda *args, **kwargs: float("nan"),
}


@pytest.mark.parametrize("name", WRONG_CURVED)
def test_wrong_curved_gradients_are_not(name):
    with pytest.raises(AssertionError, match="gradient for w = "):
        chapter02.check_curved_gradient(WRONG_CURVED[name])


# Exercise 2.2: adapt a part


def stepped(model, names, x, y, inner_lr, inner_steps, params=None, create_graph=True, turn=1):
    params = dict(model.named_parameters()) if params is None else params
    for _ in range(inner_steps):
        loss = F.mse_loss(functional_call(model, params, (x,)), y)
        slopes = torch.autograd.grad(loss, [params[n] for n in names], create_graph=create_graph)
        for n, slope in zip(names, slopes, strict=True):
            params = {**params, n: params[n] - turn * inner_lr * slope}
    return params


def with_all_slopes(model, names, x, y, inner_lr, inner_steps):
    """Another way: all gradients, those of the other parameters multiplied by 0."""
    params = dict(model.named_parameters())
    for _ in range(inner_steps):
        slopes = grad(lambda p: F.mse_loss(functional_call(model, p, (x,)), y))(params)
        params = {n: p - inner_lr * (n in names) * slopes[n] for n, p in params.items()}
    return params


def with_module(model, names, x, y, inner_lr, inner_steps):
    settings = {"inner_lr": inner_lr, "inner_steps": inner_steps, "loss": F.mse_loss}
    return bilevel.adapt(model, x, y, groups=[names], **settings)


@pytest.mark.parametrize("answer", [stepped, with_all_slopes, with_module])
def test_right_ways_to_adapt_a_part_are_taken(answer, capsys):
    chapter02.check_adapt_some(answer)
    assert capsys.readouterr().out == "Exercise 2.2: correct\n"


def everything(model, names, *rest):
    return stepped(model, [n for n, _ in model.named_parameters()], *rest)


def detached(*args):
    return stepped(*args, create_graph=False)


def uphill(*args):
    return stepped(*args, turn=-1)


def from_a_copy(model, *rest):
    copied = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    return stepped(model, *rest, params=copied)


def only_the_named(model, names, *rest):
    return {n: p for n, p in stepped(model, names, *rest).items() if n in names}


def one_step_too_many(model, names, x, y, inner_lr, inner_steps):
    return stepped(model, names, x, y, inner_lr, inner_steps + 1)


def in_place(model, names, x, y, inner_lr, inner_steps):
    end = stepped(model, names, x, y, inner_lr, inner_steps)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(end[n])
    return dict(model.named_parameters())


def without_graph(*args):
    return {n: p.detach() for n, p in stepped(*args).items()}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (everything, "off by"),
        (detached, "meta-gradient"),
        (uphill, "off by"),
        (from_a_copy, "meta-gradient"),
        (only_the_named, "expected the parameters"),
        (one_step_too_many, "off by"),
        (in_place, "was changed"),
        (without_graph, "must be differentiable"),
    ],
)
def test_wrong_ways_to_adapt_a_part_are_not(answer, why):
    with pytest.raises(AssertionError, match=why):
        chapter02.check_adapt_some(answer)


# The drawings


def test_drawings_are_images_of_a_hand_and_nothing_else():
    images = {(n, hand): chapter02.draw(n, hand) for n in chapter02.DRAWINGS for hand in (0, 1)}
    for image in images.values():
        assert image.shape == (28, 28) and image.dtype == np.uint8
        assert image[0].max() == 0 and image.max() == 255  # light ink on dark paper
    assert len({image.tobytes() for image in images.values()}) == len(images)
    np.testing.assert_array_equal(images["key", 1], chapter02.draw("key", 1))


# The file that learns


def test_the_operators_of_a_file_are_counted(monkeypatch):
    onnx = pytest.importorskip("onnx")

    def export(learner, path, shape):
        nodes = [onnx.helper.make_node("Relu", [a], [b]) for a, b in ("xy", "yz")]
        ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in "xz"]
        graph = onnx.helper.make_graph(nodes, "two", ends[:1], ends[1:])
        onnx.save(onnx.helper.make_model(graph), path)

    monkeypatch.setattr(deployment, "export_learner", export)
    assert chapter02.operators(None, (1, 4)) == {"Relu": 2}
    monkeypatch.setattr(chapter02.importlib.util, "find_spec", lambda name: None)
    assert chapter02.operators(None, (1, 4)) is None
