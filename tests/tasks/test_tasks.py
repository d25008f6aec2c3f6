"""Tasks as values, random access, and sources of classes."""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn_tut import tasks

TENSORS = ("support_x", "support_y", "query_x", "query_y")


def numbered(classes=20, per_class=10, **kwargs):
    """A source whose examples are their own row numbers: row r belongs to class r // per_class."""
    n = classes * per_class
    return tasks.from_arrays(
        np.arange(n, dtype=np.float64).reshape(n, 1), np.arange(n) // per_class, **kwargs
    )


def digest(task):
    """A fingerprint of a task's four tensors, dtypes included."""
    parts = [getattr(task, name) for name in TENSORS]
    data = b"".join(str(p.dtype).encode() + p.numpy().tobytes() for p in parts)
    return hashlib.sha256(data).hexdigest()


def same(a, b):
    return digest(a) == digest(b) and a.tags == b.tags


# Random access


def test_golden_tasks():
    """Written down once: another NumPy, machine or refactoring may not change them."""
    sampler = numbered().sampler(ways=3, shots=1, queries=2, seed=0)
    golden = {
        0: ([183, 136, 142], [184, 189, 131, 134, 149, 148]),
        1: ([17, 89, 100], [19, 16, 85, 80, 109, 107]),
        1_000_000: ([122, 74, 43], [121, 129, 76, 73, 42, 45]),
    }
    for index, (support, query) in golden.items():
        assert sampler[index].support_x.flatten().tolist() == support
        assert sampler[index].query_x.flatten().tolist() == query
    other = numbered().sampler(ways=3, shots=1, queries=2, seed=2**64 - 1)
    assert other[5].support_x.flatten().tolist() == [161, 195, 46]


def test_a_task_does_not_depend_on_what_was_asked_before():
    forward = numbered().sampler(4, 2, 3, seed=9)
    backward = numbered().sampler(4, 2, 3, seed=9)
    expected = [forward[i] for i in range(30)]
    for i in reversed(range(30)):
        assert same(backward[i], expected[i])
    assert same(forward[np.int64(3)], expected[3])


def test_another_process_draws_the_same_tasks():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_tasks import digest, numbered\n"
        "s = numbered().sampler(5, 1, 4, seed=3)\n"
        "print(*[digest(s[i]) for i in (40, 2)])"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    sampler = numbered().sampler(5, 1, 4, seed=3)
    assert out.stdout.split() == [digest(sampler[40]), digest(sampler[2])]


def test_seeds_name_different_lists():
    a, b = (numbered().sampler(5, 1, 4, seed=s) for s in (0, 1))
    assert not any(same(a[i], b[i]) for i in range(20))


def test_iteration_is_the_list_from_its_start():
    sampler = numbered().sampler(2, 1, 1)
    for i, task in zip(range(5), sampler, strict=False):
        assert same(task, sampler[i])


# What an episode holds


def test_shapes_labels_and_dtypes():
    task = numbered().sampler(ways=4, shots=2, queries=3)[0]
    assert task.support_x.shape == (8, 1) and task.query_x.shape == (12, 1)
    assert task.support_y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert task.query_y.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert task.support_y.dtype == torch.int64 and task.support_x.dtype == torch.float64
    assert task.ways == 4 and task.tags["index"] == 0


@pytest.mark.parametrize(("ways", "shots", "queries"), [(5, 1, 3), (20, 4, 6), (1, 1, 1)])
def test_classes_are_distinct_and_no_image_is_used_twice(ways, shots, queries):
    sampler = numbered().sampler(ways, shots, queries, seed=1)
    for i in range(200):
        task = sampler[i]
        support, query = task.support_x.flatten(), task.query_x.flatten()
        rows = support.tolist() + query.tolist()
        assert len(set(rows)) == ways * (shots + queries)
        class_of = (support // 10).reshape(ways, shots)
        assert (class_of == class_of[:, :1]).all() and len(set(class_of[:, 0].tolist())) == ways
        assert torch.equal(
            (query // 10).reshape(ways, queries), class_of[:, :1].expand(-1, queries)
        )
        assert task.tags["classes"] == tuple(str(int(c)) for c in class_of[:, 0])


def chi_square(counts, expected):
    return sum((c - expected) ** 2 / expected for c in counts)


def test_labels_are_permuted_uniformly_over_tasks():
    """Every ordered pair of classes at labels (0, 1) is equally likely: 6·5 = 30 cells."""
    sampler = numbered(classes=6).sampler(2, 1, 1, seed=4)
    n = 6000
    pairs = Counter(tuple((sampler[i].support_x // 10).flatten().tolist()) for i in range(n))
    assert len(pairs) == 30
    assert chi_square(pairs.values(), n / 30) < 58.3  # 0.1 % quantile for 29 degrees of freedom


def test_images_are_drawn_uniformly_within_a_class():
    sampler = numbered(classes=2).sampler(2, 1, 1, seed=5)
    n = 3000
    rows = Counter(int(sampler[i].query_x[0]) for i in range(n))
    assert len(rows) == 20
    assert chi_square(rows.values(), n / 20) < 43.8  # 0.1 % quantile for 19 degrees of freedom


def test_uint8_images_stay_uint8_until_asked():
    x = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    sampler = tasks.from_arrays(x, np.arange(30) // 10).sampler(2, 1, 3)
    assert sampler.batch(0, 2).query_x.dtype == torch.uint8
    floats = tasks.as_float(sampler[0].support_x, torch.float64)
    assert torch.equal(floats, sampler[0].support_x.double() / 255)
    assert tasks.as_float(torch.tensor([300], dtype=torch.int64)).tolist() == [300.0]


# Batches


def test_a_batch_is_its_tasks_stacked_and_consecutive_batches_share_none():
    sampler = numbered().sampler(3, 1, 2, seed=2)
    batch = sampler.batch(step=4, tasks_per_step=5)
    assert len(batch) == 5 and batch.support_x.shape == (5, 3, 1)
    for task, i in zip(batch, range(20, 25), strict=True):
        assert same(task, sampler[i])
    assert sampler.batch(5, 5).tags[0]["index"] == 25
    assert same(batch[-1], sampler[24])


def test_tasks_of_chosen_indices():
    sampler = numbered().sampler(3, 1, 2)
    batch = sampler.tasks([7, 0, 7])
    assert same(batch[0], sampler[7]) and same(batch[1], sampler[0]) and same(batch[2], sampler[7])


def test_blind_hides_every_tag_and_nothing_else():
    batch = numbered().sampler(3, 1, 2).batch(0, 4)
    blind = batch.blind()
    assert blind.tags == () and all(task.tags == {} for task in blind)
    assert all(torch.equal(getattr(blind, n), getattr(batch, n)) for n in TENSORS)
    assert len(batch.tags) == 4


def test_to_moves_all_four_tensors_and_keeps_tags():
    batch = numbered().sampler(3, 1, 2).batch(0, 2)
    for moved in (batch.to("meta"), batch[0].to("meta")):
        assert {getattr(moved, n).device.type for n in TENSORS} == {"meta"}
    assert batch.to("meta").tags == batch.tags and batch[0].to("meta").tags == batch[0].tags


def test_a_batch_index_out_of_range_ends_iteration_instead_of_repeating():
    batch = numbered().sampler(3, 1, 2).batch(0, 2)
    with pytest.raises(IndexError, match="task 2 of a batch of 2 tasks"):
        batch[2]
    assert len(list(batch)) == 2


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(ways=21, shots=1, queries=1), "ways=21 needs 21 classes, but arrays has 20"),
        (dict(ways=5, shots=6, queries=5), r"shots \+ queries = 11 .* class '0' of arrays has 10"),
        (dict(ways=0, shots=1, queries=1), "ways must be an integer >= 1, got 0"),
        (dict(ways=5, shots=0, queries=1), "shots must be an integer >= 1, got 0"),
        (dict(ways=5, shots=1, queries=-2), "queries must be an integer >= 1, got -2"),
        (dict(ways=5, shots=1.5, queries=1), "shots must be an integer >= 1, got 1.5"),
        (dict(ways=5, shots=1, queries=1, seed=-1), r"seed must be .* 0\.\.2\*\*64-1, got -1"),
        (dict(ways=5, shots=1, queries=1, seed=2**64), r"seed must be .* got 18446744073709551616"),
        (dict(ways=5, shots=1, queries=1, seed=0.5), "seed must be an integer .* got 0.5"),
    ],
)
def test_an_episode_that_cannot_be_filled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        numbered().sampler(**arguments)


@pytest.mark.parametrize(
    ("index", "error"), [(-1, IndexError), (2**64, IndexError), (1.5, TypeError)]
)
def test_an_index_that_names_no_task(index, error):
    with pytest.raises(error, match="task index must be"):
        numbered().sampler(2, 1, 1)[index]


def test_a_slice_is_answered_with_the_right_call():
    with pytest.raises(TypeError, match=r"sampler\.tasks\(indices\)"):
        numbered().sampler(2, 1, 1)[0:3]


def test_batches_that_name_no_tasks():
    sampler = numbered().sampler(2, 1, 1)
    with pytest.raises(ValueError, match="tasks_per_step must be an integer >= 1, got 0"):
        sampler.batch(0, 0)
    with pytest.raises(IndexError, match="step must be >= 0, got -1"):
        sampler.batch(-1, 4)
    with pytest.raises(ValueError, match="at least one task, got none"):
        sampler.tasks([])


def test_a_task_whose_parts_do_not_fit():
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"query_x and query_y .* got 4 inputs and 3 targets"):
        tasks.Task(x, y, x, y[:3])
    with pytest.raises(ValueError, match=r"same shape per example, got \(2,\) and \(1,\)"):
        tasks.Task(x, y, x[:, :1], y)


def test_tasks_that_do_not_stack():
    source = numbered()
    a, b = source.sampler(2, 1, 1)[0], source.sampler(3, 1, 1)[0]
    with pytest.raises(ValueError, match=r"agree in support_x, got .*\[2, 1\] and .*\[3, 1\]"):
        tasks.TaskBatch.stack([a, b])
    bytes_ = replace(a, **{n: getattr(a, n).to(torch.uint8) for n in ("support_x", "query_x")})
    with pytest.raises(ValueError, match=r"support_x, got torch.float64 .* and torch.uint8"):
        tasks.TaskBatch.stack([a, bytes_])


def test_a_sampler_must_say_what_its_tasks_are():
    class Nothing(tasks.TaskSampler):
        pass

    with pytest.raises(TypeError, match=r"Nothing must define __getitem__"):
        Nothing()[0]
