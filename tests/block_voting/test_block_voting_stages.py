"""The three stages: identities B8 and B9, the teacher before each prune, and runs that stop."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from gate_cases import gated, images, labelled, lively, resnet, same_state

from metalearn_tut.block_voting import (
    BlockGated,
    Recipe,
    abp_prune,
    collect_votes,
    epochs,
    finalise,
    image_accuracy,
    rounds,
    stages,
    vote_and_prune,
)
from metalearn_tut.block_voting.stages import check_surgery
from metalearn_tut.models import CifarResNet

SHORT = Recipe(1, lr=0.02)
QUIET = {"progress": False}


def model(seed=0, **settings):
    return gated(seed=seed, gate="alone", **settings)


def test_B9_one_block_goes_a_round_until_the_share_is_gone():
    network, data = model(), labelled()
    done = vote_and_prune(network, data, SHORT, ratio=0.4, **QUIET)
    assert len(done) == 3 and [len(r.removed) for r in done] == [1, 1, 1]
    alive = set(model().candidates)
    for n, r in enumerate(done, start=1):
        assert set(r.votes.candidates) == alive and sum(r.votes.counts) == len(data[0])
        assert r.removed[0] == r.votes.ranking()[0]
        alive -= set(r.removed)
        assert len(alive) == 6 - n
    assert network.pruned == {r.removed[0] for r in done} and set(network.candidates) == alive


def test_B9_an_explicit_number_stands_for_a_ratio():
    network, data = model(), labelled()
    assert len(vote_and_prune(network, data, Recipe(0), n_prune=2, **QUIET)) == 2
    assert len(vote_and_prune(network, data, Recipe(0), n_prune=2, **QUIET)) == 0
    assert len(vote_and_prune(network, data, Recipe(0), n_prune=6, **QUIET)) == 4


def test_B8_nothing_is_pruned_at_ratio_0():
    network = model()
    before = copy.deepcopy(network)
    assert vote_and_prune(network, labelled(), SHORT, ratio=0.0, **QUIET) == []
    assert same_state(network, before)


def test_the_first_vote_is_of_the_network_as_it_was_given():
    network, data = lively(model()), labelled()
    votes = collect_votes(network, data[0])
    (first,) = vote_and_prune(network, data, SHORT, n_prune=1, **QUIET)
    assert first.votes == votes and len(set(votes.counts)) > 1


def test_the_network_before_a_prune_teaches_the_network_after_it(monkeypatch):
    calls = []

    def spy(teacher, temperature, weight):
        calls.append((teacher, copy.deepcopy(teacher), network, temperature, weight))
        return real(teacher, temperature, weight)

    real = rounds.distillation
    monkeypatch.setattr(rounds, "distillation", spy)
    network, data = model(), labelled()
    start, ends = copy.deepcopy(network), []

    def after(*args, **settings):
        history = train(*args, **settings)
        ends.append(copy.deepcopy(network))
        return history

    train = rounds.train_epochs
    monkeypatch.setattr(rounds, "train_epochs", after)
    vote_and_prune(network, data, SHORT, n_prune=2, temperature=3.0, kd_weight=0.5, **QUIET)
    for (teacher, as_it_was, _, *settings), before in zip(calls, [start, ends[0]], strict=True):
        assert settings == [3.0, 0.5] and same_state(teacher, before)
        assert same_state(teacher, as_it_was) and teacher.pruned == before.pruned
    assert [len(teacher.pruned) for teacher, *_ in calls] == [0, 1]


def test_gates_that_are_left_go_on_learning_and_a_pruned_block_does_not():
    network = model()
    before = copy.deepcopy(network.state_dict())
    (only,) = vote_and_prune(network, labelled(), SHORT, n_prune=1, **QUIET)
    (gone,) = only.removed
    for name, p in network.named_parameters():
        unused = name.startswith((f"gates.{gone}.", f"network.blocks.{gone}."))
        assert torch.equal(p, before[name]) == unused, name


def test_a_round_descends_cross_entropy_and_distillation_from_the_network_before():
    network, (x, y) = lively(model()), labelled()
    teacher = copy.deepcopy(network).eval()
    recipe = Recipe(1, lr=0.02, momentum=0.0, weight_decay=0.0)
    settings = {"n_prune": 1, "temperature": 3.0, "kd_weight": 0.5}
    (only,) = vote_and_prune(network, (x, y), recipe, **settings, **QUIET)
    student = copy.deepcopy(teacher).train()
    student.prune(*only.removed)
    x = x.double() / 255
    logits, wanted = student(x), teacher(x).detach()
    p_s, p_t = (logits / 3).log_softmax(1), (wanted / 3).log_softmax(1)
    kl = (p_t.exp() * (p_t - p_s)).sum(1).mean()
    loss = F.cross_entropy(logits, y) + 0.5 * 3.0**2 * kl
    assert 0.5 * 9 * kl > 0.05 * loss
    loss.backward()
    with torch.no_grad():
        for p in student.parameters():
            p -= 0.02 * (0 if p.grad is None else p.grad)
    torch.testing.assert_close(network.state_dict(), student.state_dict())


def test_one_shot_pruning_takes_all_from_one_ballot():
    network, data = lively(model()), labelled()
    votes = collect_votes(network, data[0], "bottom_q", q=3)
    (only,) = vote_and_prune(network, data, SHORT, n_prune=3, per_round=3, rule="bottom_q", **QUIET)
    assert only.votes == votes and only.removed == votes.ranking()[:3]
    by_twos = vote_and_prune(model(), data, Recipe(0), n_prune=5, per_round=2, **QUIET)
    assert [len(r.removed) for r in by_twos] == [2, 2, 1]


def test_threshold_stops_by_itself():
    network, data = model(), labelled()
    assert vote_and_prune(network, data, SHORT, rule="threshold", **QUIET) == []  # all are open
    for block in (2, 7):
        network.gates[str(block)].head.bias.data = torch.tensor([3.0, 0.0])
    done = vote_and_prune(network, data, Recipe(0), rule="threshold", **QUIET)
    assert sorted(block for r in done for block in r.removed) == [2, 7]


def test_random_blocks_are_decided_by_the_seed():
    def removed(seed):
        settings = {"rule": "random", "n_prune": 3, "seed": seed}
        done = vote_and_prune(model(), labelled(), Recipe(0), **settings, **QUIET)
        return tuple(r.removed[0] for r in done)

    assert removed(1) == removed(1)
    assert len({removed(seed) for seed in range(3)}) > 1


# Stage 3


def test_B8_no_gate_is_left_and_the_masks_are_1():
    network, data = model(), labelled()
    network.prune(4), network.prune(1)
    before = copy.deepcopy(network)
    final = finalise(network, data, Recipe(0), held_out=data, **QUIET)
    assert type(final.network) is CifarResNet and same_state(network, before)
    assert not any("gate" in name for name in final.network.state_dict())
    assert [n for n, _ in final.network.blocks.named_children()] == list("0235678")
    x, masks = images().float(), torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1, 1])
    torch.testing.assert_close(final.network(x), network.eval()(x, masks), rtol=1e-4, atol=1e-5)


def test_the_three_accuracies_of_stage_3():
    network = lively(model())
    network.prune(4)
    x = images(60)
    network.network.head.bias.data -= network(x).mean(0).detach()  # or all are of one class
    as_it_is = x, network(x).argmax(1)  # so its accuracy is 1 before the masks jump
    final = finalise(network, as_it_is, Recipe(5, lr=0.05), held_out=as_it_is, **QUIET)
    untrained = finalise(network, as_it_is, Recipe(0), held_out=as_it_is, **QUIET)
    assert final.soft == untrained.soft == 1.0
    assert final.ungated == untrained.ungated == untrained.tuned < 1.0
    assert final.tuned == image_accuracy(final.network, as_it_is) != final.ungated


def test_surgery_that_changes_the_network_is_noticed(monkeypatch):
    network, data = lively(model()), labelled()
    network.prune(4)
    check_surgery(network, finalise(network, data, Recipe(0), **QUIET).network, data)
    monkeypatch.setattr(stages, "remove_blocks", lambda gated, blocks: gated.network)
    with pytest.raises(RuntimeError, match=r"removing blocks changed logits of size .* by"):
        finalise(network, data, Recipe(0), **QUIET)


# All three, stopped anywhere


class Stopped(BaseException):
    pass


NETWORK = model()
RECIPES = (SHORT, Recipe(2, lr=0.02), SHORT)


def run(out, resume=False, **settings):
    fixed = {"n_prune": 2, "recipes": RECIPES, "held_out": labelled(6), **QUIET}
    return abp_prune(NETWORK, labelled(8), out=out, resume=resume, **fixed | settings)


def test_a_stopped_run_goes_on_bitwise_as_if_it_had_not(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    assert same_state(run(None).network, whole.network)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == [
        *("1-gates.safetensors", "2-round-01.safetensors", "2-round-02.safetensors"),
        *("3-final.safetensors", "votes.json"),
    ]
    write, state = epochs.Resume.keep, torch.get_rng_state()
    for n in (0, 2, 3, 5):  # epochs that end: one of gates, two a round, one at the end
        out, left = tmp_path / str(n), iter(range(n))

        def until_killed(*args, left=left):
            if next(left, None) is None:
                raise Stopped
            write(*args)

        monkeypatch.setattr(epochs.Resume, "keep", until_killed)
        with pytest.raises(Stopped):
            run(out)
        monkeypatch.setattr(epochs.Resume, "keep", write)
        resumed = run(out, resume=True)
        assert same_state(resumed.network, whole.network)
        assert resumed.rounds == whole.rounds and resumed.gates == whole.gates
        assert vars(resumed.final) | {"network": 0} == vars(whole.final) | {"network": 0}
        assert (out / "votes.json").read_text() == (tmp_path / "whole/votes.json").read_text()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_votes_of_every_round_are_on_file(tmp_path):
    done = run(tmp_path)
    rows = json.loads((tmp_path / "votes.json").read_text())
    assert len(rows) == 2
    for row, r in zip(rows, done.rounds, strict=True):
        assert row["removed"] == list(r.removed) and row["accuracy"] == r.accuracy
        assert row["candidates"] == list(r.votes.candidates)
        assert row["counts"] == list(r.votes.counts) and sum(row["counts"]) == 8


def test_a_given_network_is_left_as_it_is_and_keeps_its_kind_of_gates():
    network = model(mixing="aig")
    before = copy.deepcopy(network)
    done = abp_prune(network, labelled(8), n_prune=1, recipes=(SHORT,) * 3, **QUIET)
    assert same_state(network, before) and not network.pruned
    assert len(done.network.blocks) == 8 and len(done.gates["loss"]) == 1


def test_new_gates_come_from_the_seed():
    def votes(seed):
        settings = {"n_prune": 1, "recipes": (Recipe(0),) * 3, "seed": seed}
        return abp_prune(resnet(), labelled(8), **settings, **QUIET).rounds[0].votes

    assert votes(3) == votes(3) != votes(4)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), got 1.0"),
        ({"ratio": 0.8}, "ratio=0.8 of 9 blocks is 7, but 6 may be pruned"),
        (
            {"n_prune": 7},
            r"n_prune must be an integer in 0..6 \(blocks .*\), got 7",
        ),
        ({"n_prune": -1}, "n_prune must be an integer in 0..6"),
        ({}, "give ratio or n_prune, got ratio=None and n_prune=None"),
        ({"ratio": 0.2, "n_prune": 1}, "give ratio or n_prune, got ratio=0.2 and n_prune=1"),
        ({"n_prune": 1, "per_round": 0}, "per_round must be an integer >= 1, got 0"),
        ({"n_prune": 1, "rule": "veto"}, "rule must be one of 'argmin', .* got 'veto'"),
        ({"n_prune": 1, "kd_weight": -1.0}, "weight of distillation must be at least 0, got -1.0"),
        ({"n_prune": 1, "temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_arguments_that_cannot_be(settings, message):
    network = model()
    with pytest.raises(ValueError, match=message):
        vote_and_prune(network, labelled(), SHORT, **settings, **QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prune": None, "ratio": 0.9}, "ratio=0.9 of 9 blocks is 8, but 6 may be pruned"),
        ({"rule": "veto"}, "rule must be one of"),
        ({"temperature": -1.0}, "temperature must be positive, got -1.0"),
        ({"held_out": (torch.zeros(1, 3, 8, 8), [9])}, r"labels must be in 0..3"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_nobody_can_vote_on_no_images():
    nothing = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="the voting set is empty"):
        vote_and_prune(model(), nothing, SHORT, n_prune=1, **QUIET)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    with pytest.raises(FileExistsError, match="holds a run: go on with it"):
        run(tmp_path)
    with pytest.raises(
        ValueError, match=r"round-01.safetensors: options.kd_weight was 0.9, now 0.1"
    ):
        run(tmp_path, resume=True, kd_weight=0.1)
    with pytest.raises(ValueError, match=r"1-gates.safetensors: seed was 0, now 1"):
        run(tmp_path, resume=True, seed=1)
    with pytest.raises(ValueError, match=r"cannot resume .*: network\.gates"):
        abp_prune(
            BlockGated(resnet(), "soft2"),
            labelled(8),
            n_prune=2,
            recipes=RECIPES,
            out=tmp_path,
            resume=True,
            **QUIET,
        )
