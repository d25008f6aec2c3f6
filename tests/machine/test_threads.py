"""Tasks in threads: the results of one after another, whatever happens meanwhile."""

import os
import threading
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from metalearn_tut.machine import threads
from metalearn_tut.machine.threads import each, in_threads, usual_workers, workers

PATIENCE = 60  # seconds that a thread waits for another, which on any machine will come


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def at_a_time(count, function, items):
    with workers(count):
        return list(each(function, items))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("items", [0, 1, 2, 7])
def test_results_are_in_the_order_of_the_items(count, items):
    assert at_a_time(count, lambda x: x * x, range(items)) == [x * x for x in range(items)]


def test_two_are_worked_on_at_once_and_the_first_alone():
    meeting = threading.Barrier(2)

    def meet(i):
        return i if i == 0 else meeting.wait(PATIENCE) >= 0 and i

    assert at_a_time(2, meet, range(3)) == [0, 1, 2]


def test_one_at_a_time_is_one_thread_unless_asked():
    def whom(_):
        return threading.get_ident(), in_threads()

    here = (threading.get_ident(), False)
    assert list(each(whom, range(3))) == at_a_time(1, whom, range(3)) == [here] * 3
    assert at_a_time(2, whom, range(3))[0] == here


def test_inside_a_task_there_are_no_more_threads():
    def inner(_):
        return at_a_time(2, lambda _: threading.get_ident(), range(4)), threading.get_ident()

    for idents, own in at_a_time(2, inner, range(4))[1:]:
        assert set(idents) == {own}


@pytest.mark.parametrize("wrong", [{1}, {2, 3}, {0}, {4}])
def test_the_error_is_that_of_the_first_item_that_fails(wrong):
    done = []

    def some(i):
        done.append(i)
        if i in wrong:
            raise ValueError(f"item {i}")
        return i

    with pytest.raises(ValueError, match=f"item {min(wrong)}"):
        at_a_time(2, some, range(50))
    assert len(done) < 50  # nothing is begun after that
    assert at_a_time(2, lambda i: i, range(5)) == [*range(5)]


def test_ctrl_c_ends_it_when_no_thread_works_any_more():
    main, begun, working = threading.get_ident(), threading.Event(), set()

    def work(i):
        if i and threading.get_ident() == main:
            begun.wait(PATIENCE)
            raise KeyboardInterrupt
        working.add(i)
        begun.set()
        torch.ones(200, 200) @ torch.ones(200, 200)
        working.remove(i)

    with pytest.raises(KeyboardInterrupt):
        at_a_time(2, work, range(1000))
    assert not working and torch.get_num_threads() == 1


def test_each_thread_has_its_share_of_pytorchs_threads(two_threads):
    meeting = threading.Barrier(2)

    def share(i):
        if i:
            meeting.wait(PATIENCE)
        return torch.get_num_threads()

    assert at_a_time(2, share, range(3)) == [2, 1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("mode", [True, False])
def test_gradients_are_on_or_off_as_where_it_was_called(mode):
    with torch.set_grad_enabled(mode):
        assert at_a_time(2, lambda _: torch.is_grad_enabled(), range(9)) == [mode] * 9


@pytest.mark.parametrize(
    "around", [torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_what_a_thread_would_not_inherit_is_done_here(around):
    def settled(_):
        return torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")

    with around():
        here = settled(None)
        assert any(here) and at_a_time(2, settled, range(9)) == [here] * 9


def torchs(i):
    return torch.rand(3).tolist()


def numpys(i):
    return np.random.rand(3).tolist()  # noqa: NPY002


def late(i):
    return torch.rand(3).tolist() if i == 4 else i


def hidden(i):
    with nullcontext() if in_threads() else torch.random.fork_rng([]):
        return torch.rand(3).tolist()


@pytest.mark.parametrize("draw", [torchs, numpys, late, hidden])
def test_who_draws_random_numbers_draws_those_of_one_after_another(draw):
    found = []
    for count in (1, 2):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        with workers(count):
            found.append([list(each(draw, range(6))), list(each(draw, range(6))), torch.rand(1)])
    assert found[0] == found[1]


def test_in_a_forked_process_there_are_threads_too(tmp_path):
    at_a_time(2, lambda i: i, range(5))
    child = os.fork()
    if not child:
        meeting = threading.Barrier(2)
        done = at_a_time(2, lambda i: i and meeting.wait(PATIENCE), range(3))
        os._exit(len(done) != 3)
    assert os.waitpid(child, 0)[1] == 0


def test_the_usual_number_is_that_of_pytorchs_threads_of_the_tasks_and_four(monkeypatch):
    for threads_there, tasks, wanted in ((1, 4, 1), (2, 4, 2), (2, 1, 1), (64, 32, 4), (3, 0, 1)):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads_there: n)
        assert usual_workers(tasks) == wanted


class Ours(nn.Module):
    in_threads = True


class Theirs(Ours):
    pass


@pytest.mark.parametrize(
    ("learner", "count", "wanted"),
    [(Ours(), None, 2), (Theirs(), None, 1), (Theirs(), 3, 3), (Ours(), 1, 1), (object(), None, 1)],
)
def test_a_class_says_itself_that_threads_may_share_it(learner, count, wanted, two_threads):
    with threads.workers_of(learner, count, tasks=8):
        assert threads._crew.get().size == wanted


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_a_number_of_workers_is_a_whole_one(count):
    with pytest.raises(ValueError, match="workers must be an integer >= 1"):
        threads.workers_of(Ours(), count, tasks=8)
