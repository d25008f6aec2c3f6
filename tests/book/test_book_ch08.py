"""Chapter 8's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from itertools import product
from types import SimpleNamespace

import book_tools
import pytest
import torch
from PIL import Image
from torch import nn

from metalearn_tut import models, tasks
from metalearn_tut.evaluation import cost, evaluate, interval
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.protonet import ProtoNet
from metalearn_tut.nb.chapters import chapter08
from metalearn_tut.saliency import full_masks, kept_fraction

CHAPTER = "08_compact_learners"
SHAPE = (1, 28, 28)
SIDES = {f"blocks.{i}.conv.weight": side for i, side in enumerate((28, 14, 7, 3))}


def conv4(width):
    torch.manual_seed(width)
    return models.Conv4(1, ways=5, width=width, norm="support")


@pytest.fixture(scope="module")
def dense():
    """Narrow and untrained."""
    settings = {
        "inner_lr": 0.1,
        "inner_steps": 2,
        "rate_mode": "per_layer_and_step",
        "zero_head": True,
    }
    learner = MAML(conv4(6), **settings)
    for i, rate in enumerate(learner.learned_rates.values()):
        rate.data += 0.01 * i
    return learner


@pytest.fixture(scope="module")
def given(dense):
    """What functions and cells find."""
    draw = {"ways": 5, "shots": 1, "queries": 3}
    return {
        "train_tasks": tasks.glyphs("train").sampler(**draw, seed=3),
        "test_tasks": tasks.glyphs("test").sampler(**draw, seed=4),
        "dense": dense,
        "proto": ProtoNet(conv4(4)),
        "SHAPE": SHAPE,
        "SIDES": SIDES,
    }


@pytest.fixture(scope="module")
def chapter(given):
    return SimpleNamespace(**book_tools.run(CHAPTER, **given))


@pytest.fixture(scope="module")
def live(chapter, dense):
    """The table's learners that comparisons look at."""
    sparse, narrow = chapter.masked(dense), chapter.narrowed(dense)
    return {"maml32": dense, "anp75": sparse, "filters": narrow, "proto16": chapter.proto}


# The functions against the modules, or by other means


def test_learners_are_judged_as_by_the_module(chapter, live, given):
    for name in ("filters", "proto16"):
        right = evaluate(live[name], given["test_tasks"], 6).values
        torch.testing.assert_close(chapter.judged(live[name], 6).float(), right)
    task = chapter.glyph_tasks("validation", 4)[0]
    assert (task.ways, len(task.support_x), len(task.query_x)) == (5, 5, 25)


def test_learners_are_timed_in_turns(chapter, given):
    calls = []

    class Watched:
        def __init__(self, name):
            self.name = name

        def adapt(self, x, y):
            calls.append(self.name)
            return given["proto"].adapt(x, y)

    found = chapter.seconds({name: Watched(name) for name in "ab"}, turns=3)
    assert calls == list("ababab")
    assert set(found) == {"a", "b"} and all(s > 0 for both in found.values() for s in both)


def random_rows(seed, n=12):
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(1, 6, (n, 4), generator=g).double()
    keys = ("accuracy", "over_tasks", "bytes", "macs")
    return {f"l{i}": dict(zip(keys, v.tolist(), strict=True)) for i, v in enumerate(values)}


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_the_exercise(chapter, seed):
    rows = random_rows(seed)
    for costs in (["bytes"], ["bytes", "macs"]):
        values = torch.tensor([[r[c] for c in costs] for r in rows.values()])
        accuracy = torch.tensor([r["accuracy"] for r in rows.values()])
        right = chapter.whole_front(values, accuracy).tolist()
        assert [name in chapter.front(rows, *costs) for name in rows] == right
    for a, b in product(rows.values(), repeat=2):
        assert not (chapter.beats(a, b, ["macs"]) and chapter.beats(b, a, ["macs"]))
        assert not chapter.beats(a, a, ["macs"])


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_within_the_limits_and_none_there_is_better(chapter, seed):
    rows = random_rows(seed)
    for row in list(rows.values())[::2]:  # half of them are of several trainings
        row["over_seeds"] = row["over_tasks"] + 1
        assert chapter.spread(row) == row["over_seeds"]
    half = {n: r.get("over_seeds", r["over_tasks"]) for n, r in rows.items()}
    for most in (0, 2, 4, 9):
        best, tied = chapter.choose(rows, bytes=most, macs=3)
        within = {n: r for n, r in rows.items() if r["bytes"] <= most and r["macs"] <= 3}
        if not within:
            assert (best, tied) == (None, [])
            continue
        top = within[best]
        assert top["accuracy"] == max(r["accuracy"] for r in within.values())
        meets = {
            n for n, r in within.items() if r["accuracy"] + half[n] >= top["accuracy"] - half[best]
        }
        assert set(tied) == meets - {best}


def test_a_masked_learner_keeps_a_quarter_and_its_first_layer(chapter, live, dense):
    masks = live["anp75"].masks
    assert masks["blocks.1.conv.weight"].double().mean() == pytest.approx(0.25, abs=0.05)
    assert masks.get("blocks.0.conv.weight", torch.ones(1)).all()
    assert kept_fraction(masks) < 0.35 and not dense.masks
    assert full_masks(dense).keys() >= masks.keys()


def test_a_narrowed_learner_has_half_of_the_filters_and_all_rates(live, dense):
    narrow = live["filters"]
    assert narrow.model.width == (3, 3, 3, 3) and narrow.zero_head
    assert narrow.inner_steps == dense.inner_steps
    for name, rate in dense.learned_rates.items():
        assert torch.equal(narrow.learned_rates[name], rate)
    kept = {tuple(w.flatten().tolist()) for w in narrow.model.blocks[0].conv.weight}
    assert kept < {tuple(w.flatten().tolist()) for w in dense.model.blocks[0].conv.weight}


def test_training_on_changes_a_copy(chapter, live):
    before = copy.deepcopy(live["anp75"].model.state_dict())
    more = chapter.trained_on(live["anp75"], 1)
    assert all(torch.equal(p, before[n]) for n, p in live["anp75"].model.state_dict().items())
    assert not torch.equal(more.model.blocks[1].conv.weight, before["blocks.1.conv.weight"])
    gone = ~live["anp75"].masks["blocks.1.conv.weight"]
    assert (more.model.blocks[1].conv.weight[gone] == 0).all()


def test_rows_are_counted_as_by_the_module(chapter, live):
    values = torch.tensor([0.2, 0.6, 1.0]).double()
    for name, learner in live.items():
        row = chapter.row(learner, values)
        network, masks = chapter.deployed(learner)
        assert bool(masks) == (name == "anp75")
        found = cost.measure(network, SHAPE, masks or None)
        assert (row["parameters"], row["macs"]) == (found.parameters, found.macs)
        assert row["bytes"] == found.size_bytes
        assert (row["accuracy"], row["over_tasks"]) == interval(values)
        kept = chapter.kept_in(network, masks)
        assert kept["blocks.0.conv.weight"] == network.blocks[0].conv.weight.numel()


def test_drawings_have_ink_where_strokes_are_and_shake_by_seed(chapter):
    strokes = [[(4, 14), (24, 14)], [(14, 4), (14, 10)]]
    image = chapter.drawn(strokes)
    assert image.shape == SHAPE and image.dtype == torch.uint8
    assert image[0, 14, 6:22].min() == 255 and image[0, 6, 13:15].min() > 200
    assert image[0, 20:].max() == 0 and image[0, 10, :10].max() == 0
    assert torch.equal(image, chapter.drawn(strokes, seed=1))
    shaken = [chapter.drawn(strokes, 1.0, seed=s) for s in (0, 0, 1)]
    assert torch.equal(shaken[0], shaken[1]) and not torch.equal(shaken[0], shaken[2])


def test_pictures_of_a_folder_come_by_name_with_bright_ink(chapter, tmp_path):
    light = Image.new("RGB", (280, 280), "white")
    light.paste("black", (0, 0, 100, 140))
    dark = Image.new("L", (56, 56))
    dark.paste(255, (0, 0, 10, 56))
    dark.save(tmp_path / "b.png")
    light.save(tmp_path / "a.png")
    clear = Image.new("RGBA", (28, 28))  # as paint programs write a layer
    clear.paste("black", (0, 0, 9, 28))
    clear.save(tmp_path / "c.png")
    images = chapter.from_folder(tmp_path)
    assert images.shape == (3, *SHAPE) and images.dtype == torch.uint8
    assert (images[0, 0, :14, :10] == 255).all() and (images[0, 0, 14:] == 0).all()
    assert (images[1, 0, :, :5] == 255).all() and (images[1, 0, :, 5:] == 0).all()
    assert torch.equal(chapter.pixels_of(dark), images[1])
    assert (images[2, 0, :, :9] == 255).all() and (images[2, 0, :, 9:] == 0).all()


def test_a_linear_head_has_the_probabilities_of_distances(chapter):
    g = torch.Generator().manual_seed(1)
    x, centers = (torch.randn(n, 7, generator=g).double() for n in (9, 3))
    weight, bias = chapter.linear_head(centers)
    right = (-torch.cdist(x, centers).square()).softmax(1)
    torch.testing.assert_close((x @ weight.T + bias).softmax(1), right)


def test_blocks_are_timed_one_by_one_and_left_without_hooks(chapter):
    network = models.deploy(conv4(4), {}, torch.rand(5, *SHAPE))
    slow = network.blocks[2]
    forward = slow.forward
    busy = torch.rand(300, 300)

    def slower(x, *args):
        for _ in range(20):
            busy @ busy
        return forward(x, *args)

    slow.forward = slower
    found = chapter.block_seconds(network, torch.rand(1, *SHAPE), turns=7)
    assert len(found) == 4 and min(found) > 0 and max(found) == found[2]
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in network.blocks)


def test_the_solutions_are_the_checked_ones(chapter, capsys):
    chapter08.check_block(chapter.block_by_hand)
    chapter08.check_head(chapter.scaled_head)
    chapter08.check_front(chapter.whole_front)
    assert capsys.readouterr().out.count(": correct") == 3
    assert isinstance(chapter.scaled_head(torch.eye(2).double(), torch.ones(2)), nn.Linear)


# The comparisons with an error planted


@pytest.fixture(scope="module")
def ready(given, live):
    g = torch.Generator().manual_seed(2)
    network = models.deploy(conv4(4), {}, torch.rand(5, *SHAPE, generator=g))
    network.head.weight.data += torch.randn(5, 4, generator=g)
    return {
        **given,
        "live": live,
        "yours": network,
        "second": torch.randint(0, 256, (5, *SHAPE), generator=g, dtype=torch.uint8),
    }


COSTS, HEAD = ["compare-costs"], ["compare-head"]
NAMES = ("maml32", "anp75", "filters", "proto16")
COMPARING = {
    **{f"{what}, {w}": ["by-hand-run"] for what in ("parameters", "MACs", "bytes")
       for w in (8, 16, 32)},
    "paired interval": ["paired-run"],
    "read again": ["export-run"],
    **{f"{what} of {name}": COSTS for what in ("parameters", "MACs") for name in NAMES},
    **{f"accuracy of {name}": COSTS for name in ("proto16", "filters")},
    "linear head": HEAD,
    "head of deploy": HEAD,
    "its probabilities": HEAD,
}  # fmt: skip


def run(ready, *cells, plant=None):
    """The cells, with the rows and scores that the chapter's own functions, spoiled, give."""
    found = {}
    if "compare-costs" in cells:
        space = book_tools.run(CHAPTER, plant=plant, **ready)
        found["scores"] = {n: space["judged"](learner, 10) for n, learner in ready["live"].items()}
        found["rows"] = {
            n: space["row"](learner, found["scores"][n]) for n, learner in ready["live"].items()
        }
    return book_tools.run(CHAPTER, *cells, plant=plant, **ready, **found)


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(ready, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # without ONNX: quick
    printed = book_tools.printed_by(lambda *cells: run(ready, *cells), COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("parameters, 8", ("size = 9 * w + 27 * w**2 + 8 * w", "size = 9 * w + 27 * w**2 + 4 * w")),
        ("MACs, 8", ("28**2 * 9 * w + (14**2 + 7**2", "28**2 * 9 * w + (14**2 + 6**2")),
        ("bytes, 8", ("4 * (size + 8 * w) + 32", "4 * (size + 8 * w)")),
        ("bytes, 8", ("len(file) - 8 - int", "len(file) - int")),
        ("paired interval", ("gap, half = interval(one - two)", "gap, half = interval(two - one)")),
        ("paired interval", ("(4e-4 / 3) ** 0.5 / 2", "(4e-4 / 4) ** 0.5 / 2")),
        ("read again", ("load_model(again, path)", "path")),
        ("parameters of maml32", ('"parameters": sum(kept.values())',
                                  '"parameters": sum(kept.values()) - kept["head.bias"]')),
        ("MACs of maml32", ("s**2 * kept[n] for n, s in SIDES.items())\n        +",
                            "s * kept[n] for n, s in SIDES.items())\n        +")),
        ("parameters of anp75", ("int(masks[n].sum()) if n in masks else p.numel()",
                                 "p.numel()")),
        ("accuracy of proto16", ("(logits.argmax(1) == task.query_y)",
                                 "(logits.argmin(1) == task.query_y)")),
        ("linear head", ("return 2 * centers, -centers", "return 2 * centers, centers")),
        ("linear head", ("return 2 * centers, -centers", "return centers, -centers")),
        ("head of deploy", ("torch.cat([support, query]), len(support)",
                            "torch.cat([support, query]), len(query)")),
        ("its probabilities", ("mine, network(query).softmax(1)",
                               "mine, network(query + 1).softmax(1)")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(ready, name, plant, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}"):
        run(ready, *COMPARING[name], plant=plant)
