"""The second HeTRoM study: its arms, its outliers, and verdicts that follow from numbers alone."""

import math

import pytest
import torch

from metalearn_tut import MAML, models, tasks
from metalearn_tut.claims import Results
from metalearn_tut.claims.hetrom import arms as hetrom_arms
from metalearn_tut.claims.hetrom import claims as hetrom
from metalearn_tut.claims.hetrom import jobs as hetrom_jobs
from metalearn_tut.claims.hetrom import second as hetrom_second
from metalearn_tut.claims.hetrom import tasks as hetrom_tasks
from metalearn_tut.claims.statistics import correct_counts

ONE, TWO, THREE, FOUR = hetrom_second.CLAIMS


def test_every_arm_of_a_seed_sees_the_same_tasks_and_is_tested_on_the_same():
    together = {}
    for job in hetrom_second.all_jobs(False):
        config = job.config
        kind = tuple(str(config["tasks"].get(n)) for n in ("kind", "rate", "letters"))
        shared = ("tasks", "training", "model", "algorithm", "seed")
        group = together.setdefault((*kind, config["seed"]), [])
        group.append({n: config[n] for n in shared})
        assert config["test"]["test"] == {"tasks": 600, "queries": 10, "seed": 1}
    assert all(each == group[0] for group in together.values() for each in group)
    assert len(together) == 6 * 3


def test_what_was_not_to_change_is_as_in_the_first_round():
    first = {job.name: job.config for job in hetrom.all_jobs(False)}
    for job in hetrom_second.all_jobs(False):
        if job.name in first and not job.name.startswith("easy"):
            assert job.config["training"] == first[job.name]["training"]
            assert job.config["model"] == first[job.name]["model"]
        if job.name.startswith("easy"):
            old = {**first[job.name]["tasks"], "letters": hetrom_second.LETTERS}
            assert job.config == {**first[job.name], "tasks": old}


def test_a_bag_has_no_character_in_common_and_no_image_twice():
    source, glyphs = hetrom_tasks.bags(40), tasks.glyphs("train")
    class_of = {}
    for c in range(glyphs.n_classes):
        class_of |= {x.tobytes(): c for x in glyphs.images_of(c, range(20))}
    seen = set()
    for c in range(40):
        images = [x.tobytes() for x in source.images_of(c, range(20))]
        assert len({class_of[x] for x in images}) > 15
        assert not seen & set(images)
        seen |= set(images)


def test_bags_are_tagged_as_outliers():
    config = {**hetrom_arms.task_config("bags", 0.5), "queries": 2}
    mixed = hetrom_tasks.training_tasks(config, 0)
    assert 0.3 < sum(mixed[i].tags["outlier"] for i in range(100)) / 100 < 0.7


def test_more_letters_are_hard_and_none_is_a_held_out_one():
    config = {**hetrom_arms.task_config("easy", 1.0), "letters": hetrom_second.LETTERS}
    hard = hetrom_tasks.training_tasks(config, 0)
    groups = {hard[i].tags["groups"][0] for i in range(300)}
    assert groups == set(hetrom_second.LETTERS)
    held_out = hetrom_tasks.FAMILIES["validation"] + hetrom_tasks.FAMILIES["test"]
    assert not groups & set(held_out)


def test_guidance_looks_at_clean_validation_tasks():
    learner = MAML(models.Conv4(1, 5, width=4, norm="support"), zero_head=True)
    guided = hetrom_jobs.aggregate(hetrom_second.GUIDED, None, learner)
    assert (guided.z_low, guided.z_high, guided.every) == (-math.inf, 2, 5)
    source = tasks.glyphs("validation").sampler(5, 1, 5, 77)
    losses = []
    for i in range(16):
        task = source[i]
        outputs = learner.adapt(task.support_x, task.support_y)(task.query_x)
        losses.append(torch.nn.functional.cross_entropy(outputs, task.query_y))
    assert torch.allclose(guided.source(), torch.stack(losses))


# Verdicts


def study(**levels):
    """Made-up results: each arm's accuracy, 0.8 where nothing is said, noise shared by all."""
    noise = 0.05 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    found = Results()
    for job in hetrom_second.all_jobs(False):
        name = job.name.rpartition("-")[0].replace("-", "_").replace(".", "")
        level, split = levels.get(name, 0.8), {}
        for way in ("test", "easy", "validation"):
            right = (levels.get(f"{name}_{way}", level) + noise).clamp(0, 1)
            split[way] = correct_counts(right, 50)
        found[job.name] = {**split, "rejection": {"precision": [0.5, 0.6, 0.7, 0.9]}}
    return found


@pytest.mark.parametrize(
    ("at_30", "at_50", "holds"),
    [(0.81, 0.83, True), (0.83, 0.81, False), (0.8, 0.8, False), (0.78, 0.79, False)],
)
def test_outliers_need_a_gain_that_grows(at_30, at_50, holds):
    verdict = ONE.verdict(study(bags_03_range_5_16=at_30, bags_05_range_8_16=at_50))
    assert verdict.holds is holds
    gap = verdict.values["bags-0.5"]["hetrom - mean"]["mean"]
    assert gap == pytest.approx(at_50 - 0.8, abs=0.005)


def test_hard_tasks_need_a_gain_of_what_validation_chose():
    better = {"easy_top_8": 0.85, "easy_top_8_validation": 0.9}
    assert TWO.verdict(study(**better)).holds is True
    assert TWO.verdict(study(easy_top_8=0.85, easy_top_4_validation=0.9)).holds is False


def test_clean_tasks_must_not_lose():
    assert THREE.verdict(study()).holds is True
    assert THREE.verdict(study(clean_sg=0.79)).holds is False


def test_guidance_must_not_lose_at_either_rate():
    assert FOUR.verdict(study()).holds is True
    assert FOUR.verdict(study(labels_03_sg=0.78, labels_05_sg=0.9)).holds is False
    assert FOUR.verdict(study(labels_05_sg=0.78, labels_03_sg=0.9)).holds is False
