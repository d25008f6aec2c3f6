"""ONNX files: what onnxruntime computes from them, on networks pruned in every way."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from metalearn_tut import MAML, tasks
from metalearn_tut.block_voting import BlockGatedResNet12, remove_blocks
from metalearn_tut.deployment import export_network, network_export, onnx_model
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.evaluation import cost
from metalearn_tut.gating import ChannelGatedConv4, ChannelGatedResNet12, MetaGater
from metalearn_tut.models import CifarResNet, Conv4, ResNet12
from metalearn_tut.saliency import remove_filters

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)
TASK = tasks.glyphs("validation").sampler(5, 1, 3, seed=0)[0]
SHAPE = (1, 28, 28)


def outputs(path, x):
    """Of the file, without this package."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(logits)


def plain(norm):
    return MAML(Conv4(1, 5, width=8, norm=norm), 0.4, 1)


def masked():
    learner = plain("support")
    masks = {
        n: torch.rand_like(p) < 0.3 for n, p in learner.model.named_parameters() if "conv" in n
    }
    learner.set_masks(masks)
    return learner


def narrow():
    kept = {"blocks.0.conv": torch.arange(8) < 5, "blocks.2.conv": torch.arange(8) > 2}
    return MAML(remove_filters(Conv4(1, 5, width=8, norm="support"), kept), 0.4, 1)


def gated():
    small = ResNet12(5, (4, 6, 6, 8), in_channels=1, norm="support")
    return MAML(BlockGatedResNet12(small), 0.1, 1)


def pruned_blocks():
    learner = gated()
    learner.model.prune(2)
    return MAML(learner.model.ungated(), 0.1, 1)


def student():
    teacher = MAML(Conv4(1, 5, width=16, norm="support"), 0.4, 1)
    return MetaDistiller(teacher, plain("support"))


def channel_gated(kind):
    """Its gates are about half open, and not for all images the same."""
    if kind == "conv4":
        network = ChannelGatedConv4(Conv4(1, 5, width=8, norm="support"), open_bias=0.0)
    else:
        small = ResNet12(5, (4, 6, 6, 8), in_channels=1, norm="support")
        network = ChannelGatedResNet12(small, open_bias=0.0)
    for gate in network.gates:
        nn.init.normal_(gate.inner.weight, std=4.0)
        nn.init.normal_(gate.outer.weight)
    return MetaGater(network, 0.1)


LEARNERS = {
    "support": lambda: plain("support"),
    "group": lambda: plain("group"),
    "none": lambda: plain("none"),
    "masked": masked,
    "narrow": narrow,
    "gated": gated,
    "pruned blocks": pruned_blocks,
    "student": student,
    "channel gates": lambda: channel_gated("conv4"),
    "channel gates of a residual network": lambda: channel_gated("resnet12"),
}


def adapted(name):
    torch.manual_seed(0)
    return LEARNERS[name]().adapt(TASK.support_x, TASK.support_y)


@pytest.mark.slow(quick=2)
@needs_onnx
@pytest.mark.parametrize("name", LEARNERS)
def test_onnxruntime_computes_what_the_adapted_learner_does(tmp_path, name):
    predict = adapted(name)
    network = predict.deploy()
    exported = export_network(network, tmp_path / "network.onnx", SHAPE)
    assert exported.difference <= 1e-5
    expected = predict(TASK.query_x)
    x = tasks.as_float(TASK.query_x)
    for rows in (1, 3, len(x)):  # none of them is the batch that was traced
        found = outputs(exported.path, x[:rows])
        torch.testing.assert_close(found, expected[:rows], rtol=1e-5, atol=1e-5)
    assert exported.size_bytes == exported.path.stat().st_size
    assert exported.size_bytes < 4 * cost.parameters(network) + 30_000


class As(nn.Module):
    """A gated network whose gates are told what to do."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x):
        return self.network(x, gate_mode=self.how)


@pytest.mark.slow
@needs_onnx
def test_channel_gates_do_in_the_file_what_they_are_told(tmp_path):
    network = adapted("channel gates").deploy()  # what they learned is in the test above
    x = tasks.as_float(TASK.query_x)
    with torch.no_grad():
        masks, learned = network.masks(x), network(x)
        assert any((mask[1:] != mask[:1]).any() for mask in masks)  # not the same for all
        for name, how in (("open", "open"), ("masks", [mask[0] for mask in masks])):
            path = export_network(As(network, how), tmp_path / f"{name}.onnx", SHAPE).path
            expected = network(x, gate_mode=how)
            torch.testing.assert_close(outputs(path, x), expected, rtol=1e-5, atol=1e-5)
            assert (expected - learned).abs().max() > 1e-3


@pytest.mark.slow
@needs_onnx
def test_a_classifier_that_lost_blocks_is_exported(tmp_path):
    torch.manual_seed(0)
    short = remove_blocks(CifarResNet(20), [1, 2, 5]).eval()
    path = export_network(short, tmp_path / "short.onnx", (3, 32, 32)).path
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(outputs(path, x), short(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@needs_onnx
def test_the_file_says_nothing_of_this_machine_and_the_network_is_left_as_it_was(tmp_path):
    network = adapted("support").deploy().train()
    before = {n: t.clone() for n, t in network.state_dict().items()}
    data = export_network(network, tmp_path / "a.onnx", SHAPE).path.read_bytes()
    assert network.training and all(
        torch.equal(t, before[n]) for n, t in network.state_dict().items()
    )
    for word in (b".py", b"metalearn_tut", b"aten"):
        assert word not in data
    assert export_network(network, tmp_path / "b.onnx", SHAPE).path.read_bytes() == data


@needs_onnx
def test_both_latencies_are_those_of_cost(tmp_path, monkeypatch):
    timed = []

    def latency(model, input_shape, x=None):
        timed.append((type(model), input_shape))
        return float(len(timed))

    monkeypatch.setattr(cost, "latency", latency)
    exported = export_network(nn.Linear(4, 3), tmp_path / "linear.onnx", (4,))
    assert (exported.latency, exported.torch_latency) == (1.0, 2.0)
    assert timed == [(onnx_model.Session, (4,)), (nn.Linear, (4,))]
    assert "1000.00 ms in onnxruntime, 2000.00 ms in PyTorch" in repr(exported)


@pytest.mark.slow
@needs_onnx
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    network = adapted("none").deploy()
    path = tmp_path / "network.onnx"
    path.write_bytes(b"old")
    honest = network_export.onnx_bytes

    def wrong(network, x):
        with torch.no_grad():
            network.head.bias[0] += 3e-5
        data = honest(network, x)
        with torch.no_grad():
            network.head.bias[0] -= 3e-5
        return data

    monkeypatch.setattr(network_export, "onnx_bytes", wrong)
    with pytest.raises(RuntimeError, match=r"1 inputs differ from PyTorch's by 3\.\de-05"):
        export_network(network, path, SHAPE)
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"] and path.read_bytes() == b"old"


class Centered(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@needs_onnx
def test_a_network_whose_inputs_depend_on_each_other_is_found_out(tmp_path):
    with pytest.raises(RuntimeError, match="2 inputs differ"):
        export_network(nn.Sequential(nn.Linear(4, 3), Centered()), tmp_path / "c.onnx", (4,))


class Counting(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.zeros(len(x), 1)


@needs_onnx
def test_a_graph_for_one_batch_size_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="graph fixes the number of inputs"):
        export_network(Counting(4, 3), tmp_path / "counting.onnx", (4,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("network", "path", "said"),
    [
        (nn.Linear(4, 3), "network.pt", "path must end in .onnx, got network.pt"),
        (nn.Linear(4, 3).double(), "a.onnx", r"in float32 .*weight is torch.float64"),
        (Conv4(1, 5), "a.onnx", r"but blocks.0.norm normalizes by the batch: export learner.adapt"),
        (nn.BatchNorm1d(4, track_running_stats=False), "a.onnx", "but it normalizes by the batch"),
    ],
)
def test_what_cannot_be_exported_is_refused(network, path, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        export_network(network, path, (4,))
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if "onnxr" in name else name)
    with pytest.raises(
        ImportError, match=r"needs onnxruntime: pip install 'metalearn-tut\[deploy\]'"
    ):
        export_network(nn.Linear(4, 3), tmp_path / "a.onnx", (4,))
