"""Votes: identity B5 over random marks, ties, ablations, and who may not vote."""

import pytest
import torch
from gate_cases import gated, images, lively
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metalearn_tut.block_voting import Votes, collect_marks, collect_votes, count_votes
from metalearn_tut.block_voting.votes import RULES, lowest, votes_of

fast = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@st.composite
def marks(draw, distinct=True):
    """Marks [M, C] in float64; those of an image are different if ``distinct``."""
    images, blocks = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    grid = st.lists(
        st.integers(0, 1000 if distinct else 2), min_size=blocks, max_size=blocks, unique=distinct
    )
    rows = draw(st.lists(grid, min_size=images, max_size=images))
    return torch.tensor(rows, dtype=torch.float64) / 1000


@fast
@given(marks(distinct=False))
def test_B5_every_image_has_one_vote_for_a_block_of_lowest_mark(found):
    votes, by_hand = count_votes(found), [0] * found.shape[1]
    for row in found.tolist():
        ties = [i for i, mark in enumerate(row) if mark == min(row)]
        by_hand[ties[-1]] += 1  # of equal marks the deeper block
    assert votes.tolist() == by_hand and votes.sum() == len(found)


@fast
@given(marks(), st.floats(-3, 3), st.floats(0.1, 5))
def test_B5_only_the_order_of_an_images_marks_counts(found, shift, scale):
    votes = count_votes(found)
    shifts = shift * torch.arange(1, len(found) + 1)[:, None]  # another for each image
    for changed in (found + shifts, scale * found, found.exp(), found**3, torch.logit(found / 2)):
        assert torch.equal(count_votes(changed), votes)


@fast
@given(marks(distinct=False), st.randoms(use_true_random=False))
def test_B5_the_order_of_the_images_does_not_count(found, random):
    order = list(range(len(found)))
    random.shuffle(order)
    for rule in ("argmin", "bottom_q", "threshold", "mean"):
        assert torch.equal(count_votes(found[order], rule), count_votes(found, rule))


@fast
@given(marks(distinct=False), st.integers(0, 5))
def test_B5_a_block_that_most_images_mark_lowest_wins(found, block):
    assume(block < found.shape[1])
    most = len(found) // 2 + 1
    found[:most, block] = -0.001
    votes = votes_of(found, range(found.shape[1]), "argmin")
    assert votes.ranking()[0] == block


def test_B5_pruned_blocks_get_no_vote():
    model = lively(gated())
    model.prune(4), model.prune(7)
    votes = collect_votes(model, images(20))
    assert votes.candidates == (1, 2, 5, 8)
    assert sum(votes.counts) == votes.ballots == 20


def test_the_vote_differs_from_the_mean_where_a_few_images_are_extreme():
    found = torch.tensor([[0.6, 0.5]] * 3 + [[0.0, 0.9]] * 2)
    assert votes_of(found, (1, 2), "argmin").ranking() == (2, 1)
    assert votes_of(found, (1, 2), "mean").ranking() == (1, 2)


# Rules


@fast
@given(marks(), st.integers(1, 6))
def test_bottom_q_names_the_q_lowest(found, q):
    assume(q <= found.shape[1])
    votes = count_votes(found, "bottom_q", q=q)
    assert votes.sum() == q * len(found)
    by_hand = [0] * found.shape[1]
    for row in found.tolist():
        for i in sorted(range(len(row)), key=row.__getitem__)[:q]:
            by_hand[i] += 1
    assert votes.tolist() == by_hand
    assert torch.equal(lowest(found, q)[:, 0], found.argmin(1))


@fast
@given(marks(distinct=False), st.sampled_from([0.0, 0.0005, 0.001, 0.0015]))
def test_threshold_names_all_below_it(found, tau):
    by_hand = [sum(mark < tau for mark in column) for column in found.T.tolist()]
    assert count_votes(found, "threshold", tau=tau).tolist() == by_hand


def test_threshold_prunes_what_more_than_half_of_the_ballots_name():
    found = torch.tensor([[0.1, 0.1, 0.9], [0.1, 0.9, 0.1], [0.9, 0.1, 0.9], [0.1, 0.9, 0.9]])
    votes = votes_of(found, (1, 4, 7), "threshold")
    assert votes.counts == (3, 2, 1) and votes.to_go(3) == (1,)  # a half is not enough
    assert votes_of(found, (1, 4, 7), "argmin").to_go(3) == (4, 1, 7)


def test_the_mean_rule_ranks_by_mean_marks():
    found = torch.rand(9, 5, generator=torch.Generator().manual_seed(0)).double()
    votes = votes_of(found, range(5), "mean")
    assert not any(votes.counts)
    assert list(votes.ranking()) == found.mean(0).argsort().tolist()


def test_random_votes_are_decided_by_the_seed_and_fair():
    found = torch.rand(300, 4)
    winners = torch.zeros(4)
    for seed in range(400):
        votes = count_votes(found, "random", seed=seed)
        assert votes.sum() == 300
        winners[votes.argmax()] += 1
    assert torch.equal(votes, count_votes(1 - found, "random", seed=399))
    assert (winners / 400 - 0.25).abs().max() < 0.1


def test_ties_go_to_the_lower_mean_mark_and_then_to_the_deeper_block():
    assert Votes((1, 2, 4, 5), (3, 3, 1, 3), (0.5, 0.4, 0.1, 0.5), 10).ranking() == (2, 5, 1, 4)


def test_votes_survive_json():
    votes = votes_of(torch.rand(7, 3), (1, 2, 4), "bottom_q", q=2)
    assert Votes.from_json(votes.as_json()) == votes


# Collecting


def test_soft_marks_are_read_in_evaluation_mode_and_nothing_changes():
    model, x = lively(gated(masking="hard")).train(), images(30)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    marks = collect_marks(model, x)
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    torch.testing.assert_close(marks, model.eval().marks(x).detach())
    assert ((marks[:, 1:] > 0) & (marks[:, 1:] < 1)).all() and not marks.requires_grad
    votes = collect_votes(model, x)
    columns = torch.tensor(votes.candidates)
    assert votes.counts == tuple(count_votes(marks[:, columns]).tolist())
    torch.testing.assert_close(torch.tensor(votes.mean_marks).double(), marks[:, columns].mean(0))


def test_bytes_are_read_as_the_network_reads_them():
    model = gated().eval()
    x = (images(5) * 255).to(torch.uint8)
    expected = model.marks(x.float() / 255).detach()
    torch.testing.assert_close(collect_marks(model, x.numpy()), expected)


def test_several_images_can_share_a_ballot():
    model, x = lively(gated()), images(10)
    votes = collect_votes(model, x, per_ballot=4)
    marks = collect_marks(model, x)[:, list(votes.candidates)]
    groups = torch.stack([marks[:4].mean(0), marks[4:8].mean(0), marks[8:].mean(0)])
    assert votes.ballots == 3 and votes.counts == tuple(count_votes(groups).tolist())


# Bad input


@pytest.mark.parametrize(
    ("vote", "message"),
    [
        (lambda: count_votes(torch.rand(3, 2), "plurality"), f"rule must be one of {RULES[0]!r}"),
        (
            lambda: count_votes(torch.rand(3, 2), "bottom_q", q=3),
            "q must be an integer .*, got 3",
        ),
        (lambda: count_votes(torch.rand(0, 2)), r"at least one image .* got shape \[0, 2\]"),
        (lambda: count_votes(torch.rand(4)), r"marks must be \[M, C\] .* got shape \[4\]"),
        (lambda: count_votes(torch.full((2, 2), torch.nan)), "marks must not be NaN"),
        (lambda: collect_votes(gated(), images(0)), "the voting set is empty"),
        (
            lambda: collect_votes(gated(), images(2), per_ballot=0),
            "per_ballot must be an int",
        ),
    ],
)
def test_bad_input(vote, message):
    with pytest.raises(ValueError, match=message):
        vote()


def test_a_vote_needs_gates_and_a_block_that_is_left():
    model = gated()
    with pytest.raises(TypeError, match="images vote on a BlockGated, got CifarResNet"):
        collect_marks(model.network, images(2))
    for block in model.candidates:
        model.prune(block)
    with pytest.raises(ValueError, match="no block is left to vote on"):
        collect_votes(model, images(2).float())
