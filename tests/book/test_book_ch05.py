"""Chapter 5's own code: on other inputs than the chapter shows, and with errors planted."""

import copy
import re
from types import SimpleNamespace

import book_tools
import pytest
import torch
import torch.nn.functional as F
from gate_cases import gated, images, labelled, lively, resnet
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut import block_voting as bv
from metalearn_tut import models, tasks
from metalearn_tut.block_voting.networks import blocks
from metalearn_tut.distillation import losses as kd
from metalearn_tut.evaluation import cost

CHAPTER = "05_abp_block_voting"


@pytest.fixture(scope="module")
def chapter():
    return SimpleNamespace(**book_tools.run(CHAPTER))


def some_gated(depth=20, seed=3, **settings):
    """Random gates and norms in double precision: fresh ones mark all images alike."""
    network = lively(gated(depth, seed=seed, **settings), seed)
    for gate in network.gates.values():
        torch.nn.init.normal_(gate.head.weight, std=3.0)
    return network


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
    space = book_tools.run(CHAPTER, train=train)
    mine, theirs = resnet(), resnet()
    space["fit"](mine, 2, 0.05, seed=4, title="x")
    recipe = bv.Recipe(2, 0.05, batch=32, augment=space["shift"])
    bv.train_epochs(theirs, train, recipe, seed=4, title="x", progress=False)
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_right_answers_are_counted_in_evaluation_mode():
    x, y = images(10, dtype=torch.float32), torch.arange(10) % 4
    space, network = book_tools.run(CHAPTER, test=(x, y)), resnet().train()
    found = space["right"](network)
    assert found.dtype == torch.float64 and not network.training
    assert found.mean().item() == pytest.approx(bv.image_accuracy(network, (x, y)))
    assert torch.equal(found == 1, network(x).argmax(1) == y)


@pytest.mark.parametrize("mixing", ["skipnet", "aig"])
def test_mixing_is_the_modules_on_a_block_that_keeps_the_shape(chapter, mixing):
    network = some_gated(mixing=mixing)
    block, x = network.network.blocks[1], images(3, channels=16)
    branch, mask = block.residual(x), torch.rand(3, 1, 1, 1, dtype=torch.float64)
    mine = {"skipnet": chapter.mixed, "aig": chapter.scaled}[mixing](x, branch, mask)
    torch.testing.assert_close(mine, blocks.mix(block, x, mask, mixing))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=7))
def test_votes_and_the_loser_are_the_modules_ties_included(rows):
    space = SPACE
    marks = torch.tensor(rows, dtype=torch.float64) / 4
    votes = space["votes_of"](marks)
    assert torch.equal(votes, bv.count_votes(marks))
    means = marks.mean(0)
    poll = bv.Votes((0, 1, 2), tuple(votes.tolist()), tuple(means.tolist()), len(marks))
    assert space["loser"](votes, means) == poll.ranking()[0]


SPACE = book_tools.run(CHAPTER)


@pytest.mark.parametrize("side", [6, 7, 14])
def test_a_mark_is_that_of_the_modules_gate(chapter, side):
    network = some_gated()
    for gate in network.gates.values():
        x = images(4, side, channels=gate.channels) - 0.3
        torch.testing.assert_close(chapter.mark_of(gate, x), gate(x))


def test_the_gated_network_is_the_modules_with_and_without_prunes(chapter):
    network = some_gated(32)
    for block in (None, 2, 7):
        if block:
            network.prune(block)
        mine, marks = chapter.gated_forward(network, images(3))
        logits, reference = network.run(images(3))
        torch.testing.assert_close(mine, logits)
        torch.testing.assert_close(marks, reference)
        assert not block or (marks[:, block] == 0).all()


@pytest.mark.parametrize("T", [0.5, 1.0, 7.0])
def test_distances_are_the_modules_distillation(chapter, T):
    student, teacher = images(2, 5)[:, 0] * 4
    mine = chapter.distance(student, teacher, T)
    torch.testing.assert_close(mine, kd.kd_loss(student, teacher, T))
    assert chapter.distance(teacher, teacher + 3.0, T).abs() < 1e-12


def test_centered_rows_have_mean_zero(chapter):
    z = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(chapter.centered(z).sum(1), torch.zeros(4).double())
    torch.testing.assert_close(chapter.centered(z).diff(dim=1), z.diff(dim=1))


def test_a_round_is_the_modules_round():
    x, y = labelled(16, 8)
    train = (tasks.as_float(x, torch.float64), y)
    space = book_tools.run(CHAPTER, train=train)
    mine, theirs = some_gated(), some_gated()
    block, named = space["one_round"](mine, 1, epochs=2, weight=0.7)
    recipe = bv.Recipe(2, 0.02, batch=32, augment=space["shift"])
    how = {"kd_weight": 0.7, "temperature": 4.0, "progress": False}
    rounds = bv.vote_and_prune(theirs, train, recipe, n_prune=1, **how)
    assert rounds[0].removed == (block,) and mine.pruned == theirs.pruned == {block}
    assert named == dict(zip(rounds[0].votes.candidates, rounds[0].votes.counts, strict=True))
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


def test_latencies_are_the_best_of_turns(monkeypatch):
    times = iter([3.0, 30.0, 1.0, 50.0, 2.0, 20.0])
    seen = []

    def clock(network, shape, batch, **how):
        seen.append((network, shape, batch))
        return next(times)

    monkeypatch.setattr(cost, "latency", clock)
    assert SPACE["seconds"](("a", "b"), 5) == [1.0, 20.0]
    assert seen == [(n, (3, 14, 14), 5) for n in "ababab"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_tasks_are_of_the_split_that_is_asked_for(chapter, split):
    mine = chapter.glyph_tasks(split, 3)[2]
    right = tasks.glyphs(split).sampler(ways=5, shots=1, queries=3, seed=3)[2]
    assert torch.equal(mine.support_x, right.support_x) and mine.tags == right.tags


# The comparisons with an error planted


def prepared():
    """What the cells that compare find from cells that train: networks that are only random."""
    train, test = (labelled(24, 8)[0].float() / 255, labelled(24, 8)[1]), None
    network = some_gated().float()
    live, marks = copy.deepcopy(network), bv.collect_marks(network, train[0]).double()
    candidates = list(network.candidates)
    found = marks[:, candidates]
    counts = SPACE["votes_of"](found)
    first = candidates[SPACE["loser"](counts, found.mean(0))]
    live.prune(first)
    z_s, z_t = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)).double()
    test = (images(10, dtype=torch.float32), torch.arange(10) % 4)
    space = {"train": train, "test": test, "gated": network, "live": live, "counts": counts}
    return space | {"rounds": [(first, {})], "z_s": z_s, "z_t": z_t}


def run(*cells, plant=None):
    return book_tools.run(CHAPTER, *cells, plant=plant, **prepared())


COMPARING = {
    "SkipNet's mixing": ["mixing-run"],
    "ConvNet-AIG's": ["mixing-run"],
    "m = 0, mixed": ["mixing-run"],
    "m = 0, scaled": ["mixing-run"],
    "m = 1, mixed": ["mixing-run"],
    "m = 1, scaled": ["mixing-run"],
    "slope": ["mixing-run"],
    "mark": ["mark-run"],
    "its slope": ["mark-run"],
    "votes": ["vote-run"],
    "mean marks": ["vote-run"],
    "votes of cubes": ["vote-run"],
    "slope of KD": ["kd-run"],
    "limit": ["kd-run"],
    "MACs of ResNet-32": ["macs-run"],
    "MACs of ResNet-56": ["macs-run"],
    "logits": ["compare-module"],
    "marks": ["compare-module"],
    "short and masked": ["compare-module"],
    "KD": ["compare-module"],
    "live votes": ["compare-votes"],
    "first round": ["compare-votes"],
}


@pytest.mark.slow
def test_every_comparison_passes_and_is_known(capsys):
    printed = book_tools.printed_by(run, COMPARING, capsys)
    assert book_tools.compared(printed) == set(COMPARING)


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("SkipNet's mixing", ("torch.relu(x + branch) + (1 - m) * x",
                              "torch.relu(x + branch) + m * x")),
        ("ConvNet-AIG's", ("return torch.relu(x + m * branch)", "return x + m * branch")),
        ("m = 0, mixed", ("torch.relu(x + branch) + (1 - m) * x",
                          "torch.relu(x + branch) + (0.8 - m) * 5 * x * (m < 0.5) + 0.2 * x"
                          " * (m > 0.5) * (m < 0.9)")),
        ("m = 0, scaled", ("return torch.relu(x + m * branch)",
                           "return torch.relu(x + max(m, 0.1) * branch)")),
        ("m = 1, mixed", ("(1, [1.5, 0.0])", "(1, [1.5, -1.0])")),
        ("m = 1, scaled", ("return torch.relu(x + m * branch)",
                           "return torch.relu(x + min(m, 0.8) * branch)")),
        ("slope", ("exact = torch.relu(x2 + branch2) - x2", "exact = torch.relu(x2 + branch2)")),
        ("slope", ("/ 0.02", "/ 0.01")),
        ("mark", ("g = z.softmax(0)[1]", "g = z.softmax(0)[0]")),
        ("its slope", ("z.grad, [-0.09, 0.09]", "z.grad, [0.0, 0.09]")),
        ("votes", ("marks.flip(1).argmin(1)", "marks.flip(1).argmax(1)")),
        ("votes", ("marks.shape[1] - 1 - marks.flip(1)", "marks.flip(1)")),
        ("mean marks", ("means = [0.75, 0.61, 0.934]", "means = [0.75, 0.71, 0.934]")),
        ("votes of cubes", ("cubes = marks5**3", "cubes = 1 - marks5**3")),
        ("slope of KD", ("return T**2 * (log_t.exp()", "return T * (log_t.exp()")),
        ("slope of KD", ("(log_t.exp() * (log_t - log_s))", "(log_s.exp() * (log_s - log_t))")),
        ("slope of KD", ("(z_t / 4).softmax(1)) / 6", "(z_t / 4).softmax(1))")),
        ("limit", ("square().mean(1).mean() / 2", "square().mean(1).mean()")),
        ("limit", ("return z - z.mean(1, keepdim=True)", "return z")),
        ("MACs of ResNet-32", ("2 * 0.75 * one + 640", "2 * one + 640")),
        ("MACs of ResNet-32", ("(3 * n - 2) * one + 2 * 0.75", "(3 * n - 1) * one + 2 * 0.75")),
        ("MACs of ResNet-56", ("27 * 16 * 32**2 + (3 * n - 2) * one + 2 * 0.75 * one + 640\n"
                               "    counted",
                               "68_862_592\n    counted")),
        ("logits", ("m * block(x) + (1 - m) * block.shortcut(x)",
                    "block.shortcut(x) + m * block.residual(x)")),
        ("logits", ("return gated.network.head(x.mean((2, 3)))",
                    "return gated.network.head(x.amax((2, 3)))")),
        ("marks", ("marks.append(m.flatten())", "marks.append(m.flatten() > 0.5)")),
        ("short and masked", ("0.0 if block in exact.pruned", "0.5 if block in exact.pruned")),
        ("KD", ('nb.compare("KD", distance(z_s, z_t, 4.0)',
                'nb.compare("KD", distance(z_t, z_s, 4.0)')),
        ("live votes", ('nb.compare("live votes", counts, poll',
                        'nb.compare("live votes", counts.flip(0), poll')),
        ("first round", ("[rounds[0][0]], theirs[0].removed", "[3], theirs[0].removed")),
    ],
)  # fmt: skip
def test_a_planted_error_fails_its_comparison(name, plant):
    with pytest.raises(AssertionError, match=f"^{re.escape(name)}:"):
        run(*COMPARING[name], plant=plant)


def test_the_wrong_codes_of_the_chapter_are_wrong_on_other_inputs():
    """Hard marks that all tie elect whoever stands at an end of the list."""
    marks = 0.6 + 0.3 * torch.rand(40, 5, generator=torch.Generator().manual_seed(2)).double()
    hard = (marks > 0.5).double()
    assert SPACE["votes_of"](hard).tolist() == [0, 0, 0, 0, 40]
    assert torch.bincount(hard.argmin(1), minlength=5).tolist() == [40, 0, 0, 0, 0]
    x = images(4, channels=16)
    dead = (models.CifarResNet(20).double().blocks[3].shortcut(x) == 0).all((2, 3)).all(0)
    assert dead.sum() == 16
    z_s, z_t = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    for T in (8.0, 16.0):
        z = z_s.clone().requires_grad_()
        plain = F.kl_div((z / T).log_softmax(1), (z_t / T).softmax(1), reduction="batchmean")
        slope = torch.autograd.grad(plain, z)[0]
        torch.testing.assert_close(slope, ((z_s / T).softmax(1) - (z_t / T).softmax(1)) / T / 3)
