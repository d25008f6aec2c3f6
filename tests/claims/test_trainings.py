"""What the studies' trainings share, and the parts of them that are no package's method."""

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.claims import classifier, learners
from metalearn_tut.claims.anp.claims import criterion, dense
from metalearn_tut.claims.compact.claims import ARMS as COMPACT
from metalearn_tut.claims.compact.claims import job as compact_job
from metalearn_tut.claims.hetrom import jobs as hetrom
from metalearn_tut.claims.metagater import jobs as metagater
from metalearn_tut.claims.metagater.choices import RankedPass, right_by_choice
from metalearn_tut.claims.tasks import TasksFrom, fresh_tasks, sampler, source, training_tasks
from metalearn_tut.claims.tsmd import claims as tsmd
from metalearn_tut.claims.tsmd.jobs import teacher, with_extra
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.learners.maml import MAML
from metalearn_tut.models import Conv4
from metalearn_tut.tasks import as_float

# Shared trainings


def test_what_one_job_made_another_finds(tmp_path):
    made = []

    def make(out):
        new = not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        made.append(new)
        return out

    first, second = (tmp_path / study / "job" for study in ("one", "two"))
    place = learners.shared({"a": 1}, first, make)
    assert place.parent == first and not place.exists()  # it was moved when it was done
    found = learners.shared({"a": 1}, second, make)
    assert found == tmp_path / "trained" / found.name and made == [True, False]
    learners.shared({"a": 2}, second, make)
    assert made == [True, False, True]


def test_what_was_cut_short_stays_with_its_job_and_a_slower_job_loses(tmp_path):
    def fail(out):
        out.mkdir(parents=True)
        (out / "checkpoint").touch()
        raise KeyboardInterrupt

    job = tmp_path / "one" / "job"
    with pytest.raises(KeyboardInterrupt):
        learners.shared({}, job, fail)
    assert not (tmp_path / "trained").exists()

    def overtaken(out):
        assert (out / "checkpoint").exists()
        (tmp_path / "trained" / out.name.removeprefix("part-")).mkdir(parents=True)
        (tmp_path / "trained" / out.name.removeprefix("part-") / "theirs").touch()
        return "mine"

    assert learners.shared({}, job, overtaken) == "mine"
    assert next((tmp_path / "trained").iterdir(), None).joinpath("theirs").exists()


def test_studies_share_the_dense_learner_and_no_test_tasks():
    anp = compact_job("maml32", 3).config["learner"]
    taught = tsmd.job("tsmd", "emoji", "tsmd", 3).config["teacher"]["learner"]
    assert anp == taught == dense("emoji", 3)
    one, other = (fresh_tasks(study, "emoji", 3) for study in ("anp", "tsmd"))
    assert one["test"]["seed"] != other["test"]["seed"]
    assert training_tasks("emoji", 3)["seed"] != training_tasks("emoji", 4)["seed"]


def test_all_learners_that_are_compared_have_as_many_steps():
    for arm in COMPACT:
        config = compact_job(arm, 0).config
        part = config.get("student", config.get("learner"))
        later = config["retrain"]["steps"] if "retrain" in config else [0]
        assert part["training"]["steps"] + sum(later) == 4500, arm
        assert part["training"]["tasks_per_step"] == 4


# Tasks


def test_tasks_from_are_the_samplers_own():
    base = sampler(training_tasks("emoji", 0))
    assert torch.equal(TasksFrom(base, 7)[3].support_x, base[10].support_x)


def test_hard_tasks_are_of_one_subgroup():
    wanted = {**fresh_tasks("hetrom", "emoji", 0)["test"], "within_group": True}
    assert all(len(set(sampler(wanted)[i].tags["groups"])) == 1 for i in range(5))


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0, None])
def test_wrong_labels_are_as_many_as_said_and_never_the_right_one_by_chance(rate):
    base = sampler(training_tasks("emoji", 0))
    wrong = hetrom.WrongLabels(base, rate, seed=3)
    changed = torch.stack([wrong[i].support_y != base[i].support_y for i in range(200)]).float()
    share = changed.mean().item()
    assert share == pytest.approx(0.5 if rate is None else rate, abs=0.05)
    spread = changed.mean(1).std().item()  # tasks of a rate of their own differ more
    assert (spread > 0.3) == (rate is None)
    assert torch.equal(wrong[5].support_y, wrong[5].support_y)
    assert torch.equal(wrong[5].query_y, base[5].query_y)
    assert all(wrong[i].support_y.max() < 5 for i in range(20))


@pytest.mark.parametrize("kind", ["clean", "labels", "flip", "rand", "mixed"])
def test_every_kind_of_training_tasks_is_made(kind):
    wanted = {**training_tasks("emoji", 0), "kind": kind, "rate": 0.5}
    first = hetrom.training_tasks(wanted)[0]
    assert first.support_x.shape == (5, 3, 32, 32) and first.query_x.shape == (20, 3, 32, 32)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"name": "range", "m": 1, "k": 2}, "RankedRange"),
        ({"name": "guided", "z_low": -1.0, "z_high": 1.0}, "LogNormalGuidance"),
        ({"name": "mixture", "pool": 8, "rate": 0.1}, "WorstMixture"),
        ({"name": "oracle"}, "Oracle"),
    ],
)
def test_every_aggregate_is_made(config, name):
    made = hetrom.aggregate(config, tasks.sinusoid())
    assert type(made).__name__ == name
    assert hetrom.aggregate({"name": "mean"}, tasks.sinusoid()) is torch.mean


# Teachers, classifiers and criteria


def small(**more):
    model = {**learners.conv4(4, "emoji")}
    return {"model": model, "data": "emoji", "steps": 3, "batch": 8, "lr": 0.01, "seed": 0, **more}


def test_a_classifier_is_trained_once_and_gives_all_but_a_head(tmp_path):
    first = classifier.classifier(small(), tmp_path / "one" / "job")
    again = classifier.classifier(small(), tmp_path / "two" / "job")
    assert first.keys() == again.keys() and all(torch.equal(first[n], again[n]) for n in first)
    other = classifier.classifier(small(seed=1), tmp_path / "two" / "job")
    assert not torch.equal(first["blocks.0.conv.weight"], other["blocks.0.conv.weight"])
    learner = learners.build({"model": small()["model"], "algorithm": {"name": "maml"}, "seed": 5})
    head = learner.model.head.weight.detach().clone()
    classifier.begin_with(learner.model, first)
    assert torch.equal(
        learner.model.get_parameter("blocks.0.conv.weight"), first["blocks.0.conv.weight"]
    )
    assert torch.equal(learner.model.head.weight, head)
    with pytest.raises(ValueError, match="the weights do not fit"):
        classifier.begin_with(learner.model, {"blocks.9.conv.weight": head})


def test_images_of_a_batch_are_varied():
    rng = np.random.default_rng(0)
    images = source("emoji", "train").images[:6]
    posed = classifier.varied(images, "emoji", rng)
    assert posed.shape == images.shape and posed.dtype == images.dtype and (posed != images).any()
    mirrored = classifier.varied(images, "mini_imagenet", rng)
    same = (mirrored == images).all((1, 2, 3)) | (mirrored == images[..., ::-1]).all((1, 2, 3))
    assert same.all()


def test_of_a_teacher_all_adapts_or_its_head_alone_or_nothing(tmp_path):
    algorithm = {"name": "maml", "inner_lr": 0.4, "inner_steps": 1, "zero_head": True}
    config = {"kind": "classifier", "ordinary": small()}
    config["learner"] = {"model": small()["model"], "algorithm": algorithm, "seed": 0}
    task = sampler(training_tasks("emoji", 0))[0]
    moved = {}
    for adapts in ("all", "head", "nothing"):
        made = teacher({**config, "adapts": adapts}, tmp_path / "study" / adapts)
        steps = 0 if adapts == "nothing" else 2
        ends = made.adapt(task.support_x, task.support_y, steps=steps).params
        start = dict(made.model.named_parameters())
        moved[adapts] = {n for n in ends if n in start and not torch.equal(ends[n], start[n])}
    assert {n.split(".")[0] for n in moved["all"]} == {"blocks", "head"}
    assert {n.split(".")[0] for n in moved["head"]} == {"head"}
    assert isinstance(made, MAML)


def test_of_unlabeled_images_some_are_learned_from_and_the_others_judge():
    algorithm = {"name": "maml", "inner_lr": 0.4, "inner_steps": 2, "zero_head": True}
    made = {
        seed: learners.build({"model": small()["model"], "algorithm": algorithm, "seed": seed})
        for seed in (0, 1)
    }
    task = sampler(fresh_tasks("none", "emoji", 0)["validation"])[0]
    found = with_extra(made[0], made[1], task, 2)
    assert found.keys() == {"alone", "teacher", "own", "true"}
    assert all(0 <= n <= 10 for n in found.values())  # two images of each class are left
    known = made[0].adapt(task.support_x, task.support_y)
    left = torch.cat([(task.query_y == c).nonzero()[2:] for c in range(5)]).flatten()
    right = (known(task.query_x[left]).argmax(1) == task.query_y[left]).sum()
    assert found["alone"] == int(right)


def test_the_arms_of_anp_differ_in_one_thing():
    anp, lobs = criterion("anp"), criterion("lobs")
    assert anp == {**lobs, "method": "anp"}
    assert criterion("anp-plain") == {**anp, "compensate": False}
    assert criterion("before") == lobs and criterion("curve") == anp
    assert criterion("dense") is None and criterion("snip")["compensate"] is True


# Nodes


@pytest.mark.parametrize("family", ["emoji"])
def test_new_nodes_have_classes_of_the_test_and_differ_by_seed(family):
    one, other = (metagater.nodes_of(family, "test", 42, seed) for seed in (1, 2))
    assert len(one) == 42 and all(len(node.classes) == 5 for node in one)
    assert [n.classes for n in one] != [n.classes for n in other]
    assert all(node.size >= 25 for node in one)  # images of support and query set


def test_as_many_filters_are_open_whoever_chooses_them():
    torch.manual_seed(0)
    plain = Conv4(3, 5, 8, norm="support", image_size=32)
    learner = MetaGater(ChannelGatedConv4(plain, open_bias=0.0), 0.1)
    task = metagater.nodes_of("emoji", "test", 42, 1)[0].sampler(10, 15)[0]
    found = right_by_choice(learner, task, 0)
    assert found.keys() == {"random", "average"} and all(0 <= n <= 15 for n in found.values())
    x = as_float(task.query_x)
    _, masks = learner.model.run(x, 10)
    run = RankedPass(learner.model.gates, [m.sum(1) for m in masks], [m[0] for m in masks], 10)
    learner.model.flow(x, run)
    for own, other in zip(masks, run.masks, strict=True):
        assert torch.equal(own.sum(1), other.sum(1)) and not own.all()
        assert torch.equal(own[0], other[0])  # ranked by its own mask
