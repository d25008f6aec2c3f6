"""Files that learn: what onnxruntime learns from them, and what is refused."""

import copy
import errno
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metalearn_tut import MAML, ProtoNet
from metalearn_tut.deployment import export_learner, learner_export, onnx_model, task_models
from metalearn_tut.learners import Reptile

needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)
pytestmark = needs_onnx


def layers(ways=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, ways))


def small(**settings):
    return MAML(layers(), 0.5, 2, **settings)


def support(seed=0, counts=(1, 2, 3), kind="float"):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    x = torch.randint(256, (len(labels), 4), generator=generator, dtype=torch.uint8)
    query = torch.randint(256, (5, 4), generator=generator, dtype=torch.uint8)
    return (x, labels, query) if kind == "uint8" else (x / 255, labels, query / 255)


def run(path, **inputs):
    """All outputs of a file, without this package."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    names = [part.name for part in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, found), strict=True))


def learned(path, x, y, query):
    return run(path, support_x=x, support_y=y, query_x=query)["logits"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return export_learner(small(), tmp_path_factory.mktemp("file") / "learns.onnx", (4,)).paths[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    learner = small(rate_mode="per_layer", groups=[["2.weight", "2.bias"]])
    halves = folder / "adapt.onnx", folder / "classify.onnx"
    return learner, export_learner(learner, halves[0], (4,), classify=halves[1])


@pytest.mark.parametrize("counts", [(1, 1, 1), (4, 1, 2), (30, 20, 10)])
@pytest.mark.parametrize("queries", [1, 5])
def test_the_file_learns_what_the_learner_does_of_any_number_of_images(file, counts, queries):
    x, y, query = support(3, counts)
    expected = small().adapt(x, y)(query[:queries])
    torch.testing.assert_close(learned(file, x, y, query[:queries]), expected)


def test_what_the_file_takes_and_gives_is_as_promised(file):
    import onnx

    model = onnx.load(file)
    shapes = {
        part.name: [d.dim_param or d.dim_value for d in part.type.tensor_type.shape.dim]
        for part in (*model.graph.input, *model.graph.output)
    }
    names = {"support_x": ["S", 4], "support_y": ["S"], "query_x": ["Q", 4], "logits": ["Q", 3]}
    assert shapes == names
    kinds = [part.type.tensor_type.elem_type for part in model.graph.input]
    kind = onnx.TensorProto
    assert kinds == [kind.FLOAT, kind.INT64, kind.FLOAT]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    for word in (b".py", b"metalearn_tut", b"aten", b"torch."):
        assert word not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("y", "x"),
    [
        ([0, 1, 3], 0.0),
        ([0, 1, 2, -1], 0.0),
        ([0, 1, 2, -100], 0.0),
        ([0, 1, 1], 0.0),
        ([0, 1, 2], torch.nan),
        ([0, 1, 2], torch.inf),
    ],
)
def test_what_is_no_support_set_gives_nan(file, two, y, x):
    y, images, query = torch.tensor(y), torch.rand(len(y), 4), torch.rand(2, 4)
    images[0, 0] += x
    assert learned(file, images, y, query).isnan().all()
    adapt, classify = two[1].paths
    weights = run(adapt, support_x=images, support_y=y)
    assert all(w.isnan().all() for w in weights.values())
    assert run(classify, **weights, query_x=query)["logits"].isnan().all()


def test_a_class_that_lacks_an_image_gives_nan_where_only_the_last_does(file):
    x, y, query = support()
    assert learned(file, x, y, query).isfinite().all()


@pytest.mark.slow
def test_two_halves_are_the_weights_that_adapt_and_the_rest(two):
    learner, exported = two
    adapt, classify = exported.paths
    x, y, query = support(7)
    predict = learner.adapt(x, y)
    weights = run(adapt, support_x=x, support_y=y)
    assert sorted(weights) == ["2.bias", "2.weight"]  # others are not stepped
    for name, weight in weights.items():
        torch.testing.assert_close(weight, predict.params[name])
    found = run(classify, **weights, query_x=query)["logits"]
    torch.testing.assert_close(found, predict(query))
    assert exported.sizes == tuple(path.stat().st_size for path in exported.paths)


@pytest.mark.slow
def test_bytes_are_scaled_as_the_learner_scales_them(tmp_path):
    learner = ProtoNet(Embedding())
    path = export_learner(learner, tmp_path / "bytes.onnx", (4,), ways=3, uint8=True).paths[0]
    x, y, query = support(5, kind="uint8")
    torch.testing.assert_close(learned(path, x, y, query), learner.adapt(x, y)(query))


class Embedding(nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(4, 5)

    def embed(self, x):
        return self(x)


@pytest.mark.slow
def test_half_as_large_it_answers_as_the_learner_with_rounded_numbers_does(tmp_path):
    torch.manual_seed(0)
    wide = Reptile(nn.Sequential(nn.Linear(4, 400), nn.Tanh(), nn.Linear(400, 3)), 0.1, 1)
    full = export_learner(wide, tmp_path / "full.onnx", (4,))
    half = export_learner(wide, tmp_path / "half.onnx", (4,), half=True)
    assert half.sizes[0] < 0.6 * full.sizes[0]
    rounded = copy.deepcopy(wide)
    with torch.no_grad():
        for p in rounded.parameters():
            p.copy_(p.half())
    x, y, query = support(2)
    found = learned(half.paths[0], x, y, query)
    torch.testing.assert_close(found, rounded.adapt(x, y)(query), rtol=0, atol=2e-6)
    assert (found - wide.adapt(x, y)(query)).abs().max() > 2e-5


@pytest.mark.slow
def test_a_head_that_starts_at_zero_has_as_many_rows_as_told_and_steps_are_free(tmp_path):
    learner = MAML(layers(), 0.5, 1, zero_head=True, head="2", rate_mode="per_layer_and_step")
    path = export_learner(learner, tmp_path / "four.onnx", (4,), ways=4, steps=3).paths[0]
    x, y, query = support(1, (1, 2, 1, 1))
    torch.testing.assert_close(learned(path, x, y, query), learner.adapt(x, y, steps=3)(query))


@pytest.mark.slow
def test_weights_that_are_pruned_stay_zero_and_the_learner_as_it_was(tmp_path):
    learner = small()
    mask = torch.rand(6, 4) < 0.5
    learner.set_masks({"0.weight": mask})
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    adapt = tmp_path / "adapt.onnx"
    export_learner(learner.train(), adapt, (4,), classify=tmp_path / "classify.onnx")
    weight = run(adapt, support_x=support()[0], support_y=support()[1])["0.weight"]
    assert (weight[~mask] == 0).all() and (weight[mask] != learner.model[0].weight[mask]).all()
    after = learner.state_dict()
    assert learner.training and all(torch.equal(t, before[n]) for n, t in after.items())


def frozen(functions):
    """The known failure: gradients of the example are in the file as constants."""
    with torch.no_grad():
        network = functions.network(*support(0, (1, 1, 1))[:2])
    return lambda support_x, support_y, query_x: network(query_x) + support_y.sum() * 0


@pytest.mark.slow
def test_a_file_that_has_learned_already_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "frozen.onnx"
    path.write_bytes(b"old")

    def whole(form):
        inputs = form.support | form.query
        graph = form.graph(frozen(form.functions), inputs)
        return form.model(graph, inputs, ["logits"])

    monkeypatch.setattr(learner_export, "whole", whole)
    with pytest.raises(RuntimeError, match=r"3 support images and 1 queries differ .* no file was"):
        export_learner(small(), path, (4,))
    monkeypatch.setattr("metalearn_tut.deployment.learner_proof.TOLERANCE", 1e9)
    with pytest.raises(RuntimeError, match="same logits for another support set: no file was"):
        export_learner(small(), path, (4,))
    assert path.read_bytes() == b"old" and len([*tmp_path.iterdir()]) == 1


@pytest.mark.slow
def test_a_file_that_learns_with_another_rate_is_not_written(tmp_path, monkeypatch):
    honest = learner_export.TaskFunctions

    def wrong(learner, *rest):
        learner.inner_lr = 0.501
        return honest(learner, *rest)

    monkeypatch.setattr(learner_export, "TaskFunctions", wrong)
    with pytest.raises(RuntimeError, match=r"learner's by .* of the largest"):
        export_learner(small(), tmp_path / "wrong.onnx", (4,))
    assert not [*tmp_path.iterdir()]


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
