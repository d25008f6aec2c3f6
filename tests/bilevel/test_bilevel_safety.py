"""Each trap is shown on the installed torch, refused by name, and its way out checked.

The gradient of an engine, along one random direction, is held against the central finite
difference of a loop written out in meta_gradients.py. A trap that upstream has mended skips
its showing.
"""

import math

import pytest
import torch
from meta_gradients import build, by_higher, conv, difference, images, mlp, slope, vectors
from torch import nn
from traps import (
    TRAPS,
    CalledTwice,
    masked,
    pruned,
    registered_twice,
    shared_activation,
    tied_parameter,
)

from metalearn_tut import models
from metalearn_tut.bilevel.safety import GUARDED, assert_second_order_safe
from metalearn_tut.models.norms import TaskBatchNorm2d

RIGHT, WRONG = 1e-6, 1e-5  # relative errors: finite differences are good to about 1e-8


def error(make, engine, xs, ys):
    """Relative error of the engine's directional derivative; infinite where it has none."""
    expected = difference(build(make), xs, ys)
    try:
        return abs(slope(build(make), engine, xs, ys) - expected) / abs(expected)
    except RuntimeError:
        return math.inf


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap, weight_norm
@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_the_trap_is_real_on_this_torch(trap):
    found = error(trap.build, trap.engine, *trap.data())
    if found < RIGHT:
        pytest.skip(f"torch {torch.__version__} computes this gradient right: upstream mended it")
    if trap.loud:
        assert found == math.inf
    else:
        assert WRONG < found < math.inf


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_the_guard_refuses_it_by_name_and_says_the_way_out(trap):
    model = build(trap.build)
    with pytest.raises(ValueError, match=trap.message) as caught:
        assert_second_order_safe(model, trap.engine)
    assert f"engine='{trap.engine}' has no right" in str(caught.value)
    assert f"through {trap.name}: " in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"through inner\.net\."):
        nested = nn.ModuleDict({"inner": nn.ModuleDict({"net": model})})
        assert_second_order_safe(nested, trap.engine)


@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_the_way_out_passes_and_is_right(trap):
    engine = trap.way_out_engine or trap.engine
    with trap.context():
        assert_second_order_safe(build(trap.way_out), engine)
        assert error(trap.way_out, engine, *trap.data()) < RIGHT


@pytest.mark.parametrize("name", ["weight_norm-functional", "attention-functional", "hardsigmoid"])
@pytest.mark.parametrize("engine", GUARDED)
def test_what_no_engine_can_differentiate_twice_is_refused_by_every_engine(name, engine):
    trap = TRAPS[name]
    with pytest.raises(ValueError, match=f"engine='{engine}' has no right"):
        assert_second_order_safe(build(trap.build), engine)


def test_a_module_under_two_names_is_overwritten_by_functional_call():
    model, (xs, ys) = build(registered_twice), vectors()
    expected = difference(build(registered_twice), xs, ys)
    weight = model[0].weight
    first = slope(model, "functional", xs, ys)
    assert abs(first - expected) < RIGHT * abs(expected)
    if model[0].weight is weight:
        pytest.skip(f"torch {torch.__version__} restores the module: upstream mended it")
    second = slope(model, "functional", xs, ys)  # the same call, from where the first one left
    assert abs(second - expected) > 1e-2 * abs(expected)


def test_a_module_under_two_names_is_refused_for_functional_call():
    message = r"through 2 \(Linear\): it is registered as 0 too.* call it twice in forward\(\)"
    with pytest.raises(ValueError, match=message):
        assert_second_order_safe(build(registered_twice), "vmap")
    block = nn.Sequential(nn.Linear(10, 10), nn.Tanh())
    with pytest.raises(ValueError, match=r"through 1 \(Sequential\): it is registered as 0 too"):
        assert_second_order_safe(nn.Sequential(block, block), "vmap")
    norm = nn.BatchNorm1d(4, affine=False)  # buffers are overwritten too
    with pytest.raises(ValueError, match="it is registered as 0 too"):
        assert_second_order_safe(nn.Sequential(norm, norm).eval(), "vmap")


@pytest.mark.parametrize("engine", ["functional", "vmap"])
def test_a_module_called_twice_is_right_every_time(engine):
    model, (xs, ys) = build(CalledTwice), vectors()
    assert_second_order_safe(model, engine)
    expected = difference(build(CalledTwice), xs, ys)
    for _ in range(2):
        assert abs(slope(model, engine, xs, ys) - expected) < RIGHT * abs(expected)


def test_higher_is_right_with_a_module_under_two_names():
    assert_second_order_safe(build(registered_twice), "higher")
    assert error(registered_twice, "higher", *vectors()) < RIGHT


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
)
def test_higher_calls_no_hook(register):
    model, calls = build(mlp), []
    getattr(model[2], register)(lambda *args: calls.append(args))
    by_higher(model, *vectors(1)).backward()
    if calls:
        pytest.skip("higher calls these hooks: upstream mended it")
    with pytest.raises(ValueError, match=r"through 2 \(Linear\): higher never calls hooks"):
        assert_second_order_safe(model, "higher")
    assert_second_order_safe(model, "functional")


def test_without_second_derivatives_only_what_is_never_called_or_overwritten_is_refused():
    for trap in TRAPS.values():
        if trap.engine != "higher":
            assert_second_order_safe(build(trap.build), trap.engine, first_order=True)
    model = build(mlp)
    model[2].register_forward_hook(lambda *args: None)
    said = r"engine='higher' has no right gradient through 2 \(Linear\): higher never calls hooks"
    with pytest.raises(ValueError, match=said):
        assert_second_order_safe(model, "higher", first_order=True)
    with pytest.raises(ValueError, match="it is registered as 0 too"):
        assert_second_order_safe(build(registered_twice), "vmap", first_order=True)


# Safe models pass


ALL = ("functional", "higher", "vmap")
SAFE = {
    "mlp": (mlp, vectors, ALL),
    "group_norm": (lambda: conv(nn.GroupNorm(2, 4)), images, ALL),
    "batch_norm": (lambda: conv(nn.BatchNorm2d(4)), images, ALL[:2]),
    "batch_norm-eval": (lambda: conv(nn.BatchNorm2d(4)).eval(), images, ALL),
    "task_batch_norm": (lambda: conv(TaskBatchNorm2d(4)), images, ALL),
    "layer_norm": (lambda: mlp(nn.LayerNorm(8)), vectors, ALL[:2]),
    "rms_norm": (lambda: mlp(nn.RMSNorm(8)), vectors, ALL),
    "shared_activation": (shared_activation, vectors, ALL),
    "tied_parameter": (tied_parameter, vectors, ALL),
    "mask": (masked, vectors, ALL),
    "prune": (pruned, vectors, ("functional", "vmap")),
}


@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name, (*_, engines) in SAFE.items() for engine in engines],
)
def test_a_safe_model_passes_and_is_right(name, engine):
    make, data, _ = SAFE[name]
    assert_second_order_safe(build(make), engine)
    assert error(make, engine, *data()) < RIGHT


@pytest.mark.parametrize("norm", ["batch", "support", "group", "none"])
def test_the_packages_networks(norm):
    net = models.Conv4(in_channels=1, ways=5, width=8, norm=norm)
    for engine in ("functional", "higher", "vectorised", "implicit", "vmap"):
        assert_second_order_safe(net, engine)


def test_a_transformer_is_refused_at_its_attention():
    layer = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    with pytest.raises(ValueError, match=r"through self_attn \(MultiheadAttention\)"):
        assert_second_order_safe(layer)


def test_the_model_itself_can_be_the_trap():
    with pytest.raises(ValueError, match=r"through the model itself \(LayerNorm\)"):
        assert_second_order_safe(nn.LayerNorm(3), "vmap")


def test_an_unknown_engine():
    with pytest.raises(ValueError, match=r"engine must be one of 'functional', .* got 'jax'"):
        assert_second_order_safe(mlp(), "jax")
