"""Costs against sums written out by hand, and the promise to leave the model as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet, Conv4, ResNet12, deploy
from metalearn_tut.saliency.sparse import save_sparse

PLAIN, TRANSITION = 4_718_592, 3_538_944  # multiply-adds of a block


@pytest.mark.parametrize(
    ("depth", "total"), [(20, None), (32, 68_862_592), (44, None), (56, 125_485_696)]
)
def test_cifar_resnet_macs(depth, total):
    n = (depth - 2) // 6
    stem, head = 32 * 32 * 16 * 3 * 9, 64 * 10
    formula = stem + (3 * n - 2) * PLAIN + 2 * TRANSITION + head
    assert cost.macs(CifarResNet(depth), (3, 32, 32)) == formula == (total or formula)


def test_a_plain_block_costs_the_same_in_every_stage():
    whole = cost.macs(CifarResNet(20), (3, 32, 32))
    for i in (1, 5, 8):
        model = CifarResNet(20)
        del model.blocks[i]
        assert whole - cost.macs(model, (3, 32, 32)) == PLAIN
    assert cost.macs(CifarResNet(20).blocks[3], (16, 32, 32)) == TRANSITION


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_conv4_macs_written_out(norm):
    model = Conv4(1, ways=5, width=32, norm=norm)
    sides = (28, 14, 7, 3)
    convolutions = [
        side * side * 32 * c * 9 for side, c in zip(sides, (1, 32, 32, 32), strict=True)
    ]
    assert cost.macs(model, (1, 28, 28)) == sum(convolutions) + 32 * 5


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 6, 6), 36 * 16 * 2 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 7), 16 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, dilation=2), (4, 7, 7), 9 * 6 * 4 * 9),
        (nn.Conv1d(4, 6, 5), (4, 10), 6 * 6 * 4 * 5),
        (nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), (8, 5, 5), 25 * 8 * 3 * 4),
        (nn.Linear(7, 3), (4, 7), 4 * 7 * 3),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (4, 6, 6), 0),
    ],
)
def test_macs_of_one_layer(layer, shape, expected):
    assert cost.macs(layer, shape) == expected


def test_a_layer_called_twice_counts_twice():
    layer = nn.Linear(5, 5)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert cost.macs(model, (5,)) == 50
    assert cost.parameters(model) == 30


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Conv4(3, 5, norm="group", image_size=84), (3, 84, 84)),
        (ResNet12(5, widths=(8, 16, 32, 64)), (3, 84, 84)),
        (CifarResNet(20), (3, 32, 32)),
    ],
)
def test_macs_are_half_of_pytorchs_own_flops(model, shape):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    assert 2 * cost.macs(model, shape) == counter.get_total_flops()


def test_cifar_resnet_parameters_written_out():
    stem = 3 * 9 * 16 + 2 * 16
    stages = 0
    for width in (16, 32, 64):
        conv, norm = 9 * width * width, 2 * width
        stages += 6 * conv + 6 * norm
    narrower = 9 * 16 * 32 + 9 * 32 * 64  # the first convolution of stages 2 and 3 reads half
    head = 64 * 10 + 10
    assert cost.parameters(CifarResNet(20)) == stem + stages - narrower + head == 269_722


@pytest.mark.parametrize(
    ("norm", "per_block"), [("batch", 2 * 32), ("group", 2 * 32), ("none", 32)]
)
def test_conv4_parameters_written_out(norm, per_block):
    convolutions = 9 * 32 * (1 + 32 + 32 + 32)
    expected = convolutions + 4 * per_block + 32 * 5 + 5
    assert cost.parameters(Conv4(1, 5, norm=norm)) == expected


def test_size_is_that_of_the_saved_file(tmp_path):
    from safetensors.torch import save_file

    model = CifarResNet(20).to(memory_format=torch.channels_last)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors")
    assert cost.size_bytes(model) == (tmp_path / "model.safetensors").stat().st_size
    data = sum(t.numel() * t.element_size() for t in tensors.values())
    assert data < cost.size_bytes(model) < data * 1.02


def test_shared_parameters_are_saved_once():
    layer = nn.Linear(100, 100)
    assert cost.size_bytes(nn.Sequential(layer, layer)) < 1.1 * cost.size_bytes(layer)


def test_measuring_leaves_the_model_as_it_was():
    model = CifarResNet(20).train()
    model.blocks[2].eval()  # a mixture of modes must survive
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    draw = torch.get_rng_state()
    cost.measure(model, (3, 32, 32))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), draw) and torch.is_grad_enabled()


def test_a_failing_network_is_left_as_it_was_too():
    model = CifarResNet(20).train()
    with pytest.raises(ValueError, match="x must be images"):
        cost.macs(model, (1, 28, 28))
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_deployed_network_costs_what_the_model_costs():
    model = Conv4(1, 5)
    deployed = deploy(model, {}, torch.rand(5, 1, 28, 28))
    assert cost.macs(deployed, (1, 28, 28)) == cost.macs(model, (1, 28, 28))
    assert cost.parameters(deployed) == cost.parameters(model)


class Clock(nn.Module):
    """A network whose n-th call takes n ticks of the clock that it replaces."""

    def __init__(self):
        super().__init__()
        self.now, self.calls, self.rows = 0.0, 0, None

    def forward(self, x):
        self.calls += 1
        self.now += self.calls
        self.rows = len(x)
        return x


def test_latency_is_the_median_of_warm_runs(monkeypatch):
    model = Clock()
    monkeypatch.setattr(cost.measured.time, "perf_counter", lambda: model.now**2)
    # Call k takes k cubed. Calls 1 and 2 are warm-up; of 27, 64, 125, 216, 343 the median is 125.
    assert cost.latency(model, (2,), batch=4, warmup=2, repeats=5) == 125
    assert (model.calls, model.rows) == (7, 4)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"repeats": 0}])
def test_latency_refuses_nothing_to_time(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
        cost.latency(nn.Linear(2, 2), (2,), **wrong)


def test_cost_reads_in_one_line():
    text = repr(cost.Cost(parameters=28_357, macs=2_566_816, size_bytes=114_572, latency=0.00044))
    assert text == "Cost(28,357 parameters, 2,566,816 MACs, 114,572 bytes, 0.44 ms)"


# Masks


def random_masks(model, kept, seed=0):
    """Masks of all convolutions and linear layers, biases included."""
    generator = torch.Generator().manual_seed(seed)
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    names = [n for n, _ in model.named_parameters() if n.rpartition(".")[0] in layers]
    return {n: torch.rand(model.get_parameter(n).shape, generator=generator) < kept for n in names}


def pruned(model, masks):
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).masked_fill_(~mask, 0)
    return model


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_kept_parameters_and_macs_of_conv4_written_out(norm):
    model = Conv4(1, ways=5, width=8, norm=norm)
    masks = random_masks(model, 0.3)
    kept = [int(masks[f"blocks.{i}.conv.weight"].sum()) for i in range(4)]
    head = int(masks["head.weight"].sum())
    biases = sum(int(m.sum()) for n, m in masks.items() if n.endswith("bias"))
    norms = 0 if norm == "none" else 4 * 2 * 8
    assert cost.parameters(model, masks) == sum(kept) + head + biases + norms
    products = sum(side * side * k for side, k in zip((28, 14, 7, 3), kept, strict=True)) + head
    assert cost.macs(model, (1, 28, 28), masks) == products


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 6, 6), 36),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 7, 7), 16),
        (nn.Conv1d(4, 6, 5), (4, 10), 6),
        (nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), (8, 5, 5), 25),
        (nn.Linear(7, 3), (4, 7), 4),
    ],
)
def test_a_kept_weight_costs_one_multiply_add_per_position(layer, shape, positions):
    mask = torch.zeros_like(layer.weight, dtype=torch.bool)
    assert cost.macs(layer, shape, {"weight": mask}) == 0
    for kept, i in enumerate(range(0, mask.numel(), 5), start=1):
        mask.view(-1)[i] = True
        assert cost.macs(layer, shape, {"weight": mask}) == kept * positions
    assert cost.macs(layer, shape, {"weight": torch.ones_like(mask)}) == cost.macs(layer, shape)


def test_macs_are_the_flops_of_the_authors_code_but_for_sums_and_biases():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))
    masks = random_masks(model, 0.4)
    flops = sums = 0
    for name, positions in (("0", 9 * 9), ("2", 4 * 4)):
        weights, biases = masks[f"{name}.weight"], masks[f"{name}.bias"]
        # k products, k - 1 sums and a bias, if kept, for each of the outputs
        outputs = zip(weights, biases, strict=True)
        per_position = sum(2 * int(w.sum()) - 1 + int(b) for w, b in outputs)
        flops += positions * per_position
        sums += positions * (int(biases.sum()) - len(biases))
    assert 2 * cost.macs(model, (3, 9, 9), masks) + sums == flops


def test_a_mask_counts_wherever_its_layer_is_used_and_once_where_it_is_stored():
    layer = nn.Linear(5, 5)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    masks = {"0.weight": torch.eye(5).bool(), "0.bias": torch.zeros(5).bool()}
    assert cost.macs(model, (5,), masks) == 10
    assert cost.parameters(model, masks) == 5


def test_size_with_masks_is_that_of_the_sparse_file(tmp_path):
    model = CifarResNet(20)
    masks = random_masks(model, 0.15)
    pruned(model, masks)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    save_sparse(tmp_path / "file", tensors, masks)
    size = (tmp_path / "file").stat().st_size
    assert cost.size_bytes(model, masks) == size < 0.25 * cost.size_bytes(model)
    assert tensors.keys() == model.state_dict().keys()


def test_measure_with_masks_counts_what_is_kept_and_times_what_there_is(monkeypatch):
    model = Conv4(1, 5, width=4)
    masks = random_masks(model, 0.2)
    pruned(model, masks)
    seen = []
    monkeypatch.setattr(cost.measured, "latency", lambda *asked: seen.append(asked) or 7.0)
    assert cost.measure(model, (1, 28, 28), masks) == cost.Cost(
        cost.parameters(model, masks),
        cost.macs(model, (1, 28, 28), masks),
        cost.size_bytes(model, masks),
        7.0,
    )
    assert seen == [(model, (1, 28, 28))]


@pytest.mark.parametrize("count", [cost.parameters, cost.size_bytes, cost.macs])
def test_masks_that_do_not_fit_are_refused(count):
    shape = ((4,),) if count is cost.macs else ()
    with pytest.raises(ValueError, match="masks names no parameter of the model: kernel"):
        count(nn.Linear(4, 2), *shape, masks={"kernel": torch.ones(2, 4)})
    with pytest.raises(ValueError, match=r"masks\['weight'\] must have shape \[2, 4\], got \[4\]"):
        count(nn.Linear(4, 2), *shape, masks={"weight": torch.ones(4)})


def test_the_size_of_a_network_that_is_not_pruned_as_masked_is_refused():
    with pytest.raises(ValueError, match="weight is not 0 in 8 places that masks prune"):
        cost.size_bytes(nn.Linear(4, 2), {"weight": torch.zeros(2, 4).bool()})
