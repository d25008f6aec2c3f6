"""Chapter 8's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from itertools import product
from types import SimpleNamespace

import book_tools
import pytest
import torch
from torch import nn

from metalearn_tut import models, tasks
from metalearn_tut.evaluation import cost
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.protonet import ProtoNet
from metalearn_tut.nb.chapters import chapter08
from metalearn_tut.saliency import full_masks, kept_fraction

CHAPTER = "08_compact_learners"
SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def dense():
    """Narrow and untrained."""
    torch.manual_seed(6)
    network = models.Conv4(1, ways=5, width=6, norm="support")
    learner = MAML(network, 0.1, 2, rate_mode="per_layer_and_step", zero_head=True)
    for i, rate in enumerate(learner.learned_rates.values()):
        rate.data += 0.01 * i
    return learner


@pytest.fixture(scope="module")
def given():
    """What functions and cells find."""
    letters = tasks.glyphs("train").sampler(5, 1, queries=3, seed=3)
    usual = {"N": 5, "SHAPE": SHAPE, "IMAGE": torch.rand(1, *SHAPE), "SEED": 0}
    return {"letters": letters, **usual}


@pytest.fixture(scope="module")
def chapter(given):
    return SimpleNamespace(**book_tools.run(CHAPTER, **given))


@pytest.fixture(scope="module")
def live(chapter, dense):
    return {"masked": chapter.masked(dense), "narrowed": chapter.narrowed(dense)}


# The functions against the modules, or by other means


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (models.Conv4(2, 7, width=5), (2, 28, 28)),
        (models.CifarResNet(20, classes=3), SHAPE),
        (nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(72, 2)),
         (4, 7, 7)),
    ],
)  # fmt: skip
def test_multiply_adds_are_the_modules(chapter, net, shape):
    net = net.eval()
    assert chapter.macs_of(net, torch.rand(1, *shape)) == cost.macs(net, shape)
    assert not any(layer._forward_hooks for layer in net.modules())


def test_bytes_are_those_of_the_numbers(chapter):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert chapter.bytes_of(net) == 4 * (12 + 4 + 4 * 4) + 8  # a counter of eight bytes


def test_networks_for_emoji_begin_alike_and_are_deployed(chapter):
    first, second = chapter.conv4(6), chapter.conv4(6)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    net = chapter.deployed(first)
    both = torch.rand(2, *SHAPE)
    torch.testing.assert_close(net(both)[:1], net(both[:1]))
    assert net.head.out_features == 5


def test_a_bill_is_the_modules(chapter, live, dense):
    task = chapter.letters[0]
    for learner in (dense, *live.values()):
        network = learner.adapt(task.support_x, task.support_y).deploy()
        masks = learner.masks or None
        found, right = chapter.bill(network, masks, 17), cost.measure(network, (1, 28, 28), masks)
        assert (found["weights"], found["ours"]) == (right.parameters, right.size_bytes)
        assert found["plain"] == cost.size_bytes(network) and found["macs"] == 17


def random_rows(seed, n=12):
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(1, 6, (n, 4), generator=g).double()
    keys = ("accuracy", "half", "bytes", "macs")
    return {f"l{i}": dict(zip(keys, v.tolist(), strict=True)) for i, v in enumerate(values)}


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_the_exercise(chapter, seed):
    rows = random_rows(seed)
    accuracy = torch.tensor([r["accuracy"] for r in rows.values()])
    for what in ("bytes", "macs"):
        values = torch.tensor([[r[what]] for r in rows.values()])
        right = chapter.whole_front(values, accuracy).tolist()
        assert [name in chapter.front(rows, what) for name in rows] == right
    for a, b in product(rows.values(), repeat=2):
        two = {"a": a, "b": b}
        assert chapter.front(two, "macs") != []


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_within_the_limits_and_none_there_is_better(chapter, seed):
    rows = random_rows(seed)
    for most in (0, 2, 4, 9):
        best, tied = chapter.choose(rows, bytes=most, macs=3)
        within = {n: r for n, r in rows.items() if r["bytes"] <= most and r["macs"] <= 3}
        if not within:
            assert (best, tied) == (None, [])
            continue
        top = within[best]
        assert top["accuracy"] == max(r["accuracy"] for r in within.values())
        least = top["accuracy"] - top["half"]
        meets = {n for n, r in within.items() if r["accuracy"] + r["half"] >= least}
        assert set(tied) == meets - {best}


def test_a_masked_learner_keeps_a_quarter_and_its_first_layer(live, dense):
    masks = live["masked"].masks
    assert masks["blocks.1.conv.weight"].double().mean() == pytest.approx(0.25, abs=0.05)
    assert masks.get("blocks.0.conv.weight", torch.ones(1)).all()
    assert kept_fraction(masks) < 0.35 and not dense.masks
    assert full_masks(dense).keys() >= masks.keys()


def test_a_narrowed_learner_has_half_of_the_filters_and_all_rates(live, dense):
    narrow = live["narrowed"]
    assert narrow.model.width == (3, 3, 3, 3) and narrow.zero_head
    assert narrow.inner_steps == dense.inner_steps
    for name, rate in dense.learned_rates.items():
        assert torch.equal(narrow.learned_rates[name], rate)
    kept = {tuple(w.flatten().tolist()) for w in narrow.model.blocks[0].conv.weight}
    assert kept < {tuple(w.flatten().tolist()) for w in dense.model.blocks[0].conv.weight}


def test_training_on_changes_a_copy(chapter, live):
    before = copy.deepcopy(live["masked"].model.state_dict())
    more = chapter.trained(live["masked"], 1, 0.003)
    assert all(torch.equal(p, before[n]) for n, p in live["masked"].model.state_dict().items())
    assert not torch.equal(more.model.blocks[1].conv.weight, before["blocks.1.conv.weight"])
    gone = ~live["masked"].masks["blocks.1.conv.weight"]
    assert (more.model.blocks[1].conv.weight[gone] == 0).all()
    proto = ProtoNet(models.Conv4(1, 5, width=4, norm="support"))
    assert isinstance(chapter.trained(proto, 1, 0.01), ProtoNet)


def test_the_solutions_are_the_checked_ones(chapter, capsys):
    chapter08.check_head(chapter.scaled_head)
    chapter08.check_front(chapter.whole_front)
    assert capsys.readouterr().out.count(": correct") == 2
    assert isinstance(chapter.scaled_head(torch.eye(2).double(), torch.ones(2)), nn.Linear)


# The comparisons with an error planted


def run(given, plant=None):
    """The cells that count and compare; sentences are checked where the chapter runs."""
    space = book_tools.run(CHAPTER, "by-hand", "five", plant=plant, **given)
    made = {"ours": 3, "plain": 3, "macs": 3, "accuracy": 0.5}
    rows = {"a": made, "b": {**made, "macs": 2}, "c": {**made, "accuracy": 0.4}}
    space |= {"rows": rows, "costs": ("ours", "plain", "macs"), "answers": {}}
    checks = book_tools.code_cells(CHAPTER)["checked"].partition("\na, z = ")[0]
    exec(checks if plant is None else checks.replace(*plant), space)


NAMES = {
    *(f"{what}, {w}" for what in ("parameters", "MACs", "bytes") for w in (16, 32)),
    *(f"MACs of {name}" for name in ("dense", "masked", "narrow", "residual", "short")),
    *(f"front by {what}" for what in ("ours", "plain", "macs")),
}


def test_every_comparison_passes_and_is_known(given, capsys):
    run(given)
    assert book_tools.compared(capsys.readouterr().out) == NAMES


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("parameters, 16", ("w**2 + 8 * w + 4", "w**2 + 4 * w + 4")),
        ("MACs, 16", ("32**2 * 27 * w + (16**2 + 8**2", "32**2 * 27 * w + (16**2 + 7**2")),
        ("MACs, 16", ("positions = output[0].numel() // len(layer.weight)", "positions = 1")),
        ("bytes, 16", ("4 * (size + 8 * w) + 32", "4 * (size + 8 * w)")),
        ("bytes, 16", ("v.numel() * v.element_size() for v", "4 * v.numel() for v")),
        ("MACs, 16", ("kinds = nn.Conv2d, nn.Linear", "kinds = (nn.Conv2d,)")),
        ("MACs of dense", ("by_module = cost.macs(net, SHAPE)", "by_module = 0")),
        ("front by macs", ("and right_a >= right_b and a != b", "and right_a > right_b")),
        ("front by ours", ("right_a >= right_b and a != b", "right_a >= right_b")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(given, name, plant):
    with pytest.raises(AssertionError, match=rf"^{re.escape(name)}:"):
        run(given, plant=plant)


def test_a_file_that_learns_something_else_fails_its_comparison(given, dense):
    space = book_tools.run(CHAPTER, **given)
    task = given["letters"][0]
    space |= {"task": task, "answers": {"x": torch.zeros(15, 5)}}
    space["pretrained"] = SimpleNamespace(load=lambda name: dense)
    cell = book_tools.code_cells(CHAPTER)["checked"]
    part = cell[cell.index("for name, logits in answers") : cell.index("\na, z = ")]
    right = dense.adapt(task.support_x, task.support_y)(task.query_x)
    exec(part, space | {"answers": {"x": right + 5e-4}})
    with pytest.raises(AssertionError, match=r"^file of x"):
        exec(part, space | {"answers": {"x": right + 0.01}})
