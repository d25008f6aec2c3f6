"""Noisy tasks, outliers and mixtures: right rates, right tags, and nothing else touched."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.tasks import Mixture, NoisyTasks, WithOutliers

TENSORS = ("support_x", "support_y", "query_x", "query_y")


def episodes(ways=4, shots=2, queries=3, seed=0, first=0.0):
    """Tasks over 12 classes of 8 examples that are numbers from ``first`` on."""
    x = first + np.arange(96.0).reshape(96, 1)
    return tasks.from_arrays(x, np.arange(96) // 8).sampler(ways, shots, queries, seed)


def tensors_equal(a, b, names=TENSORS):
    return all(torch.equal(getattr(a, n), getattr(b, n)) for n in names)


def within_binomial(count, n, p):
    """At most 4 standard deviations from the mean of a binomial count."""
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


WRAPPERS = {
    "permuted": lambda rate, seed=0: NoisyTasks(episodes(), rate, "permuted", seed),
    "random": lambda rate, seed=0: NoisyTasks(episodes(), rate, "random", seed),
    "outlier": lambda rate, seed=0: WithOutliers(episodes(), episodes(first=1000), rate, seed),
    "component": lambda rate, seed=0: Mixture(
        [episodes(), episodes(first=1000)], [1 - rate, rate], seed
    ),
}
TAG = {"permuted": "noisy", "random": "noisy", "outlier": "outlier", "component": "component"}


# What all three promise


@pytest.mark.slow(quick=5)
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.8, 1.0])
def test_the_rate_is_the_rate(name, rate):
    sampler = WRAPPERS[name](rate, seed=3)
    count = sum(bool(sampler[i].tags[TAG[name]]) for i in range(800))
    assert within_binomial(count, 800, rate)


@pytest.mark.parametrize("name", WRAPPERS)
def test_random_access_and_seeds(name):
    a, b, other = WRAPPERS[name](0.5), WRAPPERS[name](0.5), WRAPPERS[name](0.5, seed=1)
    expected = [a[i] for i in range(40)]
    for i in reversed(range(40)):
        assert tensors_equal(b[i], expected[i]) and b[i].tags == expected[i].tags
    tags = [t.tags[TAG[name]] for t in expected]
    assert [other[i].tags[TAG[name]] for i in range(40)] != tags
    assert tensors_equal(a.batch(3, 10)[9], expected[39])


@pytest.mark.parametrize("name", WRAPPERS)
def test_clean_tasks_are_bitwise_the_wrapped_ones_with_their_tags(name):
    sampler, wrapped = WRAPPERS[name](0.5), episodes()
    clean = [i for i in range(60) if not sampler[i].tags[TAG[name]]]
    assert 10 < len(clean) < 50
    for i in clean:
        task, original = sampler[i], wrapped[i]
        assert tensors_equal(task, original)
        assert {k: v for k, v in task.tags.items() if k != TAG[name]} == original.tags


@pytest.mark.parametrize("name", ["permuted", "outlier", "component"])
def test_the_choice_does_not_depend_on_the_tasks_own_draws(name):
    """Under one and the same seed, a wave's amplitude says nothing about its fate."""
    waves = tasks.sinusoid(shots=2, queries=1)
    sampler = {
        "permuted": NoisyTasks(waves, 0.5),
        "outlier": WithOutliers(waves, waves, 0.5),
        "component": Mixture([waves, waves], [1, 1]),
    }[name]
    table, n = Counter(), 1200
    for i in range(n):
        tags = sampler[i].tags
        table[tags["amplitude"] < 2.55, bool(tags[TAG[name]])] += 1
    assert len(table) == 4 and all(within_binomial(c, n, 0.25) for c in table.values())


def test_wrappers_of_different_kinds_choose_independently_under_one_seed():
    both = NoisyTasks(WithOutliers(episodes(), episodes(first=1000), 0.5), 0.5)
    mixed = Mixture([both, both], [1, 1])
    cells = Counter()
    for i in range(1600):
        tags = mixed[i].tags
        cells[tags["noisy"], tags["outlier"], tags["component"]] += 1
    assert len(cells) == 8 and all(within_binomial(c, 1600, 1 / 8) for c in cells.values())


def test_tags_can_be_hidden():
    assert WRAPPERS["permuted"](0.5).batch(0, 4).blind().tags == ()


# Noise


@pytest.mark.parametrize("kind", ["permuted", "random"])
def test_only_support_labels_are_touched(kind):
    sampler, wrapped = NoisyTasks(episodes(), 1.0, kind), episodes()
    for i in range(50):
        assert tensors_equal(sampler[i], wrapped[i], ("support_x", "query_x", "query_y"))
        assert sampler[i].support_y.dtype == torch.int64
        assert sampler[i].tags["noisy"] is True


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (2, 2), (5, 1), (3, 4)])
def test_permuted_keeps_the_labels_but_never_their_order(ways, shots):
    clean = episodes(ways, shots)
    for i in range(100):
        noisy = NoisyTasks(clean, 1.0)[i].support_y
        assert not torch.equal(noisy, clean[i].support_y)
        assert torch.equal(noisy.sort().values, clean[i].support_y)


def test_permuted_is_uniform_over_the_permutations_that_change_something():
    sampler, n = NoisyTasks(episodes(ways=3, shots=1), 1.0), 3000
    counts = Counter(tuple(sampler[i].support_y.tolist()) for i in range(n))
    assert len(counts) == 5  # 3! - 1
    assert all(within_binomial(c, n, 1 / 5) for c in counts.values())


def test_random_labels_are_uniform_and_independent_of_the_true_ones():
    sampler, n = NoisyTasks(episodes(ways=3, shots=1), 1.0, "random"), 3000
    counts = Counter(tuple(sampler[i].support_y.tolist()) for i in range(n))
    assert len(counts) == 27  # the true labels 0, 1, 2 are one of them
    assert all(within_binomial(c, n, 1 / 27) for c in counts.values())


def test_random_noise_on_permuted_noise_knows_all_ways():
    """The ways are those of the clean query set, even if a class vanished from the support."""
    inner = NoisyTasks(episodes(ways=3, shots=1), 1.0, "random")
    outer = NoisyTasks(inner, 1.0, "random", seed=1)
    counts = Counter(label for i in range(600) for label in outer[i].support_y.tolist())
    assert all(within_binomial(counts[label], 1800, 1 / 3) for label in range(3))


def test_a_task_made_noisy_by_an_inner_wrapper_stays_tagged():
    inner = NoisyTasks(episodes(), 0.5)
    outer = NoisyTasks(inner, 0.5, seed=1)
    noisy = [outer[i].tags["noisy"] for i in range(400)]
    assert all(outer[i].tags["noisy"] for i in range(400) if inner[i].tags["noisy"])
    assert within_binomial(sum(noisy), 400, 0.75)
    nested = WithOutliers(WithOutliers(episodes(), episodes(), 0.5), episodes(), 0.5, seed=1)
    assert within_binomial(sum(nested[i].tags["outlier"] for i in range(400)), 400, 0.75)


def test_permuted_targets_of_a_regression():
    waves = tasks.sinusoid(shots=6)
    for i in range(20):
        noisy, clean = NoisyTasks(waves, 1.0)[i], waves[i]
        assert not torch.equal(noisy.support_y, clean.support_y)
        assert torch.equal(noisy.support_y.sort(0).values, clean.support_y.sort(0).values)


# Outliers and mixtures


def test_outliers_are_the_other_samplers_tasks():
    mixed, other = (
        WithOutliers(episodes(), episodes(seed=8, first=1000), 0.4),
        episodes(seed=8, first=1000),
    )
    for i in range(60):
        assert mixed[i].tags["outlier"] == bool(mixed[i].query_x.min() >= 1000)
        if mixed[i].tags["outlier"]:
            assert tensors_equal(mixed[i], other[i])


def test_mixture_shares_and_components():
    parts = [episodes(first=1000 * j) for j in range(4)]
    mixed, n = Mixture(parts, [2, 0, 5, 3], seed=2), 2000
    counts = Counter()
    for i in range(n):
        task = mixed[i]
        component = task.tags["component"]
        assert tensors_equal(task, parts[component][i])
        counts[component] += 1
    assert counts[1] == 0
    for component, share in ((0, 0.2), (2, 0.5), (3, 0.3)):
        assert within_binomial(counts[component], n, share)


def test_weights_have_no_scale():
    parts = [episodes(), episodes(first=1000)]
    a, b = Mixture(parts, [0.25, 0.75]), Mixture(parts, [1, 3])
    assert [a[i].tags["component"] for i in range(50)] == [
        b[i].tags["component"] for i in range(50)
    ]


def test_easy_waves_with_a_few_hard_ones():
    """The imbalance of Collins et al. 2020 (TR-MAML): 95 % flat waves, 5 % steep ones."""
    easy, hard = tasks.sinusoid(amplitude=(0.1, 1.05)), tasks.sinusoid(amplitude=(4.95, 5.0))
    mixed = Mixture([easy, hard], [0.95, 0.05])
    for i in range(200):
        tags = mixed[i].tags
        assert (tags["amplitude"] > 4.9) == (tags["component"] == 1)


# Bad input


@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_a_rate_is_a_probability(rate):
    with pytest.raises(ValueError, match=r"rate must be a probability in 0\.\.1, got"):
        NoisyTasks(episodes(), rate)
    with pytest.raises(ValueError, match=r"rate must be a probability in 0\.\.1, got"):
        WithOutliers(episodes(), episodes(), rate)


def test_noise_that_cannot_be():
    with pytest.raises(ValueError, match="kind must be one of 'permuted', 'random', got 'flip'"):
        NoisyTasks(episodes(), 0.1, "flip")
    with pytest.raises(ValueError, match="two different support labels"):
        NoisyTasks(episodes(ways=1, shots=5), 0.1)
    with pytest.raises(ValueError, match=r"integer labels, got torch\.float32; use 'permuted'"):
        NoisyTasks(tasks.sinusoid(), 0.1, "random")
    with pytest.raises(ValueError, match="seed must be"):
        NoisyTasks(episodes(), 0.1, seed=-1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "one weight per sampler, at least one, got 1 weights for 2 samplers"),
        ([2, -1], r"weights must be .* got \[2, -1\]"),
        ([0, 0], "not all 0"),
        ([1, math.inf], "finite"),
        ([math.nan, 1], "finite"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture([episodes(), episodes()], weights)
    with pytest.raises(ValueError, match="got 0 weights for 0 samplers"):
        Mixture([], [])


def test_tasks_of_different_shape_or_dtype_are_refused_at_construction():
    for build in (lambda a, b: WithOutliers(a, b, 0.1), lambda a, b: Mixture([a, b], [1, 1])):
        with pytest.raises(ValueError, match=r"task 0 .* cannot share a batch: .* support_x"):
            build(episodes(), episodes(shots=3))
        with pytest.raises(ValueError, match=r"float32 \[8, 1\] and torch\.float64 \[8, 1\]"):
            build(episodes(), tasks.sinusoid(8, 12))


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_index_that_names_no_task(name):
    with pytest.raises(IndexError, match="task index must be"):
        WRAPPERS[name](0.5)[-1]
