"""Each kind of learner, rate, network and norm as a file that learns, whole and in halves."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from metalearn_tut import MAML, ProtoNet, pretrained
from metalearn_tut.block_voting import BlockGatedResNet12, remove_blocks
from metalearn_tut.deployment import export_learner
from metalearn_tut.distillation import MetaDistiller
from metalearn_tut.gating import ChannelGatedConv4, ChannelGatedResNet12, MetaGater
from metalearn_tut.learners import Reptile, anil, fomaml, meta_sgd
from metalearn_tut.models import CifarResNet, Conv4, ResNet12
from metalearn_tut.saliency import remove_filters

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
        reason="the extra deploy is not installed",
    ),
]


def conv4(norm="support", width=8):
    network = Conv4(1, 5, width=width, norm=norm, image_size=16)
    nn.init.normal_(network.head.weight, std=0.3)
    return network


def resnet12(norm="support"):
    network = ResNet12(5, (4, 6, 6, 8), in_channels=1, norm=norm)
    nn.init.normal_(network.head.weight, std=0.3)
    return network


def maml(norm="support", **settings):
    return MAML(conv4(norm), 0.1, 2, **settings)


def masked():
    learner = maml()
    convs = {n: p for n, p in learner.model.named_parameters() if "conv" in n}
    learner.set_masks({n: torch.rand_like(p) < 0.3 for n, p in convs.items()})
    return learner


def narrow():
    kept = {"blocks.0.conv": torch.arange(8) < 5, "blocks.2.conv": torch.arange(8) > 2}
    return MAML(remove_filters(conv4(), kept), 0.1, 2)


def pruned_blocks():
    gated = BlockGatedResNet12(resnet12())
    gated.prune(2)
    return MAML(gated.ungated(), 0.05, 1)


def distiller(**settings):
    teacher = MAML(conv4(width=12), 0.1, 2)
    return MetaDistiller(teacher, MAML(conv4(), 0.05, 2), **settings)


def gater(network):
    """Its gates are about half open, and not for all images the same."""
    for gate in network.gates:
        nn.init.normal_(gate.inner.weight, std=2.0)
        nn.init.normal_(gate.outer.weight)
    return MetaGater(network, 0.1)


LEARNERS = {
    "support": maml,
    "batch": lambda: maml("batch"),
    "group": lambda: maml("group"),
    "no norm": lambda: maml("none"),
    "widths": lambda: MAML(conv4(width=(4, 6, 10, 7)), 0.1, 1),
    "fomaml": lambda: fomaml(conv4(), 0.1, 2),
    "anil": lambda: anil(conv4(), 0.1, 2),
    "reptile": lambda: Reptile(conv4(), 0.1, 2),
    "meta-sgd": lambda: meta_sgd(conv4(), 0.05, 2),
    "one rate": lambda: maml(rate_mode="shared"),
    "rates of layers": lambda: maml(rate_mode="per_layer"),
    "rates of steps": lambda: maml(rate_mode="per_layer_and_step", zero_head=True),
    "pulled": lambda: maml(prox_weight=0.5),
    "prototypes": lambda: ProtoNet(conv4()),
    "prototypes of groups": lambda: ProtoNet(conv4("group")),
    "masked": masked,
    "narrow": narrow,
    "residual": lambda: MAML(resnet12(), 0.05, 2),
    # One step: after two, PyTorch's own float32 and float64 differ by 2e-3.
    "residual groups": lambda: MAML(resnet12("group"), 0.05, 1),
    "pruned blocks": pruned_blocks,
    "shortened": lambda: MAML(remove_blocks(CifarResNet(20, 5), [1, 2, 5]), 0.05, 1),
    "taught": distiller,
    "taught in turn": lambda: distiller(order="interleaved", rkd_weight=0.02),
    "untaught student": lambda: distiller().student,
    "gates": lambda: gater(ChannelGatedConv4(conv4(), open_bias=0.0)),
    "residual gates": lambda: gater(ChannelGatedResNet12(resnet12(), open_bias=0.0)),
}


def shape_of(name):
    return (3, 16, 16) if name == "shortened" else (1, 16, 16)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_learns_in_the_file_what_it_learns_in_pytorch(tmp_path, name):
    torch.manual_seed(0)
    learner, file, shape = LEARNERS[name](), tmp_path / "learns.onnx", shape_of(name)
    # An error shows with any ten tasks; in one of them two pixels of a pool may tie by chance.
    tries = (export_learner(learner, file, shape, seed=seed) for seed in range(2))
    assert any(exported.difference <= 1e-4 for exported in tries)


@pytest.mark.parametrize("name", ["rates of steps", "prototypes", "masked", "taught", "gates"])
def test_two_halves_learn_the_same(tmp_path, name):
    torch.manual_seed(0)
    paths = tmp_path / "adapt.onnx", tmp_path / "classify.onnx"
    exported = export_learner(LEARNERS[name](), paths[0], shape_of(name), classify=paths[1])
    assert exported.difference <= 1e-4


def test_the_gates_of_more_images_than_there_is_noise_for_are_not_made_up(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    learner, path = LEARNERS["gates"](), tmp_path / "gates.onnx"
    export_learner(learner, path, (1, 16, 16), max_shots=2)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows, answered in ((10, True), (11, False)):
        x, y = torch.rand(rows, 1, 16, 16), torch.arange(rows) % 5
        given = {"support_x": x.numpy(), "support_y": y.numpy(), "query_x": x[:2].numpy()}
        logits = torch.from_numpy(session.run(None, given)[0])
        assert logits.isfinite().all() if answered else logits.isnan().all()


@pytest.mark.parametrize(
    ("name", "size"), [("glyphs_5way_1shot", 200_000), ("glyphs_5way_1shot_small", 40_000)]
)
def test_the_learners_of_the_package_are_small_files(tmp_path, name, size):
    exported = export_learner(pretrained.load(name), tmp_path / "learns.onnx", (1, 28, 28))
    assert exported.sizes[0] <= size
