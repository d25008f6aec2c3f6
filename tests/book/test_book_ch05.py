"""Chapter 5's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
from gate_cases import images, labelled, lively, resnet
from torch import nn

from metalearn_tut import block_voting as bv
from metalearn_tut import models, tasks

CHAPTER = "05_abp_block_voting"
GATED = {1: 16, 2: 16, 4: 32, 5: 32, 7: 64, 8: 64}


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


def gated(space, seed=3, classes=4):
    """The chapter's network with random gates and norms: fresh ones mark all images alike."""
    torch.manual_seed(seed)
    network = models.CifarResNet(20, classes)
    for i, channels in GATED.items():
        network.blocks[i] = space["Gated"](network.blocks[i], channels)
        nn.init.normal_(network.blocks[i].gate[9].weight, std=3.0)
    return lively(network.double(), seed)


# The functions against the modules


def test_the_data_are_small_letters_shared_out_by_class(chapter):
    train, test = chapter.characters(classes=4, per_class=5)
    assert train[0].shape == (20, 3, 14, 14) and test[0].shape == (60, 3, 14, 14)
    assert train[1].bincount().tolist() == [5] * 4 and test[1].bincount().tolist() == [15] * 4
    source = tasks.glyphs("train")
    stored = tasks.as_float(torch.tensor(source.images_of(3, range(20))))[:, 0]
    mine = torch.cat([train[0][train[1] == 1], test[0][test[1] == 1]])
    quarters = stored.view(20, 14, 2, 14, 2).mean((2, 4))
    for channel in range(3):
        torch.testing.assert_close(mine[:, channel], quarters)


def test_images_are_moved_by_a_pixel_and_never_mirrored(chapter):
    x = torch.zeros(200, 3, 5, 5)
    x[:, :, 2, 2] = 1
    x[:, :, 2, 3] = 2
    moved = chapter.shift(x, torch.Generator().manual_seed(0))
    places = {tuple(p) for p in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert places == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)}
    ones, twos = ((moved[:, 0] == v).nonzero() for v in (1, 2))
    assert (twos[:, 2] - ones[:, 2] == 1).all() and (twos[:, 1] == ones[:, 1]).all()


def test_fitting_is_the_modules_training_with_shifts():
    train = labelled(12, 8)
    space = book_tools.run(CHAPTER, SEED=4)
    mine, theirs = resnet(), resnet()
    space["fit"](mine, train, 2, 0.05)
    recipe = bv.Recipe(2, 0.05, batch=32, augment=space["shift"])
    bv.train_epochs(theirs, train, recipe, seed=4, progress=False)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_right_answers_are_counted_in_evaluation_mode(chapter):
    x, y = images(10, dtype=torch.float32), torch.arange(10) % 4
    network = resnet().train()
    found = chapter.right(network, x, y)
    assert found.dtype == torch.float64 and not network.training
    assert found.mean().item() == pytest.approx(bv.image_accuracy(network, (x, y)))
    assert torch.equal(found == 1, network(x).argmax(1) == y)


def test_marks_begin_near_nine_tenths_and_a_pruned_block_is_its_shortcut(chapter):
    torch.manual_seed(0)
    block = chapter.Gated(models.CifarResNet(20).blocks[1], 16).eval()
    x = images(5, channels=16, dtype=torch.float32)
    nn.init.zeros_(block.gate[9].weight)
    whole = block(x)
    torch.testing.assert_close(block.mark, torch.full((5,), 0.9))
    torch.testing.assert_close(whole, 0.9 * block.block(x) + 0.1 * x)
    block.pruned = True
    assert torch.equal(block(x), x)


def test_a_vote_counts_the_lowest_marks_of_the_blocks_that_are_left(chapter):
    network, x = gated(vars(chapter)), images(9)
    network.blocks[2].pruned = True
    left, marks, counts = chapter.vote(network.train(), x)
    assert not network.training
    assert left == [network.blocks[i] for i in (1, 4, 5, 7, 8)]
    module = chapter.copied(network)
    torch.testing.assert_close(marks, module.marks(x)[:, [1, 4, 5, 7, 8]])
    assert counts.tolist() == [(marks.argmin(1) == i).sum() for i in range(5)]
    assert counts.tolist() == list(bv.collect_votes(module, x).counts)
    assert torch.equal(chapter.votes_of(marks), bv.count_votes(marks))


class Says(nn.Module):
    """A network that gives the same logits to all images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits


@pytest.mark.parametrize(("T", "weight"), [(0.5, 0.9), (7.0, 0.2)])
def test_healing_is_the_modules_distillation(chapter, T, weight):
    student, teacher = images(2, 5)[:, 0] * 4
    y = torch.arange(len(student)) % 5
    right = bv.distillation(Says(teacher), temperature=T, weight=weight)
    mine = chapter.healing_loss(student, teacher, y, T=T, weight=weight)
    torch.testing.assert_close(mine, right(Says(student), images(1), y)[0])


def test_a_round_is_the_modules_round():
    x, y = labelled(16, 8)
    train = (tasks.as_float(x, torch.float64), y)
    space = book_tools.run(CHAPTER, SEED=0)
    mine = gated(space)
    theirs = space["copied"](mine)
    loser, cast = space["one_round"](mine, train)
    recipe = bv.Recipe(2, 0.02, batch=32, augment=space["shift"])
    how = {"kd_weight": 0.9, "temperature": 4.0, "seed": 0, "progress": False}
    (done,) = bv.vote_and_prune(theirs, train, recipe, n_prune=1, **how)
    (gone,) = done.removed
    assert loser is mine.blocks[gone] and loser.pruned
    assert list(cast.values()) == list(done.votes.counts)
    assert [mine.blocks[i] for i in done.votes.candidates] == list(cast)
    assert sum(b.pruned for b in cast) == 1


def test_a_copy_is_the_same_network(chapter):
    network = gated(vars(chapter))
    network.blocks[7].pruned = True
    with torch.no_grad():
        found, right = network.eval()(images(4)), chapter.copied(network)(images(4))
    torch.testing.assert_close(found, right)


def test_the_solutions_by_other_means(chapter):
    marks = chapter.disagreeing()
    assert chapter.votes_of(marks).argmax() == 0 and marks.mean(0).argmax() == 0
    assert chapter.saving(5, 6)[0] == pytest.approx(0.4111, abs=1e-4)
    assert chapter.saving(5, 13)[0] == chapter.saving(5, 13)[1]


# The comparisons with an error planted


def prepared(space):
    """What the cells that compare find from cells that train: networks that are only random."""
    network = gated(space).float()
    train = tasks.as_float(labelled(24, 8)[0]), labelled(24, 8)[1]
    live = copy.deepcopy(network)
    _, _, counts = space["vote"](network, train[0])
    live.blocks[2].pruned = True
    test = images(10, dtype=torch.float32), torch.arange(10) % 4
    return {"network": network, "live": live, "counts": counts, "train": train, "test": test}


def run(*cells, plant=None):
    """The comparisons of the last cell; its sentences are checked where the chapter runs."""
    space = book_tools.run(CHAPTER, plant=plant)
    space.update(prepared(book_tools.run(CHAPTER)))
    for network in (space["network"], space["live"]):  # made as the chapter is, then planted
        for i in GATED:
            network.blocks[i].__class__ = space["Gated"]
    made = book_tools.code_cells(CHAPTER)["checked"]
    compared = made[made.index("exact, images") : made.index("paper = ")]
    exec(compared if plant is None else compared.replace(*plant), space)
    return space


COMPARING = {
    name: ["checked"]
    for name in ("gated network", "marks", "surgery", "votes", "healing", "mixing")
}


def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("gated network", ("return m * self.block(x) + (1 - m) * x", "return m * self.block(x)")),
        ("gated network", ("if self.pruned:", "if False:")),
        ("marks", ("marks = torch.stack([b.mark for b in left]",
                   "marks = torch.stack([1 - b.mark for b in left]")),
        ("marks", ("self.mark = m.detach().flatten()", "self.mark = m.detach().flatten() ** 2")),
        ("surgery", ('exact.blocks if not getattr(b, "pruned", False)]', "exact.blocks]")),
        ("votes", ("nb.compare(\"votes\", counts,", "nb.compare(\"votes\", counts.flip(0),")),
        ("healing", ("+ weight * T**2 * hint", "+ weight * T * hint")),
        ("healing", ('(student / T).log_softmax(1)', '(student * T).log_softmax(1)')),
        ("mixing", ("0.8 * F.relu(x + branch) + 0.2 * x", "F.relu(x + 0.8 * branch)")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=rf"^{re.escape(name)}(:|\[)"):
        run(*COMPARING[name], plant=plant)
