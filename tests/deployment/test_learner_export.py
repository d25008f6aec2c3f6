"""Files that learn: what onnxruntime learns from them, and what they prove before."""

import copy
from importlib.util import find_spec

import pytest
import torch
from learning_files import Embedding, layers, small
from torch import nn

from metalearn_tut import MAML, ProtoNet
from metalearn_tut.deployment import export_learner, learner_export, learner_proof
from metalearn_tut.learners import Reptile

pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the extra deploy is not installed",
)


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
    monkeypatch.setattr(learner_proof, "TOLERANCE", 1e9)
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


class Steep:
    """What a last digit of its pixels decides."""

    def adapt(self, x, y):
        past = (255 * x - (255 * x).round()).abs().max()
        return lambda query: torch.ones(len(query), 3) + 10 * past + 0.01 * y[0]


def test_no_more_is_asked_than_the_learner_keeps_in_float32():
    proof = learner_proof.Proof(small(), (4,), 3, 2, {}, False, 0)
    assert proof.difference(proof.expected) == 0

    def off_by(share):
        return lambda *task: proof.expected(*task) * (1 + share)

    assert proof.difference(off_by(0.9e-4)) == pytest.approx(0.9e-4, rel=0.01)
    with pytest.raises(RuntimeError, match=r"1\.5e-04 of the largest"):
        proof.difference(off_by(1.5e-4))
    proof = learner_proof.Proof(Steep(), (4,), 3, 2, {}, False, 0)
    assert proof.difference(off_by(1.5e-4)) == pytest.approx(1.5e-4, rel=0.01)
    with pytest.raises(RuntimeError, match=r"2\.0e-02 of the largest"):
        proof.difference(off_by(2e-2))
