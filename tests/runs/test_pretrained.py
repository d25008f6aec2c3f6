"""Pretrained learners, and learners rebuilt from a configuration."""

import pytest
import torch
from torch import nn

from metalearn_tut import MAML, pretrained, tasks
from metalearn_tut.evaluation.accuracy import evaluate
from metalearn_tut.runs import building as runs
from metalearn_tut.training import checkpoint
from metalearn_tut.training.loop import meta_train

CONFIG = {
    "model": {"name": "Conv4", "in_channels": 1, "ways": 3, "width": 4, "image_size": 16},
    "algorithm": {"name": "maml", "inner_lr": 0.3, "rate_mode": "per_layer"},
}


def sampler():
    x = torch.randint(0, 256, (60, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    return tasks.from_arrays(x.to(torch.uint8), torch.arange(60) % 6).sampler(3, 1, 3)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A trained learner, exported to where pretrained ones are looked for."""
    torch.manual_seed(0)
    learner = runs.build_learner(CONFIG)
    meta_train(
        learner, sampler(), steps=2, tasks_per_step=2, out=tmp_path, config=CONFIG, progress=False
    )
    checkpoint.export(tmp_path, tmp_path / "shipped" / "tiny.safetensors")
    monkeypatch.setattr(pretrained, "_folder", lambda: tmp_path / "shipped")
    return learner


def test_a_pretrained_learner_is_loaded_by_name(shipped):
    assert pretrained.available() == ["tiny"]
    loaded = pretrained.load("tiny")
    for name, p in shipped.meta_parameters().items():
        assert torch.equal(loaded.meta_parameters()[name], p), name
        assert loaded.meta_parameters()[name].requires_grad
    assert torch.equal(
        evaluate(loaded, sampler(), 4).values, evaluate(shipped, sampler(), 4).values
    )


def test_an_unknown_name_lists_those_there_are(shipped):
    with pytest.raises(ValueError, match="no pretrained learner is called 'huge'; available: tiny"):
        pretrained.load("huge")


def test_what_is_shipped_is_small_holds_no_optimizer_and_loads():
    for name in pretrained.available():
        tensors, state = checkpoint.read(pretrained.path(name))
        assert pretrained.path(name).stat().st_size < 500_000, name
        assert all(key.startswith("meta.") for key in tensors), name
        learner = pretrained.load(name)
        ways, size = learner.model.ways, learner.model.image_size
        support = torch.zeros(ways, learner.model.in_channels, size, size, dtype=torch.uint8)
        assert learner.adapt(support, torch.arange(ways))(support).shape == (ways, ways)
        assert state["validation"], name


def test_a_checkpoint_without_configuration_says_what_to_do(tmp_path):
    learner = MAML(nn.Linear(4, 3), inner_lr=0.1)
    checkpoint.save(tmp_path / "last.safetensors", learner)
    with pytest.raises(ValueError, match=r"holds no configuration: build its learner .* then"):
        runs.load_learner(tmp_path)
    checkpoint.load(checkpoint.find(tmp_path), learner)


MODELS = "'Conv4', 'ResNet12', 'ChannelGatedConv4', 'ChannelGatedResNet12'"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"name": "Conv5"}}, f"model must be one of {MODELS}, got 'Conv5'"),
        ({"model": {"ways": 3}}, f"model must be one of {MODELS}, got None"),
        ({"model": {"name": "Conv4", "depth": 3}}, "model 'Conv4' cannot be made: .*'depth'"),
        ({"algorithm": {"name": "sgd"}}, "algorithm must be one of 'maml', .*, got 'sgd'"),
        (
            {"algorithm": {"name": "protonet", "inner_lr": 1}},
            "'protonet' cannot be made: .*inner_lr",
        ),
    ],
)
def test_a_wrong_configuration_is_one_line(change, said):
    with pytest.raises(ValueError, match=said) as caught:
        runs.build_learner({**CONFIG, **change})
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"needs model and algorithm, got \['model'\]"):
        runs.build_learner({"model": CONFIG["model"]})


def test_a_source_is_built_from_its_configuration():
    turned = runs.build_source({"name": "glyphs", "rotations": True}, "test")
    assert turned.n_classes == 4 * tasks.glyphs("test").n_classes
    within = runs.build_source({"name": "glyphs", "within_group": True}, "test")
    assert len(set(within.sampler(3, 1, 1)[0].tags["groups"])) == 1
    with pytest.raises(
        ValueError, match=r"data must be one of 'emoji', 'glyphs', 'omniglot', .*got 'mnist'"
    ):
        runs.build_source({"name": "mnist"}, "test")
    with pytest.raises(ValueError, match=r"data 'glyphs' cannot be made: .*'size'"):
        runs.build_source({"name": "glyphs", "size": 32}, "test")
