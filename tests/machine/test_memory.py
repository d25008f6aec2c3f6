"""Memory that has been used is not faulted in again."""

import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from metalearn_tut import MAML, evaluate, federated, meta_train, nb, tasks
from metalearn_tut.block_voting import Recipe
from metalearn_tut.block_voting.epochs import train_epochs
from metalearn_tut.cli import program
from metalearn_tut.machine import memory
from metalearn_tut.saliency import anp_prune

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="glibc alone gives memory back like this",
)
FAULTS = """
import resource, sys, threading, torch
import metalearn_tut, metalearn_tut.training, metalearn_tut.evaluation, metalearn_tut.nb
from metalearn_tut.machine import keep_memory

def allocate():
    for _ in range(20):
        torch.empty(2**23).fill_(1.0)  # 32 MiB: 8,192 pages

def faults(work):
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def other_thread():
    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()

imported = faults(allocate)
print(imported, keep_memory(), faults(allocate), faults(other_thread))
"""
OURS = ("MALLOC_", "METALEARN_TUT_KEEP_MEMORY")


def said(**environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment = {**plain, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    imported, kept, here, there = done.stdout.split()
    return int(imported), kept == "True", int(here), int(there)


@linux
def test_pages_are_faulted_in_once_and_not_for_every_tensor():
    imported, kept, here, there = said()
    assert kept and imported > 200  # importing does not do it; with huge pages, 16 for a tensor
    assert here < imported / 10 and there < imported / 10


@linux
def test_a_variable_leaves_all_as_it_is():
    imported, kept, here, there = said(METALEARN_TUT_KEEP_MEMORY="0")
    assert not kept and min(here, there) > imported / 2


@linux
def test_what_the_user_says_of_glibc_holds():
    imported, kept, here, _ = said(MALLOC_MMAP_THRESHOLD_="65536")
    assert kept and here > imported / 2


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_it_does_no_harm_without_glibc(monkeypatch, error):
    def library(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", library)
    assert memory.keep_memory.__wrapped__() is False


def test_a_library_that_has_mallopt_and_is_not_glibc_is_left_alone(monkeypatch):
    class Other:
        def mallopt(self, which, size):
            raise AssertionError("asked")

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Other())
    assert memory.keep_memory.__wrapped__() is False


def _train():
    meta_train(LEARNER, SAMPLER, steps=1, progress=False)


def _federate():
    nodes = federated.by_classes(SOURCE, nodes=2, classes_per_node=2).train
    plan = {"rounds": 1, "support": 2, "query": 2, "local_steps": 1}
    federated.run_rounds(federated.Federation(MAML(nn.Linear(2, 2)), nodes, **plan))


def _prune():
    anp_prune(LEARNER, SAMPLER, (0.5,), progress=False)


def _train_a_classifier():
    train_epochs(nn.Linear(2, 2), (torch.ones(4, 2), torch.arange(4) % 2), Recipe(1, batch=4))


SOURCE = tasks.from_arrays(torch.ones(20, 2), torch.arange(20) % 2)
SAMPLER = SOURCE.sampler(ways=2, shots=2, queries=2)
LEARNER = MAML(nn.Linear(2, 2), inner_lr=0.1)
DOORS = {
    "meta_train": _train,
    "evaluate": lambda: evaluate(LEARNER, SAMPLER, 1),
    "federated rounds": _federate,
    "pruning": _prune,
    "training a classifier": _train_a_classifier,
    "a command": lambda: program.run(["train", "--help"]),
    "a chapter": nb.start,
}


@pytest.mark.parametrize("door", DOORS)
def test_memory_is_kept_where_work_begins(door):
    memory.keep_memory.cache_clear()
    DOORS[door]()
    assert memory.keep_memory.cache_info().currsize == 1
