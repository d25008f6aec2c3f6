"""Appendix 1's own code: on other inputs than the page shows, and with errors planted."""

import re
import warnings
from functools import partial
from types import SimpleNamespace

import book_tools
import higher
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parametrizations

from metalearn_tut import models, tasks

PAGE = "A1_wrong_gradients"
INNER = {"inner_lr": 0.07, "inner_steps": 2}
NORM = partial(nn.BatchNorm2d, track_running_stats=False)


@pytest.fixture(scope="module")
def page():
    return SimpleNamespace(**book_tools.run(PAGE))


def close(mine, right, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(mine, right, rtol=rtol, atol=atol)


def noise(count=3, seed=4):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((5, 1, 4, 4), (5, 1), (7, 1, 4, 4), (7, 1))
    parts = (torch.randn(count, *s, generator=generator, dtype=torch.float64) for s in sizes)
    return tasks.TaskBatch(*parts)


def off(found, truth):
    return ((found - truth).norm() / truth.norm()).item()


def skip_if_mended(found, truth):
    if off(found, truth) < 1e-6:
        pytest.skip(f"torch {torch.__version__} computes this gradient right: upstream mended it")


# The judge and the ways against the module


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_judge_and_autograd_are_the_module(page, steps):
    model, batch = page.network(width=3), page.wave_batch(5, 3)
    inner = {"inner_lr": 0.1, "inner_steps": steps}
    right = page.by_module(model, batch, **inner)
    close(page.by_differences(model, batch, **inner), right, rtol=1e-6, atol=1e-8)
    close(page.by_autograd(model, batch, **inner), right)
    close(page.by_higher(model, batch, **inner), right)


def test_the_distance_is_relative_error_and_angle(page):
    truth = torch.tensor([2.0, 0.0], dtype=torch.float64)
    for found, error, angle in (
        ([2.0, 0.0], 0, 0),
        ([3.0, 0.0], 0.5, 0),
        ([0.0, 2.0], 2**0.5, 90),
        ([2.0, 2.0], 1, 45),
        ([-2.0, 0.0], 2, 180),
        ([2.0, 2e-9], 1e-9, 1e-9 * 180 / torch.pi),  # an arc cosine would say 0
    ):
        found = torch.tensor(found, dtype=torch.float64)
        assert page.distance(found, truth) == (pytest.approx(error), pytest.approx(angle))


def test_a_verdict_is_wrong_mended_or_neither(page, capsys):
    truth = torch.tensor([2.0, 0.0], dtype=torch.float64)
    assert page.verdict("a", 1.5 * truth, truth)[0] == pytest.approx(0.5)
    assert capsys.readouterr().out == "a: off by 50.00%, 0.00 degrees\n"
    page.verdict("b", truth * (1 + 1e-8), truth)
    assert "b: mended, right with torch" in capsys.readouterr().out
    with pytest.raises(AssertionError):
        page.verdict("c", truth * (1 + 1e-5), truth)


def test_weight_norm_in_python_is_torchs_function_and_first_derivative(page):
    direction = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    length = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    read = torch.randn(3, 4, dtype=torch.float64)
    mine, right = page.WeightNorm()(length, direction), torch._weight_norm(direction, length)
    close(mine, right)
    slopes = (torch.autograd.grad((read * w).sum(), (length, direction)) for w in (mine, right))
    for a, b in zip(*slopes, strict=True):
        close(a, b)


@pytest.mark.parametrize("norm", [NORM, partial(nn.InstanceNorm2d, affine=True)])
@pytest.mark.parametrize("lr", [0.1, 0.6])
def test_gradients_from_inside_vmap_are_the_module(page, norm, lr):
    batch, inner = noise(), {"inner_lr": lr, "inner_steps": 3}
    right = page.by_module(page.conv(norm), batch, **inner)
    close(page.from_inside(page.conv(norm), batch, **inner), right)


@pytest.mark.parametrize(
    "norm", [models.TaskBatchNorm2d, partial(nn.GroupNorm, 3), partial(NORM, affine=False)]
)
def test_some_norms_are_right_from_outside_vmap_too(page, norm):
    right = page.by_module(page.conv(norm), noise(), **INNER)
    close(page.from_outside(page.conv(norm), noise(), **INNER), right)


def test_asking_each_time_is_right_for_a_module_with_one_name(page):
    batch = page.wave_batch(3, 3)
    right = page.by_module(page.CalledTwice(), batch, **INNER)
    close(page.ask_each_time(page.CalledTwice(), batch, **INNER), right)
    x = torch.randn(4, 1, dtype=torch.float64)
    close(page.CalledTwice()(x), page.registered_twice()(x))


def test_two_slopes_of_a_quadratic(page):
    model = nn.Linear(4, 3).double()
    before = {n: p.clone() for n, p in model.named_parameters()}

    def loss():
        return sum((p**2).sum() for p in model.parameters()) / 2

    gradient = page.flat(p.detach().clone() for p in model.parameters())
    slope, measured = page.two_slopes(loss, model, gradient)
    assert measured == pytest.approx(slope, rel=1e-6)
    gradient[-1] *= 1.01  # one percent, in one weight
    slope, measured = page.two_slopes(loss, model, gradient)
    assert measured != pytest.approx(slope, rel=1e-5)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_masks_are_the_pruned_weights(page):
    layer = nn.Linear(5, 7).double()  # an odd number of weights: the middle one goes
    mask = page.LargerHalf(layer.weight).mask
    assert mask.sum() == 17 and layer.weight[mask].abs().min() > layer.weight[~mask].abs().max()
    x = torch.randn(4, 1, dtype=torch.float64)
    close(page.network(page.masked)(x), page.network(page.pruned)(x))


@pytest.mark.parametrize("way", ["inner_gradient", "forgotten", "detached", "through_data"])
def test_ways_to_take_the_inner_gradient_agree_in_its_value(page, way):
    params = {n: torch.randn(3, dtype=torch.float64, requires_grad=True) for n in "ab"}
    found = getattr(page, way)(lambda p: (p["a"] ** 3 * p["b"]).sum(), params)
    close(found["a"], 3 * params["a"] ** 2 * params["b"], rtol=1e-12)
    close(found["b"], params["a"] ** 3, rtol=1e-12)
    assert all(g.requires_grad == (way == "inner_gradient") for g in found.values())


@pytest.mark.parametrize(("size", "shrunk"), [(1.0, 0.5), (0.3, 0.3)])
def test_clipping_shortens_long_gradients_only(page, size, shrunk):
    unit = torch.tensor([0.6, 0.8], dtype=torch.float64)
    params = {"a": unit.clone().requires_grad_()}
    for way in (page.clipped, page.clipped_by_item):
        found = way(lambda p: size * (p["a"] ** 2).sum() / 2, params)["a"]
        close(found, shrunk * unit)


def test_the_tasks_of_the_images_are_two_of_noise(page):
    batch = page.noise_batch()
    assert batch.support_x.shape == batch.query_x.shape == (2, 6, 1, 4, 4)
    assert batch.support_y.shape == (2, 6, 1) and batch.support_x.dtype == torch.float64
    for part, same in zip(page.parts_of(batch), page.parts_of(page.noise_batch()), strict=True):
        close(part, same)
    assert not torch.equal(batch.support_x[0], batch.support_x[1])
    x = torch.cat([part.flatten() for part in (batch.support_x, batch.query_x)])
    assert abs(x.mean()) < 0.2 and abs(x.std() - 1) < 0.2


def test_the_layer_norm_stands_behind_the_layer(page):
    model, x = page.network(page.layer_norm), torch.randn(5, 1, dtype=torch.float64)
    out = model[2](torch.tanh(model[0](x)))
    close(out.mean(1), torch.zeros(5, dtype=torch.float64), atol=1e-6)
    close(out.std(1, correction=0), torch.ones(5, dtype=torch.float64), rtol=1e-2)


def test_the_slope_in_the_weight_is_the_normalized_entry(page):
    x = torch.tensor([1.0, 5.0], dtype=torch.float64)
    assert page.slope_in_weight(x, torch.ones(2).double()) == pytest.approx(1)
    assert page.slope_in_weight(x.flip(0), torch.ones(2).double()) == pytest.approx(-1)
    pairs = torch.stack([x, x, x.flip(0)])
    assert page.all_slopes(pairs, torch.ones(3, 2).double()) == pytest.approx(1 + 1 - 1)


def test_blocks_halve_an_image(page):
    space = book_tools.run(PAGE, batch_norm=NORM)
    layers = nn.Sequential(*space["block"](1), *space["block"](8))
    assert layers(torch.randn(2, 1, 28, 28)).shape == (2, 8, 7, 7)


def test_the_deep_loss_follows_the_network_it_is_given(page):
    model, batch = page.network(), page.wave_batch(0, 2)
    loss = book_tools.run(PAGE, deep=model, characters=batch, large=INNER)["deep_loss"]
    gradient = page.by_module(model, batch, **INNER)
    slope, measured = page.two_slopes(loss, model, gradient, eps=1e-6)
    assert measured == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_loop_of_the_exercise_is_right_for_one_step_only(page, steps):
    def support(p):
        return (p["w"] ** 4).sum()

    def query(start):
        return (page.with_momentum(support, {"w": start}, 0.01, steps)["w"] ** 2).sum()

    start = torch.tensor([0.7, -1.2], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(query(start), start)
    shifts = 1e-6 * torch.eye(2, dtype=torch.float64)
    measured = torch.stack([query(start + s) - query(start - s) for s in shifts]) / 2e-6
    assert (off(found, measured.detach()) < 1e-8) == (steps == 1)


# What the text says


@pytest.mark.parametrize("seed", [2, 3])
def test_the_trap_is_wrong_on_other_tasks_too(page, seed):
    """All five, without the judge: the module is."""
    batch, images = page.wave_batch(seed, 2), noise(2, seed)
    once = page.by_module(page.CalledTwice(), batch, **INNER)
    plain = page.by_module(page.network(), batch, **INNER)
    pairs = {
        1: (page.by_higher(page.network(page.pruned), batch, **INNER),
            page.by_module(page.network(page.pruned), batch, **INNER)),
        2: (page.from_outside(page.conv(NORM), images, **INNER),
            page.by_module(page.conv(NORM), images, **INNER)),
        3: (page.by_autograd(page.network(parametrizations.weight_norm), batch, **INNER),
            page.by_module(page.network(page.in_python), batch, **INNER)),
        4: (page.ask_each_time(page.registered_twice(), batch, **INNER), once),
        5: (page.by_autograd(page.network(), batch, slopes_of=page.detached, **INNER), plain),
    }  # fmt: skip
    errors = {number: off(*pair) for number, pair in pairs.items()}
    assert all(error < 1e-9 or error > 1e-4 for error in errors.values()), errors
    assert errors[1] > 1e-2 and errors[5] > 1e-2  # no torch can mend these


def stale_gradients(page, **backward):
    """Trap 1 with a backward pass for each task, as chapter 2 has it."""
    model, batch = page.network(page.pruned), page.wave_batch(0, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.07)
    for task in batch:
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (fast, step):
            for _ in range(2):
                step.step(F.mse_loss(fast(task.support_x), task.support_y))
            (F.mse_loss(fast(task.query_x), task.query_y) / 2).backward(**backward)
    return page.flat(p.grad for p in model.parameters())


def test_one_backward_per_task_stops_and_retain_graph_removes_the_message_only(page):
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        stale_gradients(page)
    model, batch = page.network(page.pruned), page.wave_batch(0, 2)
    close(stale_gradients(page, retain_graph=True), page.by_higher(model, batch, **INNER))


def test_outer_steps_do_not_reach_the_pruned_layer_until_the_model_is_called(page):
    model, x = page.network(page.pruned), torch.ones(1, 1, dtype=torch.float64)
    before = higher.monkeypatch(model)(x).detach()
    with torch.no_grad():
        model[2].weight_orig.mul_(2)
    close(higher.monkeypatch(model)(x).detach(), before)
    called = model(x).detach()
    assert not torch.allclose(called, before)
    close(higher.monkeypatch(model)(x).detach(), called)


def test_vmap_advises_what_leads_into_the_trap():
    norm, x = nn.BatchNorm2d(3), torch.randn(2, 4, 3, 2, 2)
    with pytest.raises(RuntimeError, match="set `track_running_stats` to be False"):
        vmap(lambda x: functional_call(norm, dict(norm.named_parameters()), x))(x)


def test_the_old_weight_norm_is_wrong_in_the_same_way(page):
    def old(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.utils.weight_norm(layer)

    batch = page.wave_batch(2, 2)
    found = page.by_autograd(page.network(old), batch, **INNER)
    close(found, page.by_autograd(page.network(parametrizations.weight_norm), batch, **INNER))


class ConstantStatistics(torch.autograd.Function):
    """Batch norm; where the weight's gradient is differentiated, its statistics are constant."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        ctx.eps = eps
        ctx.save_for_backward(x, weight)
        return F.batch_norm(x, None, None, weight, bias, True, eps=eps)

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        pixels = (0, 2, 3)

        def normalized(constant):
            mean, var = x.mean(pixels, keepdim=True), x.var(pixels, correction=0, keepdim=True)
            scale = torch.rsqrt(var + ctx.eps)
            return (x - mean.detach()) * scale.detach() if constant else (x - mean) * scale, scale

        z, scale = normalized(constant=False)
        rest = g - g.mean(pixels, keepdim=True) - z * (g * z).mean(pixels, keepdim=True)
        z_constant, _ = normalized(constant=True)
        by_x = weight.view(-1, 1, 1) * scale * rest
        return by_x, (g * z_constant).sum(pixels), g.sum(pixels), None


class ConstantNorm2d(models.TaskBatchNorm2d):
    def forward(self, x):
        return ConstantStatistics.apply(x, self.weight, self.bias, self.eps)


def test_vmap_holds_the_statistics_constant(page):
    """The gradient that vmap gives is, to rounding, that of the mistake named in the text."""
    found = page.from_outside(page.conv(NORM), noise(2), **INNER)
    skip_if_mended(found, page.by_module(page.conv(NORM), noise(2), **INNER))
    close(found, page.by_module(page.conv(ConstantNorm2d), noise(2), **INNER))


def test_gradgradcheck_finds_trap_3_and_no_other(page):
    direction = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    length = torch.rand(3, 1, dtype=torch.float64, requires_grad=True)
    check = partial(torch.autograd.gradgradcheck, raise_exception=False)
    assert check(page.WeightNorm(), (length, direction))
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert check(NORM(2).double(), (x,))
    if check(torch._weight_norm, (direction, length)):
        pytest.skip(f"torch {torch.__version__} has mended weight_norm")


def test_the_losses_are_right_where_the_text_says_so(page):
    batch, images = page.wave_batch(0, 2), noise(2)
    fused, python = page.network(parametrizations.weight_norm), page.network(page.in_python)
    for a, b in (
        (page.meta_loss(page.start_of(fused), fused, batch, **INNER),
         page.meta_loss(page.start_of(python), python, batch, **INNER)),
        (page.in_vmap(partial(page.query_loss, page.start_of(page.conv(NORM)), page.conv(NORM),
                              **INNER), images).mean(),
         page.meta_loss(page.start_of(page.conv(NORM)), page.conv(NORM), images, **INNER)),
        (page.meta_loss(page.start_of(python), python, batch, slopes_of=page.detached, **INNER),
         page.meta_loss(page.start_of(python), python, batch, **INNER)),
    ):  # fmt: skip
        close(a, b)


# The cells: every comparison, and each with an error planted

_TRUTHS = {}


def remembered(judge):
    """The judge, kept from earlier runs: an error planted elsewhere does not reach it."""

    def by_differences(model, batch, **inner):
        sizes = {n: tuple(p.shape) for n, p in model.named_parameters()}
        named = {n: getattr(v, "__name__", v) for n, v in inner.items()}
        key = str((sizes, named, type(model).__name__, str(model), float(batch.support_x.sum())))
        if key not in _TRUTHS:
            _TRUTHS[key] = judge(model, batch, **inner)
        return _TRUTHS[key]

    return by_differences


def run(*cells, plant=None, **given):
    """Some cells, with what earlier ones made."""
    page = SimpleNamespace(**book_tools.run(PAGE))
    batch = page.wave_batch(1, 2)
    judge = remembered(page.by_differences)
    given = {
        "batch": batch,
        "inner": INNER,
        "loose": {"against": "finite difference", "rtol": 1e-6, "atol": 1e-8},
        "by_differences": judge,
        "plain_truth": judge(page.network(), batch, **INNER),
        "plain_module": page.by_module(page.network(), batch, **INNER),
        "wrong": {},
        "right": {},
        **given,
    }
    if "compare-judge" in cells:
        del given["by_differences"]
    return book_tools.run(PAGE, *cells, plant=plant, **given)


JUDGE = ("compare-judge",)
TRAP_1 = ("trap-1-wrong", "trap-1-compare")
TRAP_2 = ("trap-2-wrong", "trap-2-layer-norm", "trap-2-right")
TRAP_4 = ("trap-4-wrong", "trap-4-right")
PAPER = ("paper-weight-norm", "paper-layer-norm")
CHECK = ("trap-2-wrong", "characters", "check-run")
COMPARING = {
    "no trap, autograd": JUDGE,
    "no trap, the module": JUDGE,
    "pruned, functional_call": TRAP_1,
    "pruned, the module": TRAP_1,
    "masked, by higher": TRAP_1,
    "what higher computed": TRAP_1,
    "BatchNorm2d, from inside": TRAP_2,
    "BatchNorm2d, the module": TRAP_2,
    "TaskBatchNorm2d, vmap": TRAP_2,
    "TaskBatchNorm2d, the module": TRAP_2,
    "LayerNorm, from inside": TRAP_2,
    "weight norm in Python": ("trap-3-run",),
    "weight norm, the module": ("trap-3-run",),
    "in Python, slope": PAPER,
    "in Python, curvature": PAPER,
    "fused, slope": PAPER,
    "fused, curvature": PAPER,
    "layer norm, inside vmap": PAPER,
    "layer norm, outside vmap": PAPER,
    "called twice": TRAP_4,
    "called twice, the module": TRAP_4,
    "registered twice, higher": TRAP_4,
    "left behind": ("trap-4-left",),
    "forgotten is FOMAML": ("trap-5-run",),
    "detached is FOMAML": ("trap-5-run",),
    "through_data is FOMAML": ("trap-5-run",),
    "graph kept": ("trap-5-run",),
    "graph kept, the module": ("trap-5-run",),
    "clipped, length kept": ("trap-5-item",),
    "from inside": CHECK,
}
IF_BROKEN = {"what higher computed", "left behind"}  # compared only where a trap is not mended


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) | IF_BROKEN == set(COMPARING)
    assert "mended" in printed or book_tools.compared(printed) == set(COMPARING)


FIRST_ORDER = ('settings |= {"loss": F.mse_loss}',
               'settings |= {"loss": F.mse_loss, "first_order": True}')  # fmt: skip
PLANTS = [
    ("no trap, autograd", ("torch.stack(ends) / (2 * eps)", "torch.stack(ends) / eps")),
    ("no trap, autograd", ("return grad(loss)(params)",
                           "return {n: g.detach() for n, g in grad(loss)(params).items()}")),
    ("no trap, the module", FIRST_ORDER),
    ("pruned, functional_call", ("amount=0.5", "amount=0.25")),
    ("pruned, the module", FIRST_ORDER),
    ("masked, by higher", ("size > size.median()", "size < size.median()")),
    ("what higher computed", ('if n != "2.weight_orig"', 'if n != "2.bias"')),
    ("BatchNorm2d, from inside", ("flat(g.mean(0) for g", "flat(g.sum(0) for g")),
    ("BatchNorm2d, from inside", ("mine = from_inside(conv(batch_norm)",
                                  "mine = from_outside(conv(batch_norm)")),
    ("BatchNorm2d, the module", FIRST_ORDER),
    ("TaskBatchNorm2d, vmap", ("in_vmap(one, batch).mean()", "in_vmap(one, batch).sum()")),
    ("TaskBatchNorm2d, the module",  # an error that a finite difference does not see
     ("mine = from_outside(conv(models.TaskBatchNorm2d), noise, **large)",
      "mine = from_outside(conv(models.TaskBatchNorm2d), noise, **large) * (1 + 1e-8)")),
    ("LayerNorm, from inside", ("mine = from_inside(network(layer_norm)",
                                "mine = from_outside(network(layer_norm)")),
    ("weight norm in Python", ("(length / direction.norm(dim=1, keepdim=True))",
                               "(length / direction.norm(dim=1, keepdim=True).detach())")),
    ("weight norm, the module", FIRST_ORDER),
    ("in Python, slope", ("return direction * (length",
                                     "return direction * (2 * length")),
    ("in Python, curvature", ("torch.autograd.grad(slope[0, 0], x)",
                                      "torch.autograd.grad(slope[0, 1], x)")),
    ("fused, slope", ("torch._weight_norm(direction, length)",
                                 "torch._weight_norm(direction, 2 * length)")),
    ("fused, curvature", ("else -6 / 125", "else -144 / 3125")),
    ("layer norm, inside vmap", ("weight, eps=0.0)[1]", "weight, eps=1.0)[1]")),
    ("layer norm, outside vmap", ("0 if abs(outside) < 1e-12 else 1",
                                  "1 if abs(outside) < 1e-12 else 0")),
    ("called twice", ("for _ in range(2):\n            x = self.tanh(self.shared(x))",
                      "for _ in range(1):\n            x = self.tanh(self.shared(x))")),
    ("called twice, the module", FIRST_ORDER),
    ("registered twice, higher", ("step.step(F.mse_loss(fast(task.support_x), task.support_y))",
                                  "step.step(F.mse_loss(fast(task.query_x), task.query_y))")),
    ("left behind", ("query_loss(start_of(twice), twice, task, **inner)",
                     "query_loss(start_of(twice), twice, batch[1], **inner)")),
    ("forgotten is FOMAML", ("first_order=True", "first_order=False")),
    ("detached is FOMAML", ("{n: g.detach() for n, g", "{n: g for n, g")),
    ("through_data is FOMAML", ("{n: g.data for n, g", "{n: g for n, g")),
    ("graph kept", ("mine = by_autograd(network(), batch, **inner)\nnb.compare(\"graph kept\"",
                    "mine = by_autograd(network(), batch, slopes_of=detached, **inner)\n"
                    "nb.compare(\"graph kept\"")),
    ("graph kept, the module",
     ("mine = by_autograd(network(), batch, **inner)\nnb.compare(\"graph kept\"",
      "mine = by_autograd(network(), batch, **inner) * (1 + 1e-8)\nnb.compare(\"graph kept\"")),
    ("clipped, length kept", ("read(flat(slopes.values()).norm())",
                              "read(flat(slopes.values()).norm().detach())")),
    ("from inside", ("return (along @ gradient).item(), measured",
                     "return 1.001 * (along @ gradient).item(), measured")),
]  # fmt: skip


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(("name", "plant"), PLANTS)
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match="^" + re.escape(name) + ": "):
        run(*COMPARING[name], plant=plant)


def test_every_comparison_has_an_error_planted():
    assert {name for name, _ in PLANTS} == set(COMPARING)


MENDED = [
    (TRAP_1, ("stale = by_higher(network(pruned)", "stale = by_higher(network(masked)")),
    (TRAP_2, ("found = from_outside(conv(batch_norm)", "found = from_inside(conv(batch_norm)")),
    (TRAP_2, ("found = from_outside(network(layer_norm)",
              "found = from_inside(network(layer_norm)")),
    (("trap-3-run",), ("model = network(parametrizations.weight_norm)",
                       "model = network(in_python)")),
    (TRAP_4, ("found = ask_each_time(registered_twice()", "found = ask_each_time(CalledTwice()")),
]  # fmt: skip


@pytest.mark.parametrize(("cells", "plant"), MENDED)
def test_the_page_goes_on_where_a_trap_is_mended(cells, plant, capsys):
    run(*cells, plant=plant)
    assert ": mended, right with torch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cells", "plant"),
    [
        (PAPER, ("return torch._weight_norm(direction, length)",
                 "return WeightNorm()(length, direction)")),
        (PAPER, ("outside = grad(all_slopes)(pair, weights)[0, 1]", "outside = inside")),
        (("trap-4-left",), ("query_loss(start_of(twice), twice, task, **inner)", "")),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_trap_may_be_mended(cells, plant, capsys):
    run(*cells, plant=plant)
    assert "left behind" not in capsys.readouterr().out


def test_the_guard_refuses_the_traps_and_no_way_out(capsys):
    run("trap-2-wrong", "guard", "guard-right")
    assert capsys.readouterr().out.splitlines()[1:] == [
        "trap 1: 'higher' refuses 2 (Linear)",
        "trap 2: 'vmap' refuses 1 (BatchNorm2d)",
        "trap 3: 'functional' refuses 2 (ParametrizedLinear)",
        "trap 4: 'vmap' refuses 4 (Linear)",
    ]
