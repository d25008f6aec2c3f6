"""Threads that take turns: one at a time, in their order, and a job after those it needs."""

import threading
import time

import pytest

from metalearn_tut.claims import Job
from metalearn_tut.claims.records import NoProvenance, record_of
from metalearn_tut.claims.turns import TURNS, Turns, run_in_turns


def test_turns_go_round_in_the_order_in_which_threads_came():
    turns, seen = Turns(), []

    def work(name):
        with turns:
            for _ in range(3):
                seen.append(name)
                turns.pass_on()

    threads = [threading.Thread(target=work, args=name) for name in "abc"]
    with turns:
        for count, thread in enumerate(threads, start=1):
            thread.start()
            while len(turns._waiting) < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert seen == list("abcabcabc")
    with turns:  # it was given back
        pass


def test_a_thread_without_a_turn_passes_nothing_on():
    TURNS.pass_on()
    with TURNS:
        other = threading.Thread(target=TURNS.pass_on)
        other.start()
        other.join()
        assert TURNS._holder == threading.get_ident()


WORKING = []


def together(config, folder):
    """Nobody else is between these lines."""
    for _ in range(20):
        WORKING.append(config["name"])
        assert len(WORKING) == 1
        WORKING.pop()
        TURNS.pass_on()
    return {"name": config["name"]}


def refuse(config, folder):
    raise ValueError("no")


def job(name, run, *after):
    return Job(name, {"name": name, "after": list(after)}, run)


def test_jobs_wait_for_what_they_need_and_a_failed_one_is_named(tmp_path, capsys):
    out, records = tmp_path / "out", tmp_path / "records"
    bad = job("bad", refuse)
    all_jobs = [bad, job("of-bad", together, "bad"), job("a", together), job("b", together)]
    all_jobs.append(job("of-both", together, "a", "b"))
    options = {"at_once": 3, "clean": False}

    def needs(one):
        return set(one.config["after"])

    failed = run_in_turns(all_jobs, out, records, needs, **options)
    assert failed.keys() == {"bad", "of-bad"} and "ValueError: no" in failed["bad"]
    assert failed["of-bad"] == "it needs another one"
    done = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert done.index("of-both") > max(done.index("a"), done.index("b"))
    assert all(record_of(one, records) for one in all_jobs[2:])
    good = [job("bad", together), *all_jobs[1:]]
    assert run_in_turns(good, out, records, needs, **options) == {}
    assert len(capsys.readouterr().out.splitlines()) == 2  # what was done is not done again


def test_code_that_is_not_committed_makes_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr("metalearn_tut.files.provenance.commit", lambda: "unknown")
    with pytest.raises(NoProvenance):
        run_in_turns([job("a", together)], tmp_path, tmp_path, lambda one: set())
