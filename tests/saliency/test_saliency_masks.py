"""Which weights are taken, and that what is taken stays away."""

import math

import pytest
import torch
from bilevel_cases import conv4, easy_source, images, mlp, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut import MAML, Reptile, meta_train
from metalearn_tut.learners.maml import anil, fomaml, meta_sgd
from metalearn_tut.saliency import (
    check_pruned,
    full_masks,
    kept_fraction,
    layer_fractions,
    mask_optimizer,
    schedule_to,
    select,
)
from metalearn_tut.saliency.masks import ALLOCATIONS
from metalearn_tut.saliency.plan import check_schedule

SHAPES = {"a.weight": (3, 5), "a.bias": (3,), "b.weight": (4, 3, 2, 2), "c.weight": (7, 4)}
SIZES = {"a": 18, "b": 48, "c": 28}


def ones():
    return {n: torch.ones(s, dtype=torch.bool) for n, s in SHAPES.items()}


def scores(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(s, generator=generator, dtype=torch.float64) for n, s in SHAPES.items()}


def layer(tensors, name):
    return torch.cat([t.flatten() for n, t in tensors.items() if n.startswith(name + ".")])


# Who gives


def test_a6_every_layer_gives_the_integer_part_of_its_share():
    masks = ones()
    for number, step in enumerate((0.1,) * 8 + (0.05,), start=1):
        before, masks = masks, select(scores(number), masks, step)
        for name, size in SIZES.items():
            old, new = layer(before, name), layer(masks, name)
            assert int(old.sum() - new.sum()) == int(step * size)
            assert not (new & ~old).any()
            taken = layer(scores(number), name)[old & ~new]
            assert taken.numel() == 0 or taken.max() < layer(scores(number), name)[new].min()
    expected = {
        n: (size - 8 * int(0.1 * size) - int(0.05 * size)) / size for n, size in SIZES.items()
    }
    assert layer_fractions(masks) == pytest.approx(expected)


def test_a6_nine_rounds_leave_15_percent_of_large_layers():
    learner, generator = MAML(conv4()), torch.Generator().manual_seed(0)
    big = {"x.weight": torch.ones(40, 50, dtype=torch.bool)}
    for step in (0.1,) * 8 + (0.05,):
        score = {"x.weight": torch.rand(40, 50, generator=generator)}
        big = select(score, big, step)
    assert kept_fraction(big) == pytest.approx(0.15)
    assert kept_fraction(full_masks(learner)) == 1.0


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize(("share", "gone"), [(0.29, 29), (0.57, 57), (0.299, 29)])
def test_a6_shares_are_exact_where_their_floats_are_not(share, gone, allocation):
    """0.29 · 100 is 28.999999999999996."""
    score = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    before = {"x.weight": torch.ones(10, 10, dtype=torch.bool)}
    after = select({"x.weight": score}, before, share, allocation=allocation)
    assert int((~after["x.weight"]).sum()) == gone


def test_a6_a_share_of_0_changes_nothing():
    masks = select(scores(), ones(), 0.3)
    for allocation in ALLOCATIONS:
        after = select(scores(1), masks, 0.0, allocation=allocation)
        assert all(torch.equal(after[n], masks[n]) for n in masks)


def test_spared_layers_give_nothing_and_the_others_their_share():
    masks = select(scores(), ones(), 0.3, spare=("a",))
    share = 0.3 * 94 / 76
    assert [int((~layer(masks, n)).sum()) for n in SIZES] == [0, int(share * 48), int(share * 28)]
    assert 1 - kept_fraction(masks) == pytest.approx(0.3, abs=2 / 94)


def reference_lamp(score):
    """Lee et al. 2021, equation 1, entry by entry."""
    flat = score.flatten().tolist()
    return torch.tensor([s / sum(t for t in flat if t >= s) for s in flat])


@pytest.mark.parametrize("allocation", ["global", "lamp"])
def test_one_ranking_takes_the_smallest_shares_of_each_layers_total(allocation):
    found, given = select(scores(), ones(), 0.5, allocation=allocation), scores()
    shares = {
        n: reference_lamp(layer(given, n)) if allocation == "lamp"
        else layer(given, n) / layer(given, n).sum()
        for n in SIZES
    }  # fmt: skip
    kept = torch.cat([layer(found, n) for n in SIZES])
    ranked = torch.cat(list(shares.values()))
    assert int((~kept).sum()) == int(0.5 * 94)
    assert ranked[~kept].max() < ranked[kept].min()
    again = select(given, found, 0.3, allocation=allocation)
    assert kept_fraction(again) == pytest.approx(1 - (47 + 28) / 94)


def test_a_small_layer_of_equal_scores_is_kept_longer_by_one_ranking():
    equal = {n: torch.ones(s) for n, s in SHAPES.items()}
    found = layer_fractions(select(equal, ones(), 0.5, allocation="global"))
    assert found["a"] == 1.0 and found["b"] < found["c"]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10),
    steps=st.lists(st.floats(0, 0.4), min_size=1, max_size=4),
    allocation=st.sampled_from(ALLOCATIONS),
    spare=st.sets(st.sampled_from(["a", "b"])),
)
def test_masks_only_shrink_by_what_was_asked_and_no_layer_dies(seed, steps, allocation, spare):
    masks = ones()
    where = {"allocation": allocation, "spare": sorted(spare)}
    for number, step in enumerate(steps):
        try:
            after = select(scores(seed + number), masks, step, **where)
        except ValueError as error:
            assert "to give" in str(error) or "pruned fully" in str(error)
            return
        removed = sum(int((masks[n] & ~after[n]).sum()) for n in masks)
        assert not any((after[n] & ~masks[n]).any() for n in masks)
        total = int(step * 94 + 1e-9)
        assert total - 3 <= removed <= total if allocation == "uniform" else removed == total
        for name in SIZES:
            assert after[f"{name}.weight"].any()
            assert name not in spare or layer(after, name).all()
        assert all(m.shape == SHAPES[n] and m.dtype == torch.bool for n, m in after.items())
        masks = after


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": 1.0}, r"step must be a share in \[0, 1\), got 1.0"),
        ({"step": math.nan}, "step must be a share"),
        ({"allocation": "best"}, "allocation must be one of 'uniform', 'global', 'lamp'"),
        ({"spare": ["d"]}, "spare must be one of 'a', 'b', 'c', got 'd'"),
        ({"spare": ["a", "b", "c"]}, "spare names every layer"),
        ({"step": 0.9, "spare": ["b"]}, "layer 'a' is to give 33 weights and has 18 left"),
        ({"step": 0.98, "allocation": "lamp"}, "the network is to give 92 weights and has 91 left"),
        ({"scores": {}}, r"scores\['a.weight'\] must have shape \[3, 5\], got none"),
        ({"scores": {**scores(), "a.bias": torch.tensor([1, math.nan, 1])}}, "must be finite"),
        ({"scores": {**scores(), "a.bias": -torch.ones(3)}}, r"scores\['a.bias'\] must be .*>= 0"),
    ],
)
def test_what_cannot_be_given_is_refused(settings, message):
    settings = {"scores": scores(), "masks": ones(), "step": 0.1, **settings}
    with pytest.raises(ValueError, match=message):
        select(**settings)


def test_a_layer_of_which_biases_alone_would_be_left_is_pruned_fully():
    given = {**scores(), "a.weight": torch.zeros(3, 5)}
    with pytest.raises(ValueError, match="layer 'a' would be pruned fully, with no weight left"):
        select(given, ones(), 0.84)
    masks = select(given, ones(), 0.84, allocation="lamp")
    assert int(masks["a.weight"].sum()) == 1


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_a_schedule_is_refused_before_it_begins(allocation):
    check_schedule(ones(), (0.5, 0.4), allocation=allocation)
    with pytest.raises(ValueError, match=r"schedule cannot be followed in round 3: .* to give"):
        check_schedule(ones(), (0.5, 0.4, 0.3), allocation=allocation)
    with pytest.raises(ValueError, match="in round 2: step must be a share"):
        check_schedule(ones(), (0.5, -0.1), allocation=allocation)


# Staying away


def pruned(learner, share=0.5, seed=0):
    """Half of each prunable layer taken at random, and its masks."""
    generator = torch.Generator().manual_seed(seed)
    masks = full_masks(learner)
    random = {n: torch.rand(m.shape, generator=generator) for n, m in masks.items()}
    masks = select(random, masks, share)
    learner.set_masks(masks)
    return masks


RELATIVES = {
    "MAML": lambda m: MAML(m, 0.1, 2),
    "vectorised": lambda m: MAML(m, 0.1, 2, engine="vectorised"),
    "higher": lambda m: MAML(m, 0.1, 2, engine="higher"),
    "deferred": lambda m: MAML(m, 0.1, 2, deferred=True),
    "first order": lambda m: fomaml(m, 0.1, 2),
    "ANIL": lambda m: anil(m, 0.1, 2),
    "Meta-SGD": lambda m: meta_sgd(m, 0.1, 2),
    "rates per step": lambda m: MAML(m, 0.1, 2, rate_mode="per_layer_and_step"),
    "one rate": lambda m: MAML(m, 0.1, 2, rate_mode="shared"),
    "zero head": lambda m: MAML(m, 0.1, 1, zero_head=True),
    "prox_weight": lambda m: MAML(m, 0.1, 2, prox_weight=0.5, multi_step_loss=0.5),
    "Reptile": lambda m: Reptile(m, 0.1, 2),
}


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("name", RELATIVES)
def test_a7_pruned_weights_stay_0_in_both_loops_of_every_learner(name):
    learner = RELATIVES[name](conv4().float())
    masks = pruned(learner)
    before = {n: p.clone() for n, p in learner.meta_parameters().items()}
    sampler = easy_source().sampler(ways=3, shots=2, queries=2)
    meta_train(learner, sampler, steps=3, tasks_per_step=2, outer_lr=0.01, progress=False)
    metas = learner.meta_parameters()
    check_pruned(metas, masks)
    adapted = learner.adapt(sampler[0].support_x, sampler[0].support_y, steps=3).params
    check_pruned(adapted, masks)
    for n in (n for n in masks if n.endswith("weight")):
        assert (metas[n] != before[n])[masks[n]].any(), n
    assert all(torch.isfinite(p).all() for p in metas.values())


def test_a7_momentum_from_before_the_mask_moves_pruned_weights_unless_it_is_masked():
    for optimizer in (
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    ):
        for forget in (False, True):
            learner, batch = MAML(mlp(), 0.1, 2), vectors()
            metas = learner.meta_parameters()
            opt = optimizer(metas.values())

            def step(opt=opt, learner=learner, batch=batch):
                opt.zero_grad()
                learner.task_losses(batch).losses.mean().backward()
                opt.step()

            step()
            masks = pruned(learner)
            if forget:
                mask_optimizer(opt, metas, masks)
            step(), step()
            if forget:
                check_pruned(metas, masks)
            else:
                with pytest.raises(RuntimeError, match=r"20 pruned weights of 0\.weight are not 0"):
                    check_pruned(metas, masks)


def test_forgetting_leaves_the_memory_of_kept_weights():
    w = torch.randn(6, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.1)
    mask_optimizer(adam, {"w": w}, {"w": torch.ones(6)})  # before the first step: nothing to do
    (w**2).sum().backward()
    adam.step()
    before = {k: v.clone() for k, v in adam.state[w].items()}
    mask = torch.tensor([1, 0, 1, 1, 0, 0]).bool()
    mask_optimizer(adam, {"w": w}, {"w": mask})
    assert torch.equal(adam.state[w]["step"], before["step"])
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(adam.state[w][key], before[key] * mask)


def test_masks_are_set_replaced_and_taken_away():
    learner = MAML(mlp(), 0.4, 1)
    weight = learner.model[0].weight
    before = weight.detach().clone()
    mask = torch.arange(40).view(8, 5) % 2 == 0
    learner.set_masks({"0.weight": mask})
    assert torch.equal(weight.detach(), before * mask)
    assert not torch.signbit(weight[~mask]).any()
    assert list(learner.masks) == ["0.weight"]
    assert torch.equal(full_masks(learner)["0.weight"], mask)
    assert full_masks(learner)["2.weight"].all()
    learner.set_masks({"2.bias": torch.zeros(3)})
    assert list(learner.masks) == ["2.bias"]
    assert not learner.model[2].bias.any()
    learner.set_masks(None)
    assert not learner.masks
    assert full_masks(learner, ["2"])["2.bias"].all()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"3.weight": torch.ones(1)}, "masks names no parameter of the model: 3.weight"),
        ({"0.weight": torch.ones(5, 8)}, r"masks\['0.weight'\] must have shape \[8, 5\]"),
    ],
)
def test_masks_that_do_not_fit_are_refused_and_change_nothing(masks, message):
    learner = MAML(mlp(), 0.4, 1)
    with pytest.raises(ValueError, match=message):
        learner.set_masks({"0.bias": torch.zeros(8), **masks})
    assert learner.model[0].bias.all() and not learner.masks


def test_a_zero_head_has_no_masks():
    learner = MAML(conv4(), 0.4, 1, zero_head=True)
    with pytest.raises(ValueError, match=r"no parameter of the model: head\.weight"):
        learner.set_masks({"head.weight": torch.ones(3, 4)})
    pruned(learner)
    task = images(queries=1)[0]
    assert learner.adapt(task.support_x, task.support_y).params["head.weight"].all()


# Schedules


@settings(max_examples=100, deadline=None)
@given(now=st.floats(0.01, 1), share=st.floats(0.001, 0.999), step=st.floats(0.001, 1))
def test_a_schedule_leads_where_it_should_in_equal_steps(now, share, step):
    keep = share * now
    steps = schedule_to(keep, step, now)
    assert sum(steps) == pytest.approx(now - keep, abs=1e-6)
    assert set(steps[:-1]) <= {step} and all(0 < s <= step + 1e-9 for s in steps)


def test_the_authors_schedule_is_the_usual_one():
    assert schedule_to(0.15) == [0.1] * 8 + [0.05]


@pytest.mark.parametrize("wrong", [{"keep": 0.0}, {"keep": 0.5}, {"keep": 0.1, "step": 0.0}])
def test_schedules_that_lead_nowhere_are_refused(wrong):
    with pytest.raises(ValueError, match=r"keep must be between 0 and 0\.5, what there is, and"):
        schedule_to(**wrong, now=0.5)
