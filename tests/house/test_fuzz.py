"""Anything goes in: out comes a right result, or an error of ours that names the argument.

Shapes, dtypes, ties, NaN, infinite, empty and huge numbers. An error is clear if it is a ValueError
or TypeError raised by a line of this package, and not one that came out of PyTorch, NumPy or Python
on the way. Where an input is finite, so is the result; a NaN that goes in is refused or comes out.
"""

import linecache
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metalearn_tut import MAML, evaluate, gating, rank_losses, saliency, tasks
from metalearn_tut.block_voting import Votes, block_budget, count_votes
from metalearn_tut.distillation import losses as kd
from metalearn_tut.evaluation import cost
from metalearn_tut.evaluation.intervals import interval
from metalearn_tut.federated import Reply, by_classes, by_dirichlet, problem_of, weighted_average
from metalearn_tut.gating import ChannelGate, ChannelGatedConv4, channel_mask, open_share
from metalearn_tut.models import CifarResNet, Conv4, gumbel_mask, hard_mask
from metalearn_tut.tasks import Mixture, NoisyTasks, Pool, Task, TaskBatch

EXAMPLES = 60 if os.environ.get("METALEARN_TUT_SLOW") == "1" else 15
fuzz = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None)
PACKAGE = str(Path(tasks.__file__).parents[1])
REFUSED = object()


def tried(call, *names):
    """The result, or REFUSED after an error of ours whose message has one of these words."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        trace = error.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        file, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        ours = file.startswith(PACKAGE) and linecache.getline(file, line).strip()
        assert ours and ours.startswith("raise"), f"{error!r} at {file}:{line}"
        assert not names or any(name in str(error) for name in names), f"{error!r} names none"
        return REFUSED


# What goes in

FLOATS = (torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.float16, torch.int64, torch.uint8, torch.bool)
KINDS = ("normal", "ties", "zeros", "huge", "tiny", "nan", "inf", "-inf")


def filled(shape, dtype, kind, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = {"ties": x.round(), "zeros": x * 0, "huge": x * 1e30, "tiny": x * 1e-30}.get(kind, x)
    if kind in ("nan", "inf", "-inf") and x.numel():
        x.view(-1)[seed % x.numel()] = float(kind)
    if dtype in FLOATS:
        return x.to(dtype)
    if dtype == torch.float16:
        return x.clamp(-6e4, 6e4).to(dtype)
    return x.nan_to_num().clamp(-100, 100).abs().to(dtype)


def tensors(*shapes, dtypes=DTYPES, kinds=KINDS):
    """Tensors of these shapes half of the time, and of any shape otherwise."""
    anything = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    shape = st.one_of(*(st.just(s) for s in shapes), anything) if shapes else anything
    draw = (shape, st.sampled_from(dtypes), st.sampled_from(kinds), st.integers(0, 99))
    return st.tuples(*draw).map(lambda drawn: filled(*drawn))


NUMBERS = st.one_of(
    st.integers(-2, 20),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5e-324, 10**30, 2**64]),
)
COUNTS = st.one_of(st.integers(1, 4), NUMBERS, st.none(), st.just("3"))
SEEDS = st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**64, 2**64 - 1, 1.5, None, math.nan]))


def finite(*found):
    return all(bool(torch.isfinite(t.double()).all()) for t in found)


# Tasks


@fuzz
@given(tensors((6, 2)), tensors((6,)), tensors((9, 2)), tensors((9,)))
def test_a_task_fits_together_or_is_refused(support_x, support_y, query_x, query_y):
    names = ("support_x", "support_y", "query_x", "query_y")
    task = tried(lambda: Task(support_x, support_y, query_x, query_y), *names)
    if task is not REFUSED:
        assert len(task.support_x) == len(task.support_y)
        assert task.query_x.shape[1:] == task.support_x.shape[1:]
        ways = tried(lambda: task.ways, "ways")
        assert ways is REFUSED or ways == support_y.max() + 1
        batch = TaskBatch.stack([task, task])
        assert len(batch) == 2 and torch.equal(batch[1].query_x.nan_to_num(), query_x.nan_to_num())


@pytest.mark.parametrize("wrong", [None, 3, [1.0, 2.0], np.zeros((3, 2))])
def test_a_task_is_of_tensors(wrong):
    x, y = torch.zeros(3, 2), torch.zeros(3)
    for place, name in enumerate(("support_x", "support_y", "query_x", "query_y")):
        parts = [x, y, x, y]
        parts[place] = wrong
        assert tried(lambda parts=parts: Task(*parts), name) is REFUSED


ARRAYS = st.one_of(
    tensors((12, 2)),
    tensors((12, 2)).map(lambda x: x.numpy()),
    st.sampled_from(
        [[], [[1.0], [2.0, 3.0]], "images", None, 5, ["a"] * 12, [1 + 2j] * 12, [{}] * 12]
    ),
)
LABELS = st.one_of(
    st.just(list("aabbccddeeff")),
    st.just([0, 1, 2] * 4),
    tensors((12,)),
    st.sampled_from([[], None, [None, "a"] * 6, [1, "a"] * 6, [math.nan] * 12, [(1, 2)] * 12]),
)


@fuzz
@given(ARRAYS, LABELS, COUNTS, COUNTS, COUNTS, SEEDS)
def test_arrays_become_tasks_or_are_refused(x, y, ways, shots, queries, seed):
    source = tried(lambda: tasks.from_arrays(x, y), "x ", "y ", "x[", "y[")
    if source is REFUSED:
        return
    assert sum(map(len, source.rows)) == len(y) == len(source.images)
    names = ("ways", "shots", "queries", "seed")
    sampler = tried(lambda: source.sampler(ways, shots, queries, seed), *names)
    if sampler is not REFUSED:
        task = sampler[3]
        assert task.support_y.bincount().tolist() == [shots] * ways
        assert len(task.query_x) == ways * queries and finite(task.query_x)


SOURCE = tasks.from_arrays(torch.arange(48.0).reshape(24, 2), torch.arange(24) % 4, name="toys")
SAMPLER = SOURCE.sampler(ways=3, shots=1, queries=2)


@fuzz
@given(NUMBERS, NUMBERS, SEEDS)
def test_classes_are_split_or_the_shares_refused(train, validation, seed):
    names = ("train", "seed", "splits")
    parts = tried(lambda: SOURCE.split(train, validation, seed), *names)
    if parts is not REFUSED:
        assert sum(part.n_classes for part in parts) == 4 and all(p.n_classes for p in parts)


@fuzz
@given(COUNTS, COUNTS)
def test_a_batch_is_of_as_many_tasks_as_asked_for(step, count):
    try:
        batch = tried(lambda: SAMPLER.batch(step, count), "step", "tasks_per_step", "index")
    except IndexError as error:  # what a sequence raises
        assert "step" in str(error) or "index" in str(error)
        return
    assert batch is REFUSED or len(batch) == count


@fuzz
@given(NUMBERS, st.sampled_from(["permuted", "random", "loud", None]), SEEDS)
def test_noise_has_a_rate_a_kind_and_a_seed(rate, kind, seed):
    noisy = tried(lambda: NoisyTasks(SAMPLER, rate, kind, seed), "rate", "kind", "seed")
    if noisy is not REFUSED:
        task = noisy[1]
        assert torch.equal(task.query_y, SAMPLER[1].query_y)
        assert set(task.support_y.tolist()) <= {0, 1, 2}


@fuzz
@given(st.lists(NUMBERS, max_size=3), SEEDS)
def test_a_mixture_draws_from_what_has_weight(weights, seed):
    samplers = [SAMPLER] * len(weights)
    mixed = tried(lambda: Mixture(samplers, weights, seed), "weight", "seed")
    if mixed is not REFUSED:
        assert all(weights[mixed[i].tags["component"]] > 0 for i in range(20))


@fuzz
@given(COUNTS)
def test_a_pool_has_a_size(size):
    pool = tried(lambda: Pool(SAMPLER, size), "size")
    if pool is not REFUSED and size < 2**64:
        assert torch.equal(pool[size].query_x, SAMPLER[0].query_x)


INTERVALS = st.one_of(
    st.tuples(NUMBERS, NUMBERS), st.just((-1e308, 1e308)), st.sampled_from([(1.0,), 3.0, None, ""])
)


@fuzz
@given(COUNTS, SEEDS, INTERVALS, INTERVALS, INTERVALS)
def test_waves_are_finite_or_refused(shots, seed, amplitude, phase, x_range):
    settings = {"amplitude": amplitude, "phase": phase, "x_range": x_range}
    waves = tried(
        lambda: tasks.sinusoid(shots, 3, seed=seed, **settings), "shots", "seed", *settings
    )
    if waves is not REFUSED:
        task = waves[2]
        assert finite(task.support_x, task.query_y) and len(task.support_y) == shots


# Losses of tasks

BATCHES = tensors((5,), (1,), (8,))


def aggregates():
    """Each with its own arguments, of which some cannot be."""
    small = st.one_of(st.integers(-1, 6), st.sampled_from([1.5, None, True]))
    numbers = NUMBERS.filter(lambda v: v is not None)
    ranks = {"m": small, "k": small, "burn_in": st.sampled_from([0, 2, -1, 1.0])}
    modes = {"mode": st.sampled_from(["sgda", "sgda_f2", "sg"]), "rate": numbers, "decay": numbers}
    modes["init"] = st.sampled_from(["correct", "authors"])
    modes["sharpness"] = st.one_of(st.none(), numbers)
    guided = {"z_low": numbers, "z_high": numbers, "beta": numbers, "robust": st.booleans()}
    shares = {"drop_hardest": numbers, "drop_easiest": numbers}
    made = {
        rank_losses.RankedRange: ranks,
        rank_losses.RankedRange.fractions: shares,
        rank_losses.ThresholdTracker: ranks | modes,
        rank_losses.LogNormalGuidance: guided | {"every": small},
        rank_losses.LogNormalGuidance.fractions: shares,
        rank_losses.WorstMixture: {"pool": st.one_of(small, st.just(20)), "rate": numbers},
    }
    kinds = [st.tuples(st.just(k), st.fixed_dictionaries({}, optional=v)) for k, v in made.items()]
    return st.one_of(*kinds)


@settings(fuzz, max_examples=250)
@given(aggregates(), st.lists(BATCHES, min_size=1, max_size=3))
def test_an_aggregate_weighs_tasks_or_says_what_is_wrong(made, batches):
    make, given = made
    required = {"m", "k"} if make is rank_losses.ThresholdTracker else set()
    required |= {"m", "k"} if make is rank_losses.RankedRange else set()
    required |= {"pool"} if make is rank_losses.WorstMixture else set()
    given = {**dict.fromkeys(required, 2), **given}
    aggregate = tried(lambda: make(**given), *given, "needs 0 <= m")
    if aggregate is REFUSED:
        return
    for losses in batches:
        said = tried(lambda losses=losses: aggregate.select(losses), "losses", "tasks", "pool")
        if said is not REFUSED:
            assert said.shape == losses.shape and finite(said) and bool((said >= 0).all())
            value = aggregate(losses)
            assert value.ndim == 0 and not value.isnan()
            assert finite(value) or not finite(losses) or losses.dtype == torch.float16


@fuzz
@given(tensors((5,), (1,)))
def test_the_projection_is_a_distribution(v):
    p = tried(lambda: rank_losses.simplex_projection(v), "v ")
    if p is not REFUSED:
        assert p.shape == v.shape and bool((p >= 0).all())
        assert abs(p.double().sum().item() - 1) < 1e-2


@fuzz
@given(tensors((5,)), st.integers(-1, 6), st.integers(-1, 6), st.floats(-3, 3), st.floats(-3, 3))
def test_the_saddle_forms_are_finite_or_refuse_ranks(losses, m, k, low, high):
    for form in (rank_losses.difference_of_tops, rank_losses.nested_hinges):
        value = tried(lambda form=form: form(losses, m, k, low, high), "losses", "m=")
        assert value is REFUSED or value.isfinite() or not finite(losses)


# Distillation


@fuzz
@given(tensors((4, 3)), tensors((4, 3)), st.one_of(st.floats(0.01, 100), NUMBERS))
def test_distillation_is_finite_and_not_negative_or_refused(student, teacher, temperature):
    call = lambda: kd.kd_loss(student, teacher, temperature)  # noqa: E731
    loss = tried(call, "logits", "temperature")
    if loss is not REFUSED:
        assert loss.ndim == 0
        assert (
            loss >= -1e-3
            or not finite(student, teacher)
            or torch.float16
            in (
                student.dtype,
                teacher.dtype,
            )
        )


@fuzz
@given(tensors((4, 3)), tensors((4, 2)), NUMBERS, NUMBERS)
def test_relations_are_compared_or_refused(student, teacher, distance, angle):
    call = lambda: kd.rkd_loss(student, teacher, distance, angle)  # noqa: E731
    loss = tried(call, "features", "distance_weight", "angle_weight")
    if loss is not REFUSED and finite(student, teacher) and distance + angle < 1e6:
        ordinary = max(t.double().abs().max() for t in (student, teacher) if t.numel()) < 1e3
        assert loss >= 0 or not ordinary


# Scores and masks

WEIGHTS = {"0.weight": (3, 4), "0.bias": (3,), "2.weight": (2, 3)}
STEPS = st.one_of(st.floats(0, 1), NUMBERS)
SPARE = st.sampled_from([(), ("0",), ("0", "2"), ("1",), "0", ("0.weight",)])


def mappings(dtypes, kinds=KINDS):
    one = {
        name: tensors(shape, shape, dtypes=dtypes, kinds=kinds) for name, shape in WEIGHTS.items()
    }
    right = {n: st.just(torch.ones(shape, dtype=torch.bool)) for n, shape in WEIGHTS.items()}
    return st.one_of(st.fixed_dictionaries(one), st.fixed_dictionaries(right), st.just({}))


@settings(fuzz, max_examples=150)
@given(
    mappings(FLOATS),
    mappings(DTYPES),
    STEPS,
    st.sampled_from(["uniform", "global", "lamp", ""]),
    SPARE,
)
def test_weights_are_selected_or_what_is_wrong_is_named(scores, masks, step, allocation, spare):
    given = {"allocation": allocation, "spare": spare}
    names = ("scores", "masks", "step", "allocation", "spare", "layer", "network")
    chosen = tried(lambda: saliency.select(scores, masks, step, **given), *names)
    if chosen is not REFUSED:
        assert chosen.keys() == masks.keys()
        assert all(not bool((m & ~masks[n]).any()) for n, m in chosen.items())
        share = saliency.kept_fraction(masks) - saliency.kept_fraction(chosen)
        assert share <= step + 1e-9
    kept = tried(lambda: saliency.kept_fraction(masks), "masks")
    assert kept is REFUSED or 0 <= kept <= 1


@fuzz
@given(NUMBERS, st.one_of(st.floats(0.01, 0.5), NUMBERS), NUMBERS)
def test_a_schedule_leads_to_its_end(keep, step, now):
    rounds = tried(lambda: saliency.schedule_to(keep, step, now), "keep", "step", "now")
    assert rounds is REFUSED or sum(rounds) == pytest.approx(now - keep, abs=1e-6)


def learner(**settings):
    torch.manual_seed(0)
    return MAML(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), 0.1, **settings)


@fuzz
@given(
    tensors((6, 4), dtypes=FLOATS),
    st.one_of(st.just(torch.arange(6) % 3), tensors((6,), dtypes=DTYPES, kinds=("normal", "ties"))),
    st.sampled_from(saliency.SCORES),
    SEEDS,
)
def test_scores_are_finite_and_not_negative_or_the_task_is_refused(x, y, score, seed):
    if x.ndim != 2 or x.shape[-1] != 4:
        return  # that is between the reader and a network of theirs
    batch = tried(lambda: TaskBatch.stack([Task(x, y, x, y)]), "support", "query")
    if batch is REFUSED:
        return
    names = ("support", "query", "score", "seed", "label", "Hessian", "task")
    criterion = saliency.Criterion(method=score, seed=seed)
    call = lambda: saliency.scores_of(learner(), batch, criterion)  # noqa: E731
    found = tried(call, *names)
    if found is not REFUSED:
        assert all(finite(s) and bool((s >= 0).all()) for s in found[0].values())


# Votes


@fuzz
@given(
    tensors((5, 3)),
    st.sampled_from(["argmin", "bottom_q", "threshold", "mean", "random", "all"]),
    COUNTS,
    NUMBERS,
    SEEDS,
)
def test_votes_are_counted_or_what_is_wrong_is_named(marks, rule, q, tau, seed):
    call = lambda: count_votes(marks, rule, q=q, tau=tau, seed=seed)  # noqa: E731
    votes = tried(call, "marks", "rule", "q ", "tau", "seed")
    if votes is not REFUSED:
        images, blocks = marks.shape
        assert votes.shape == (blocks,) and votes.dtype == torch.int64
        total = {"argmin": images, "random": images, "mean": 0}
        expected = q * images if rule == "bottom_q" else total.get(rule, votes.sum())
        assert votes.sum() == expected


@fuzz
@given(NUMBERS)
def test_a_ratio_is_a_budget_or_refused(ratio):
    found = tried(lambda: block_budget(CifarResNet(20), ratio), "ratio")
    assert found is REFUSED or 0 <= found <= 9 * ratio + 1e-6


@fuzz
@given(st.lists(st.integers(0, 5), max_size=4), st.lists(st.integers(0, 5), max_size=4))
def test_a_vote_is_of_as_many_counts_as_candidates(candidates, counts):
    call = lambda: Votes(tuple(candidates), tuple(counts), tuple(map(float, counts)), 9)  # noqa: E731
    votes = tried(call, "candidates")
    if votes is not REFUSED:
        assert sorted(votes.ranking()) == sorted(candidates)


# Gates


@fuzz
@given(tensors((4, 3)), st.one_of(st.none(), tensors((4, 3))), NUMBERS, st.booleans())
def test_channel_masks_are_0_and_1_or_refused(logits, noise, tau, soft):
    mask = tried(lambda: channel_mask(logits, noise, tau=tau, soft=soft), "logits", "noise", "tau")
    if mask is not REFUSED:
        assert mask.shape == logits.shape
        if finite(logits) and (noise is None or finite(noise)):
            assert bool(((mask >= 0) & (mask <= 1)).all())
            assert soft or bool(((mask == 0) | (mask == 1)).all())


@fuzz
@given(st.lists(tensors((4, 3), (4, 8), dtypes=FLOATS), max_size=3))
def test_the_open_share_is_a_share_or_refused(masks):
    share = tried(lambda: open_share(masks), "masks")
    if share is not REFUSED:
        assert not finite(*masks) or share.isfinite()


@fuzz
@given(tensors((4, 1, 1, 1), dtypes=FLOATS, kinds=("normal", "ties", "zeros", "huge")))
def test_block_masks_are_0_and_1(marks):
    for mask in (hard_mask(marks), gumbel_mask(marks.sigmoid())):
        assert bool(((mask == 0) | (mask == 1)).all())


@fuzz
@given(COUNTS, COUNTS, COUNTS)
def test_a_channel_gate_has_channels(inputs, outputs, hidden):
    if any(isinstance(n, int) and n > 100 for n in (inputs, outputs, hidden)):
        return  # so much memory would be asked for
    call = lambda: ChannelGate(inputs, outputs, hidden)  # noqa: E731
    gate = tried(call, "in_channels", "out_channels", "hidden")
    assert gate is REFUSED or gate(torch.rand(2, inputs, 3, 3)).shape == (2, outputs)


# Federated rounds

CURRENT = {"w": torch.zeros(2, 3), "n": torch.tensor(3)}
STATES = st.dictionaries(
    st.sampled_from(["w", "n", "v", 3, None]), tensors((2, 3), ()), max_size=3
) | st.just({"w": torch.ones(2, 3), "n": torch.tensor(5)})


@fuzz
@given(st.lists(st.tuples(STATES, NUMBERS), max_size=3))
def test_states_are_averaged_or_the_one_that_does_not_fit_is_named(clients):
    states, weights = [s for s, _ in clients], [w for _, w in clients]
    mean = tried(lambda: weighted_average(states, weights, CURRENT), "weights", "state ")
    if mean is not REFUSED:
        assert mean["n"] == 3
        counted = [s["w"] for s, w in zip(states, weights, strict=True) if w]
        if counted and finite(*counted):
            w, stacked = mean["w"], torch.stack(counted)
            slack = 1e-5 * stacked.abs().max()
            assert bool((w >= stacked.amin(0) - slack).all() & (w <= stacked.amax(0) + slack).all())


@settings(fuzz, max_examples=150)
@given(
    st.one_of(
        st.builds(Reply, STATES | st.none(), COUNTS | st.just(10**400), NUMBERS, NUMBERS),
        st.sampled_from([None, "late", RuntimeError("x"), 3, {}, (1, 2)]),
        st.just(Reply({"w": torch.eye(3)[:2].to_sparse(), "n": torch.tensor(1)}, 5)),
        st.just(Reply({"w": torch.zeros(2, 3, device="meta"), "n": torch.tensor(1)}, 5)),
    )
)
def test_a_reply_is_averaged_or_its_problem_is_a_sentence(reply):
    problem = problem_of(reply, CURRENT)
    if problem is None:
        mean = weighted_average([reply.state], [float(reply.count)], CURRENT)
        assert finite(mean["w"])
    else:
        assert isinstance(problem, str) and problem


@fuzz
@given(COUNTS, COUNTS, NUMBERS, SEEDS)
def test_classes_are_dealt_out_or_what_is_wrong_is_named(nodes, per_node, unseen, seed):
    if isinstance(nodes, int) and nodes > 100:
        return  # so many nodes would be made
    call = lambda: by_classes(SOURCE, nodes, per_node, unseen=unseen, seed=seed)  # noqa: E731
    found = tried(call, "nodes", "classes_per_node", "unseen", "seed")
    if found is not REFUSED:
        assert len(found.train) + len(found.unseen) == nodes
        assert sum(node.size for node in (*found.train, *found.unseen)) <= 24


@fuzz
@given(COUNTS, st.one_of(st.floats(0, 10), NUMBERS), NUMBERS, SEEDS)
def test_images_are_shared_out_or_what_is_wrong_is_named(nodes, concentration, unseen, seed):
    if isinstance(nodes, int) and nodes > 100:
        return
    call = lambda: by_dirichlet(SOURCE, nodes, concentration, unseen=unseen, seed=seed)  # noqa: E731
    found = tried(call, "node", "concentration", "unseen", "seed")
    if found is not REFUSED:
        assert sum(node.size for node in (*found.train, *found.unseen)) == 24


# What is measured


@fuzz
@given(tensors((5,), (1,)))
def test_an_interval_is_of_numbers(values):
    found = tried(lambda: interval(values), "values")
    if found is not REFUSED and finite(values) and values.double().abs().max() < 1e100:
        mean, half = found
        assert math.isfinite(mean) and half >= 0


@fuzz
@given(COUNTS, COUNTS)
def test_an_evaluation_is_of_as_many_tasks_as_asked_for(n_tasks, steps):
    if (isinstance(n_tasks, int) and n_tasks > 100) or (isinstance(steps, int) and steps > 100):
        return
    sampler = tasks.from_arrays(torch.randn(30, 4), torch.arange(30) % 3).sampler(3, 1, 1)
    call = lambda: evaluate(learner(), sampler, n_tasks, steps=steps)  # noqa: E731
    found = tried(call, "n_tasks", "steps")
    assert found is REFUSED or len(found.values) == n_tasks


SHAPES = st.one_of(
    st.just((1, 16, 16)),
    st.lists(st.one_of(st.integers(-1, 20), st.sampled_from([1.5, None])), max_size=4).map(tuple),
    st.sampled_from([None, 5, "28"]),
)


@fuzz
@given(SHAPES, st.sampled_from(["weight", "nothing", "0.weight"]), tensors((3, 4)))
def test_costs_are_counted_or_what_does_not_fit_is_named(shape, name, mask):
    network = Conv4(in_channels=1, ways=3, width=4, image_size=16)
    for measure in (cost.macs, lambda m, s: cost.latency(m, s, warmup=0, repeats=1)):
        found = tried(lambda measure=measure: measure(network, shape), "input_shape", "x ", "image")
        assert found is REFUSED or found > 0
    linear = nn.Sequential(nn.Linear(4, 3))
    for measure in (cost.parameters, lambda m, masks: cost.macs(m, (4,), masks), cost.size_bytes):
        found = tried(lambda measure=measure: measure(linear, {name: mask}), "mask", "weight")
        assert found is REFUSED or found >= 0


@fuzz
@given(COUNTS, COUNTS, COUNTS)
def test_a_latency_is_of_so_many_runs(batch, warmup, repeats):
    if any(isinstance(n, int) and n > 100 for n in (batch, warmup, repeats)):
        return
    options = {"warmup": warmup, "repeats": repeats}
    call = lambda: cost.latency(nn.Linear(4, 3), (4,), batch, **options)  # noqa: E731
    seconds = tried(call, "batch", "warmup", "repeats")
    assert seconds is REFUSED or seconds > 0


@fuzz
@given(st.lists(tensors((2, 4), dtypes=FLOATS), max_size=5))
def test_active_costs_are_of_masks_that_fit(masks):
    network = ChannelGatedConv4(Conv4(1, ways=3, width=4, image_size=16))
    call = lambda: gating.active_macs(network, masks, (1, 16, 16))  # noqa: E731
    found = tried(call, "masks")
    assert found is REFUSED or found.shape == (len(masks[0]),)
