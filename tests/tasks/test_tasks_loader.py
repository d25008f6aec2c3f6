"""A sampler as a DataLoader: the batches of its steps, with or without workers."""

import pickle
from itertools import islice

import pytest
import torch

from metalearn_tut import tasks

TENSORS = ("support_x", "support_y", "query_x", "query_y")


def episodes():
    x = torch.randint(0, 256, (60, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return tasks.from_arrays(x.byte(), torch.arange(60) % 6).sampler(3, 1, 4, seed=5)


def same(found, sampler, tasks_per_step, steps):
    found = list(found)
    for batch, step in zip(found, steps, strict=True):
        expected = sampler.batch(step, tasks_per_step)
        assert isinstance(batch, tasks.TaskBatch) and batch.tags == expected.tags
        for name in TENSORS:
            x, y = getattr(batch, name), getattr(expected, name)
            assert x.dtype == y.dtype and torch.equal(x, y)
    return True


@pytest.mark.parametrize("sampler", [episodes(), tasks.sinusoid(seed=3)], ids=repr)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2")  # on a single core
def test_batches_are_those_of_the_sampler_in_its_order(sampler, num_workers):
    loader = sampler.loader(4, steps=7, num_workers=num_workers)
    assert len(loader) == 7 and same(loader, sampler, 4, range(7))
    resumed = sampler.loader(4, steps=7, start=3, num_workers=num_workers)
    assert len(resumed) == 4 and same(resumed, sampler, 4, range(3, 7))
    endless = sampler.loader(tasks_per_step=2, start=5, num_workers=num_workers)
    for _ in range(2):  # each loop begins anew
        assert same(islice(endless, 4), sampler, 2, range(5, 9))


def test_nothing_is_left_of_a_run_that_is_over():
    assert list(episodes().loader(4, steps=3, start=3)) == []


def test_a_loader_draws_no_number_that_others_would_get():
    before = torch.get_rng_state()
    list(episodes().loader(2, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_its_parts_can_be_sent_to_a_process():
    loader = episodes().loader(2, steps=2)
    sent = pickle.loads(pickle.dumps(loader.dataset))
    assert same([sent[1]], episodes(), 2, [1])


def test_a_finite_list_ends_where_it_ends():
    class Three(tasks.TaskSampler):
        def __getitem__(self, index):
            if index > 2:
                raise IndexError(index)
            return episodes()[index]

    assert len(list(Three())) == 3  # as any sequence in Python
    with pytest.raises(IndexError):
        list(Three().loader(2, steps=2))


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"tasks_per_step": 0}, "tasks_per_step must be an integer >= 1, got 0"),
        ({"tasks_per_step": 1, "start": -1}, "start must be an integer >= 0, got -1"),
        ({"tasks_per_step": 1, "start": 5, "steps": 4}, "steps must be an integer >= 5, got 4"),
        ({"tasks_per_step": 1, "steps": 2.0}, "steps must be an integer >= 0, got 2.0"),
    ],
)
def test_counts_are_checked_before_a_worker_starts(arguments, says):
    with pytest.raises(ValueError, match=says):
        episodes().loader(**arguments)


def test_tasks_and_batches_move_and_are_pinned_whole(monkeypatch):
    """No accelerator is needed to see that each of the four is pinned, and how it is moved."""
    pinned, moved = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x.clone())
    to = torch.Tensor.to

    def recorded(x, device, non_blocking=False):
        moved.append((device, non_blocking))
        return to(x, device)

    for value in (episodes()[0], episodes().batch(0, 2)):
        copied = value.pin_memory()
        assert type(copied) is type(value) and copied.tags == value.tags
        assert [id(x) for x in pinned[-4:]] == [id(getattr(value, name)) for name in TENSORS]
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "to", recorded)
            there = value.to("meta", non_blocking=True)
        assert {getattr(there, name).device.type for name in TENSORS} == {"meta"}
        assert moved == [("meta", True)] * 4
        moved.clear()


def test_a_dataloader_pins_a_batch_by_its_own_method(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x, *_: x + 1)
    batch = episodes().batch(0, 2)
    assert torch.equal(pin_memory(batch).query_y, batch.query_y + 1)


@pytest.mark.parametrize(
    "option",
    [
        {"shuffle": True},
        {"batch_size": 2},
        {"sampler": [3, 1]},
        {"batch_sampler": [[0]]},
        {"drop_last": True},
        {"dataset": [1]},
    ],
    ids=str,
)
def test_what_would_be_other_batches_is_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))}: batches are those of the steps"):
        episodes().loader(2, **option)


def test_what_changes_nothing_may_be_said():
    sampler = episodes()
    loader = sampler.loader(2, steps=3, shuffle=False, batch_size=None, drop_last=False)
    assert same(loader, sampler, 2, range(3))
