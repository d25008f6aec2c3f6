"""The regression family of the MAML paper."""

import math

import numpy as np
import pytest
import torch

from metalearn_tut import tasks


def test_a_task_is_the_wave_that_its_tags_name():
    """y = A sin(x - b): with the phase added instead, no task would fit."""
    for task in (tasks.sinusoid(seed=2)[i] for i in range(50)):
        a, b = task.tags["amplitude"], task.tags["phase"]
        for x, y in ((task.support_x, task.support_y), (task.query_x, task.query_y)):
            expected = a * np.sin(x.double().numpy() - b)
            np.testing.assert_allclose(y.double().numpy(), expected, rtol=0, atol=5e-7)


def test_shapes_and_dtypes():
    task = tasks.sinusoid(shots=3, queries=7)[0]
    assert task.support_x.shape == task.support_y.shape == (3, 1)
    assert task.query_x.shape == task.query_y.shape == (7, 1)
    assert {t.dtype for t in (task.support_x, task.support_y, task.query_y)} == {torch.float32}
    assert tasks.sinusoid(5, 5).batch(3, 4).query_y.shape == (4, 5, 1)


def test_the_papers_ranges_are_filled_uniformly():
    """Kolmogorov-Smirnov distance of each draw to its uniform law, 0.1 % level 1.95 / sqrt(n)."""
    drawn = [tasks.sinusoid(seed=1)[i] for i in range(800)]
    laws = {
        (0.1, 5.0): [t.tags["amplitude"] for t in drawn],
        (0.0, math.pi): [t.tags["phase"] for t in drawn],
        (-5.0, 5.0): torch.cat([t.support_x for t in drawn]).flatten().tolist(),
    }
    for (low, high), values in laws.items():
        u = (np.sort(values) - low) / (high - low)
        assert u[0] >= 0 and u[-1] <= 1
        steps = np.arange(len(u) + 1) / len(u)
        distance = max(np.abs(steps[1:] - u).max(), np.abs(u - steps[:-1]).max())
        assert distance < 1.95 / math.sqrt(len(u))


def test_amplitude_phase_and_points_are_independent():
    drawn = [tasks.sinusoid(1, 1)[i] for i in range(800)]
    columns = [
        [t.tags["amplitude"] for t in drawn],
        [t.tags["phase"] for t in drawn],
        [t.support_x.item() for t in drawn],
        [t.query_x.item() for t in drawn],
    ]
    off_diagonal = np.corrcoef(columns) - np.eye(4)
    assert np.abs(off_diagonal).max() < 3.3 / math.sqrt(800)


def test_golden_task_in_any_order():
    sampler = tasks.sinusoid(shots=2, queries=1, seed=5)
    for index in (9, 0, 9):
        task = sampler[index]
    assert task.tags["amplitude"] == 0.4889920997370575
    assert task.tags["phase"] == 0.32234872646625606
    assert task.support_x.flatten().tolist() == [-1.2904921770095825, -3.4447951316833496]
    wave = torch.tensor([-0.4885599613189697, 0.28632649779319763])
    torch.testing.assert_close(task.support_y.flatten(), wave, rtol=1e-6, atol=0)
    other = tasks.sinusoid(2, 1, seed=6)
    assert not torch.equal(task.support_x, other[9].support_x)


def test_an_interval_of_no_length_fixes_the_value():
    task = tasks.sinusoid(amplitude=(2, 2), phase=(0, 0), x_range=(1.5, 1.5))[4]
    assert torch.equal(task.support_y, torch.full((10, 1), 2 * math.sin(1.5)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shots=0), "shots must be an integer >= 1, got 0"),
        (dict(queries=0), "queries must be an integer >= 1, got 0"),
        (dict(seed=-3), "seed must be an integer .* got -3"),
        (dict(amplitude=(5, 0.1)), r"amplitude must be .* got \(5, 0.1\)"),
        (dict(phase=(0, math.inf)), r"phase must be .* got \(0, inf\)"),
        (dict(x_range=(math.nan, 1)), r"x_range must be .* got \(nan, 1\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.sinusoid(**arguments)


def test_bad_index():
    with pytest.raises(IndexError, match=r"task index must be in .* got -1"):
        tasks.sinusoid()[-1]
