"""Pruning in rounds: what happens in one, with every score and learner, stopped and resumed."""

import copy
from itertools import pairwise

import pytest
import torch
from bilevel_cases import conv4, easy_source
from pruning_cases import prune as prune_on

from metalearn_tut import MAML, Reptile, meta_train
from metalearn_tut.learners.maml import anil, meta_sgd
from metalearn_tut.saliency import (
    SCORES,
    Criterion,
    Rounds,
    anp_prune,
    check_pruned,
    full_masks,
    gradient_scores,
    kept_fraction,
    layer_hessians,
    load_round,
    obs_scores,
    prune_layer,
    random_scores,
    select,
)
from metalearn_tut.tasks import TaskBatch, TaskSampler

SAMPLER = easy_source().sampler(ways=3, shots=1, queries=2)
CONVS = [f"blocks.{i}.conv" for i in range(4)]


def learner(make=MAML, steps=2, **settings):
    return make(conv4().float(), 0.1, steps, **settings)


def retrained(learner, number):
    meta_train(learner, SAMPLER, steps=2, tasks_per_step=2, outer_lr=0.01, progress=False)
    return {"seen": number}


def prune(learner, schedule=(0.3, 0.2), retrain=None, **settings):
    return prune_on(learner, SAMPLER, schedule, retrain, **settings)


def state(learner):
    return {n: p.detach().clone() for n, p in learner.meta_parameters().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_a_round_is_scoring_selecting_and_surgery():
    found, by_hand = learner(), learner()
    result = prune(found, (0.3,), first_task=7)
    hessians = layer_hessians(by_hand, SAMPLER.tasks([7, 8]))
    masks = select(obs_scores(by_hand, hessians), full_masks(by_hand), 0.3)
    expected = state(by_hand)
    for layer, hessian in hessians.items():
        names = [f"{layer}.weight", f"{layer}.bias"]
        old, keep = ([t.get(n) for n in names] for t in (expected, masks))
        new = prune_layer(*old, *keep, hessian)
        expected |= {n: t for n, t in zip(names, new, strict=True) if t is not None}
    assert_equal(result.masks, masks)
    assert_equal(state(found), expected)
    assert_equal(found.masks, masks)
    (record,) = result.history
    assert record["round"] == 1 and record["retrained"] == {}
    assert record["kept"] == kept_fraction(masks)
    assert record["condition"] == {n: h.condition for n, h in hessians.items()}
    sizes = {n: p.numel() for n, p in expected.items()}
    gone = sum(int((~m).sum()) for m in masks.values())
    assert record["kept_all"] == pytest.approx(1 - gone / sum(sizes.values()))
    assert record["layers"]["blocks.1.conv"] == pytest.approx(1 - int(0.3 * 144) / 144)


def test_rounds_take_fresh_tasks_and_keep_what_is_gone_away():
    class Watched(TaskSampler):
        asked = ()

        def __getitem__(self, index):
            self.asked = (*self.asked, index)
            return SAMPLER[index]

    sampler, kept = Watched(), []
    pruned = learner()
    result = anp_prune(
        pruned,
        sampler,
        Rounds((0.2, 0.2, 0.1), lambda le, r: kept.append(full_masks(le))),
        Criterion(n_tasks=3, first_task=5),
        progress=False,
    )
    assert sampler.asked == tuple(range(5, 14))
    for before, after in pairwise(kept):
        assert not any((after[n] & ~before[n]).any() for n in before)
    assert [r["round"] for r in result.history] == [1, 2, 3]
    assert result.history[-1]["kept"] == pytest.approx(0.5, abs=0.03)
    check_pruned(pruned.meta_parameters(), result.masks)


def test_chance_ranks_once_for_all_rounds():
    found = prune(learner(), (0.2, 0.2), method="random", seed=3, compensate=False).masks
    scores, masks = random_scores(learner(), seed=3), full_masks(learner())
    for _ in range(2):
        masks = select(scores, masks, 0.2)
    assert_equal(found, masks)
    other = prune(learner(), (0.2, 0.2), method="random", seed=4, compensate=False).masks
    assert any(not torch.equal(other[n], masks[n]) for n in masks)


def test_lobs_is_anp_without_inner_steps_and_not_with_them():
    found = {}
    for name, settings in {
        "anp": {},
        "lobs": {"method": "lobs"},
        "no steps": {"inner_steps": 0},
        "more steps": {"inner_steps": 5},
    }.items():
        pruned = learner()
        found[name] = prune(pruned, **settings), state(pruned)
    assert_equal(found["lobs"][1], found["no steps"][1])
    for name in ("lobs", "more steps"):
        assert not torch.equal(
            found["anp"][1]["blocks.2.conv.weight"], found[name][1]["blocks.2.conv.weight"]
        )


@pytest.mark.slow(quick=3)
@pytest.mark.parametrize("score", SCORES)
def test_every_score_prunes_and_retrains(score):
    pruned = learner()
    result = prune(pruned, retrain=retrained, method=score)
    assert [r["retrained"] for r in result.history] == [{"seen": 1}, {"seen": 2}]
    assert result.history[1]["kept"] == pytest.approx(0.5, abs=0.03)
    check_pruned(pruned.meta_parameters(), result.masks)
    assert result.history[0]["condition"].keys() == {*CONVS, "head"}


@pytest.mark.parametrize("update_hinv", [False, True])
def test_compensation_keeps_the_outputs_of_a_layer_closer(update_hinv):
    """The error of the last convolution's outputs on the scoring tasks themselves."""
    errors, batch = [], SAMPLER.tasks(range(2))
    for settings in ({"compensate": False}, {"update_hinv": update_hinv}):
        pruned = learner(steps=0)
        hessian = layer_hessians(pruned, batch)[CONVS[3]]
        before = state(pruned)[f"{CONVS[3]}.weight"]
        prune(pruned, (0.4,), layers=[CONVS[3]], **settings)
        delta = (state(pruned)[f"{CONVS[3]}.weight"] - before).flatten(1).double()
        errors.append((delta @ hessian.gram * delta).sum().item())
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (anil, {}),
        (meta_sgd, {}),
        (Reptile, {}),
        (MAML, {"zero_head": True}),
        (MAML, {"rate_mode": "per_layer_and_step", "first_order": True, "deferred": True}),
        (MAML, {"engine": "vectorised"}),
    ],
)
def test_relatives_are_pruned_and_retrained(make, settings):
    pruned = learner(make, **settings)
    result = prune(pruned, retrain=retrained)
    metas = pruned.meta_parameters()
    check_pruned(metas, result.masks)
    assert ("head.weight" in result.masks) == ("zero_head" not in settings)
    assert result.history[-1]["kept"] == pytest.approx(0.5, abs=0.03)
    assert 0.5 < result.history[-1]["kept_all"] < 0.65
    task = SAMPLER[0]
    check_pruned(pruned.adapt(task.support_x, task.support_y).params, result.masks)


def test_spared_layers_stay_as_they_are():
    pruned = learner()
    result = prune(pruned, (0.4,), spare=("head", CONVS[0]))
    assert all(result.masks[n].all() for n in ("head.weight", "head.bias", f"{CONVS[0]}.weight"))
    assert result.history[0]["kept"] == pytest.approx(0.6, abs=0.01)
    before, after = state(learner()), state(pruned)
    for name in ("head.weight", "head.bias", f"{CONVS[0]}.weight"):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_one_ranking_keeps_the_share_of_all_weights(allocation):
    result = prune(learner(), (0.4, 0.45), allocation=allocation)
    total = sum(m.numel() for m in result.masks.values())
    gone = int(0.4 * total) + int(0.45 * total)
    assert result.history[-1]["kept"] == pytest.approx(1 - gone / total)
    assert len({round(f, 3) for f in result.history[-1]["layers"].values()}) > 3


def test_a_pruned_learner_is_pruned_further():
    pruned = learner()
    first = prune(pruned, (0.3,))
    second = prune(pruned, (0.2,), first_task=2)
    at_once = learner()
    assert_equal(second.masks, prune(at_once, (0.3, 0.2)).masks)
    assert_equal(state(pruned), state(at_once))
    assert not any((second.masks[n] & ~first.masks[n]).any() for n in first.masks)


# Files


class Stopped(Exception):
    pass


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    ("stop_at", "same_learner", "score"),
    [(1, True, "anp"), (1, False, "random"), (2, False, "anp"), (3, True, "random")],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, stop_at, same_learner, score):
    schedule = (0.2, 0.2, 0.1)
    whole = learner()
    expected = prune(whole, schedule, retrained, method=score)

    def stops(learner, number):
        if number == stop_at:
            retrained(learner, number)
            raise Stopped
        return retrained(learner, number)

    other = learner()
    with pytest.raises(Stopped):
        prune(other, schedule, stops, method=score, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == stop_at  # the start, and every finished round
    other = other if same_learner else learner()
    found = prune(other, schedule, retrained, method=score, out=tmp_path, resume=True)
    assert_equal(found.masks, expected.masks)
    assert_equal(state(other), state(whole))
    assert found.history == expected.history
    again = prune(learner(), schedule, Stopped, method=score, out=tmp_path, resume=True)
    assert again.history == expected.history


def test_the_files_hold_every_round(tmp_path):
    kept = []

    def keep(learner, number):
        retrained(learner, number)
        kept.append((state(learner), copy.deepcopy(learner.masks)))

    result = prune(learner(meta_sgd), (0.2, 0.2), keep, out=tmp_path)
    dense = learner(meta_sgd)
    start = state(dense)
    for number, (weights, masks) in enumerate(kept, start=1):
        loaded = load_round(tmp_path / f"round_{number:02d}.safetensors", dense)
        assert_equal(state(dense), weights)
        assert_equal(loaded.masks, masks)
        assert_equal(dense.masks, masks)
        assert loaded.history == result.history[:number]
    assert load_round(tmp_path / "round_00.safetensors", dense) == ({}, [])
    assert_equal(state(dense), start)
    assert not dense.masks


def test_later_shares_may_be_others_and_earlier_ones_may_not(tmp_path):
    prune(learner(), (0.2, 0.2), out=tmp_path)
    longer = prune(learner(), (0.2, 0.2, 0.1), out=tmp_path, resume=True)
    assert_equal(longer.masks, prune(learner(), (0.2, 0.2, 0.1)).masks)
    with pytest.raises(ValueError, match=r"cannot resume .*: schedule was .* now \[0\.3"):
        prune(learner(), (0.3, 0.2, 0.1), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"criterion\.guard was 1e-05, now 0\.1"):
        prune(learner(), (0.2, 0.2, 0.1), guard=0.1, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"learner\.method was 'MAML', now 'Reptile'"):
        prune(learner(Reptile), (0.2, 0.2, 0.1), out=tmp_path, resume=True)
    with pytest.raises(FileExistsError, match=r"holds a run: go on with it \(resume=True"):
        prune(learner(), (0.2, 0.2), out=tmp_path)


def test_what_a_killed_process_left_is_no_round(tmp_path):
    prune(learner(), (0.2,), out=tmp_path)
    (tmp_path / ".round_02-0123abcd.safetensors").write_bytes(b"half")
    result = prune(learner(), (0.2, 0.2), out=tmp_path, resume=True)
    assert len(result.history) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"round_{i:02d}.safetensors" for i in range(3)
    ]


def test_a_damaged_round_is_named_and_the_learner_left_alone(tmp_path):
    prune(learner(), (0.2,), out=tmp_path)
    path = tmp_path / "round_01.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    fresh = learner()
    with pytest.raises(
        ValueError, match=r"round_01\.safetensors is damaged, or not a pruning round"
    ):
        prune(fresh, (0.2, 0.2), out=tmp_path, resume=True)
    assert_equal(state(fresh), state(learner()))
    with pytest.raises(FileNotFoundError, match="no pruning round at"):
        load_round(tmp_path / "round_07.safetensors", fresh)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": (0.5, 0.6)}, "schedule cannot be followed in round 2: layer .* to give"),
        ({"schedule": (0.5, 0.5)}, "round 2: layer 'blocks.0.conv' would be pruned fully"),
        ({"schedule": (0.5, 0.5), "allocation": "lamp"}, "round 2: the network is to give"),
        ({"schedule": (1.5,)}, r"step must be a share in \[0, 1\), got 1.5"),
        ({"method": "grasp"}, "method must be one of 'anp', 'lobs', .* got 'grasp'"),
        ({"n_tasks": 0}, "n_tasks must be an integer >= 1, got 0"),
        ({"data": "train"}, "data must be one of"),
        ({"layers": ["blocks.0.norm"]}, "only Conv2d and Linear can"),
        ({"spare": ["tail"]}, "spare must be one of .*got 'tail'"),
        ({"guard": -1.0}, "guard must be >= 0"),
        ({"ridge": -1.0}, "ridge must be finite and >= 0"),
    ],
)
def test_bad_arguments_change_nothing(settings, message, tmp_path):
    pruned = learner()
    with pytest.raises(ValueError, match=message):
        prune(pruned, retrain=Stopped, **{"out": tmp_path / "run", **settings})
    assert_equal(state(pruned), state(learner()))
    assert not pruned.masks


def test_a_hessian_that_is_not_finite_stops_before_anything_is_pruned():
    pruned = learner()
    with torch.no_grad():
        pruned.model.blocks[2].norm.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"Hessian of layer '.*' is not finite"):
        prune(pruned)
    assert not pruned.masks


def test_retraining_that_moves_pruned_weights_is_found_out():
    def forgets(learner, number):
        learner.set_masks(None)
        retrained(learner, number)

    with pytest.raises(RuntimeError, match=r"pruned weights of head\.weight are not 0"):
        prune(learner(), retrain=forgets)


def test_tags_are_hidden_and_query_data_can_be_scored_by():
    pruned = learner()
    a = prune(pruned, (0.3,), data="query", patch_stride=2)
    b = prune(learner(), (0.3,))
    assert any(not torch.equal(a.masks[n], b.masks[n]) for n in a.masks)
    batch = SAMPLER.tasks(range(2))
    blind = TaskBatch(batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    c = gradient_scores(learner(), blind), gradient_scores(learner(), batch)
    assert_equal(*c)
