"""Learners as jobs: what they start from, which tasks they see, and how answers are counted."""

import pytest
import torch

from metalearn_tut.claims import learners
from metalearn_tut.claims.records import write_record
from metalearn_tut.claims.study import Job
from metalearn_tut.tasks import glyphs

SMALL = {"split": "validation", "tasks": 3, "queries": 2, "seed": 2}
FIRST = {
    "name": "first",
    "model": {"name": "Conv4", "in_channels": 1, "ways": 5, "width": 4, "norm": "support"},
    "algorithm": {
        "name": "maml",
        "inner_lr": 0.1,
        "inner_steps": 2,
        "rate_mode": "per_layer_and_step",
    },
    "data": {"shots": 1, "queries": 3},
    "training": {"steps": 2, "tasks_per_step": 2, "outer_lr": 0.003},
    "test": {"a": SMALL, "b": {**SMALL, "split": "test", "queries": 4}},
    "seed": 5,
}
SECOND = {**FIRST, "name": "second", "start": FIRST, "training": {**FIRST["training"], "steps": 1}}


def same(a, b):
    ends = b.meta_parameters()
    return all(torch.equal(p, ends[name]) for name, p in a.meta_parameters().items())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return learners.trained_learner(FIRST, tmp_path_factory.mktemp("first"))


def test_a_learner_goes_on_from_where_another_ended(first, tmp_path):
    second = learners.trained_learner(SECOND, tmp_path / "job")
    assert not same(first, second)
    by_hand = learners.trained_learner(FIRST, tmp_path / "other")
    learners.train(by_hand, SECOND, tmp_path / "by hand")
    assert same(by_hand, second)


def test_the_learner_it_starts_from_is_read_where_its_job_left_it(first, tmp_path):
    job = Job("first", FIRST, learners.train_and_test)
    source = tmp_path / job.key
    left = learners.train_and_test(FIRST, source)
    write_record(job, tmp_path, {}, seconds=1)
    written = (source / "last.safetensors").stat().st_mtime_ns
    learners.train_and_test(SECOND, tmp_path / Job("second", SECOND, learners.train_and_test).key)
    assert (source / "last.safetensors").stat().st_mtime_ns == written
    assert not list(tmp_path.glob("second*/first"))
    assert left == learners.correct_by_split(first, FIRST)


def test_answers_are_counted_task_by_task(first):
    found = learners.correct_by_split(first, FIRST)
    assert found.keys() == {"a", "b"}
    for split, wanted in FIRST["test"].items():
        tasks = learners.test_tasks(FIRST["data"], wanted)
        by_hand = []
        for task in tasks.tasks(range(3)):
            assert set(task.tags["classes"]) <= set(glyphs(wanted["split"]).class_names)
            logits = first.adapt(task.support_x, task.support_y)(task.query_x)
            assert len(logits) == 5 * wanted["queries"]
            pairs = zip(logits, task.query_y, strict=True)
            by_hand.append(sum(int(row.argmax() == y) for row, y in pairs))
        assert found[split] == " ".join(map(str, by_hand))


def test_later_tasks_are_the_same_ones_later():
    sampler = learners.train_tasks(FIRST["data"], 3)
    later = learners.TasksFrom(sampler, 7)
    assert torch.equal(later[2].query_x, sampler[9].query_x)
    assert later[2].query_x.shape == (15, 1, 28, 28) and later[2].support_x.shape[0] == 5
    assert repr(later) == f"{sampler!r} from task 7 on"
    with pytest.raises(IndexError, match="-1"):  # not the task before the first
        later[-1]
