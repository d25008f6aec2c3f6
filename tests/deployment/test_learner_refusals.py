"""What cannot become a file that learns: refused by one sentence, before work where it can be."""

import errno
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch.nn.functional as F
from learning_files import Embedding, layers, small
from torch import nn

from metalearn_tut import MAML, ProtoNet
from metalearn_tut.deployment import export_learner, onnx_model, task_models

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)


class Averaging(nn.Module):
    """Its pooling has a derivative that ONNX has no operator for."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 2, 3), nn.AvgPool2d(3, 2, 1)
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        return self.head(self.pool(self.conv(x)).flatten(1))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise, self.head = nn.Conv2d(2, 4, 3, groups=2), nn.Linear(4 * 25, 3)

    def forward(self, x):
        return self.head(self.depthwise(x).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape", "said"),
    [
        (Grouped(), (2, 7, 7), r"aten.convolution_backward of layer 'depthwise' \(Conv2d\) has no"),
        (Averaging(), (1, 7, 7), r"aten.avg_pool2d_backward of layer 'pool' \(AvgPool2d\) has no"),
    ],
)
def test_an_operator_without_a_rule_is_named_with_its_layer(tmp_path, network, shape, said):
    with pytest.raises(ValueError, match=f"MAML cannot be exported: {said}"):
        export_learner(MAML(network, 0.1, 1), tmp_path / "a.onnx", shape, ways=3)
    assert not [*tmp_path.iterdir()]


REFUSED = {
    "an ending": (small, {"path": "a.pt"}, "path must end in .onnx, got a.pt"),
    "another ending": (small, {"classify": "a.bin"}, "classify must end in .onnx, got a.bin"),
    "an opset": (small, {"opset": 11}, r"opset must be in 17\.\.20, got 11"),
    "a dtype": (lambda: small().double(), {}, "in float32 .*, model.0.weight is torch.float64"),
    "ways": (small, {"ways": 5}, "ways must be 3, for which the learner's head was trained, got 5"),
    "no way": (small, {"ways": 0}, "ways must be"),
    "unknown ways": (lambda: ProtoNet(Embedding()), {}, "ways must be given: Embedding does not"),
    "shape": (small, {"input_shape": (5,)}, r"cannot adapt to inputs of shape \(5,\) in 3 classes"),
    "no shape": (small, {"input_shape": ()}, "input_shape must be the shape of one input"),
    "steps": (small, {"steps": -1}, r"steps=-1: steps must be"),
    "steps of prototypes": (
        lambda: ProtoNet(Embedding()),
        {"steps": 2, "ways": 3},
        r"ProtoNet cannot adapt .* steps=2: .*unexpected keyword argument 'steps'",
    ),
    "shots": (small, {"max_shots": 0}, "max_shots must be"),
    "numbers": (lambda: MAML(layers(), loss=F.mse_loss), {}, "its loss compares numbers"),
    "one logit": (
        lambda: MAML(layers(1), loss=lambda o, y: (o[:, 0] - y).square().mean()),
        {"ways": 3},
        "ways must be 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_by_one_sentence(name, tmp_path, monkeypatch):
    learner, given, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_models, "traced", None)  # before any work
    told = {"path": "a.onnx", "input_shape": (4,), **given}
    with pytest.raises(ValueError, match=said) as refused:
        export_learner(learner(), told.pop("path"), told.pop("input_shape"), **told)
    assert "\n" not in str(refused.value) and not [*tmp_path.iterdir()]


def test_what_is_no_learner_and_what_does_not_learn_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"learner must be a learner .*, got Sequential: of a netw"):
        export_learner(layers(), tmp_path / "a.onnx", (4,))
    with pytest.raises(RuntimeError, match="same logits whatever the labels are: it does not lea"):
        export_learner(small(), tmp_path / "a.onnx", (4,), steps=0)


@pytest.mark.slow
def test_no_room_and_no_folder_are_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"path: cannot write .*a\.onnx"):
        export_learner(small(), tmp_path / "file" / "a.onnx", (4,))

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.onnx: No space left on device"):
        export_learner(small(), tmp_path / "a.onnx", (4,))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ImportError, match=r"needs onnx: pip install 'metalearn-tut\[deploy\]'"):
        export_learner(small(), tmp_path / "a.onnx", (4,))
