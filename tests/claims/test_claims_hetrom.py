"""The HeTRoM study: its tasks, its measures, and verdicts that follow from numbers alone."""

import math

import pytest
import torch

from metalearn_tut import rank_losses, tasks
from metalearn_tut.claims import Results
from metalearn_tut.claims.hetrom import arms as hetrom_arms
from metalearn_tut.claims.hetrom import claims as hetrom
from metalearn_tut.claims.hetrom import jobs as hetrom_jobs
from metalearn_tut.claims.hetrom import tasks as hetrom_tasks
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.rank_losses import Selection

GLYPHS = {"data": {"name": "glyphs"}, "shots": 1, "queries": 3, "rate": 0.3}


def tasks_of(kind, seed=0, **changes):
    return hetrom_tasks.training_tasks({**GLYPHS, "kind": kind, **changes}, seed)


# Tasks


def test_noisy_tasks_differ_from_clean_ones_in_their_support_labels_alone():
    clean, noisy = tasks_of("clean"), tasks_of("labels")
    tagged = [noisy[i].tags["noisy"] for i in range(200)]
    assert 0.2 < sum(tagged) / 200 < 0.4
    for i in range(20):
        assert torch.equal(clean[i].query_x, noisy[i].query_x)
        assert torch.equal(clean[i].query_y, noisy[i].query_y)
        assert tagged[i] or torch.equal(clean[i].support_y, noisy[i].support_y)


def test_outliers_are_patterns_that_can_be_told_apart_by_pixels():
    mixed = tasks_of("outliers", queries=15)
    outliers = [task for task in mixed.batch(0, 40) if task.tags["outlier"]]
    assert 4 < len(outliers) < 22
    right = []
    for task in outliers:
        assert set(task.query_x.unique().tolist()) == {0, 255}
        similar = task.query_x.flatten(1).float().sub(127.5) @ (
            task.support_x.flatten(1).float().sub(127.5).T
        )
        right.append((similar.argmax(1) == task.query_y).float().mean().item())
    assert 0.5 < sum(right) / len(right) < 1  # chance 0.2: a task, though not one of glyphs


def test_no_hard_test_character_is_in_any_training_task():
    sources = {
        split: hetrom_tasks.accents(letters) for split, letters in hetrom_tasks.FAMILIES.items()
    }
    names = {split: set(source.class_names) for split, source in sources.items()}
    easy = set(hetrom_tasks.easy_characters().class_names)
    assert not names["test"] & (names["train"] | names["validation"] | easy)
    assert not names["validation"] & (names["train"] | easy) and names["train"] <= easy
    assert "U+00E9 LATIN SMALL LETTER E WITH ACUTE" in names["test"]
    assert not any(" LETTER E WITH ACUTE" in name for name in easy if " LATIN " in name)
    assert len(easy) == tasks.glyphs("train").n_classes - len(names["test"] | names["validation"])
    wanted = {"queries": 3, "seed": 1}
    hard = hetrom_tasks.test_tasks({**GLYPHS, "kind": "easy"}, "test", wanted)
    for task in hard.batch(0, 20):
        assert len(set(task.tags["groups"])) == 1 and set(task.tags["classes"]) <= names["test"]


def test_one_task_in_ten_is_hard():
    mixed = tasks_of("easy", rate=0.1)
    components = [mixed[i].tags["component"] for i in range(500)]
    assert 0.06 < sum(components) / 500 < 0.14
    hard = mixed[components.index(1)]
    assert set(hard.tags["groups"]) <= set(hetrom_tasks.FAMILIES["train"])


def test_every_arm_of_a_seed_sees_the_same_tasks_and_is_tested_on_the_same():
    jobs = [job for job in hetrom.all_jobs(False) if job.run is hetrom_jobs.training]
    together = {}
    for job in jobs:
        shared = ("tasks", "training", "model", "algorithm", "seed")
        kind, rate, seed = (
            job.config["tasks"]["kind"],
            job.config["tasks"]["rate"],
            job.config["seed"],
        )
        together.setdefault((kind, rate, seed), []).append({n: job.config[n] for n in shared})
        assert job.config["test"]["test"] == {"tasks": 600, "queries": 10, "seed": 1}
    assert all(each == group[0] for group in together.values() for each in group)
    assert {seed for _, _, seed in together} == {0, 1, 2} and len(together) == 6 * 3


def test_the_arms_are_those_of_the_criteria():
    rank_loss = {job.name: job.config.get("aggregate") for job in hetrom.all_jobs(False)}
    for kind in hetrom.KINDS:
        for rate, m in ((0.3, 5), (0.5, 8)):
            assert math.ceil(16 * rate) == m
            name = f"{kind}-{rate}-range-{m}-16-2"
            assert rank_loss[name] == {"name": "range", "m": m, "k": 16}
            assert {f"{kind}-{rate}-{arm}-0" for arm in ("mean", "max", "top", "oracle")} < set(
                rank_loss
            )
    clean, noisy = tasks_of("clean"), tasks_of("labels", rate=0.5)
    kept = hetrom_jobs.aggregate({"name": "oracle"}, noisy, None).select(torch.ones(16)) > 0
    assert kept.tolist() == [not noisy[i].tags["noisy"] for i in range(16)]
    assert repr(hetrom_jobs.aggregate({"name": "guided"}, clean, None)) == repr(
        rank_losses.LogNormalGuidance(z_low=-2.0, z_high=1.0)
    )
    assert hetrom_jobs.aggregate({"name": "mean"}, clean, None) is torch.mean


# A training


def test_a_training_is_resumed_and_measured(tmp_path):
    config = {
        **hetrom_arms.LEARNER,
        "model": {**hetrom_arms.LEARNER["model"], "width": 4},
        "tasks": {**GLYPHS, "kind": "labels", "rate": 0.5},
        "aggregate": {"name": "guided"},
        "training": {"steps": 4, "tasks_per_step": 4, "outer_lr": 0.01},
        "test": {split: {"tasks": 6, "queries": 2, "seed": 1} for split in ("test", "validation")},
        "fit": 70,  # among them tasks whose support lacks the last label
        "seed": 3,
    }
    values = hetrom_jobs.training(config, tmp_path)
    assert values.keys() == {"skipped", "test", "validation", "rejection", "fit"}
    assert len(values["test"].split()) == 6 and values["test"] != values["validation"]
    assert values["fit"]["n"] == 70 and len(values["rejection"]["kept"]) == 4
    assert hetrom_jobs.training(config, tmp_path) == values  # from its last checkpoint
    fresh = hetrom_tasks.training_tasks(config["tasks"], 1003)
    assert any(fresh[i].support_y.max() < 4 for i in range(70))


def test_the_mean_is_the_full_range_to_the_bit_and_another_range_is_not(tmp_path, monkeypatch):
    config = {
        **hetrom_arms.LEARNER,
        "model": {**hetrom_arms.LEARNER["model"], "width": 4},
        "tasks": {**GLYPHS, "kind": "clean"},
        "training": {"steps": 3, "tasks_per_step": 4, "outer_lr": 0.01},
        "seed": 0,
    }
    assert hetrom_jobs.same_bits(config, tmp_path) == {"equal": True}
    other = rank_losses.RankedRange(0, 3)
    monkeypatch.setattr(hetrom_jobs, "RankedRange", lambda m, k: other)
    assert hetrom_jobs.same_bits(config, tmp_path) == {"equal": False}


# Measures


class Tagged:
    """Tasks 0, 1, 4, 5, 8, 9 .. are noisy."""

    def __getitem__(self, i):
        return tasks.Task(*[torch.zeros(1)] * 4, tags={"noisy": i % 4 < 2})


def test_rejection_is_counted_by_fourths():
    half, all_of_them, wrong = (2, 3), (0, 1, 2, 3), (0, 1)
    log = [Selection(None, None, kept) for kept in (half, (1, 2, 3), all_of_them, wrong)]
    assert hetrom_jobs.rejection(log, Tagged(), "noisy", 4) == {
        "precision": [1.0, 1.0, None, 0.0],
        "recall": [1.0, 0.5, 0.0, 0.0],
        "kept": [0.5, 0.75, 1.0, 0.5],
    }


# Verdicts


def values_of(accuracy, seed, spread=0.02, **more):
    """A job's values: 600 tasks of about this accuracy, noise shared by the arms of a seed."""
    g = torch.Generator().manual_seed(seed)
    shared = 0.05 * torch.randn(600, generator=g)
    own = spread * torch.randn(600, generator=torch.Generator().manual_seed(hash(accuracy) % 1000))
    found = ((accuracy + shared + own).clamp(0, 1) * 50).round() / 50
    return {"test": correct_counts(found, 50), **more}


def results(accuracy, **more):
    return Results(
        {f"{arm}-{s}": values_of(a, s, **more) for arm, a in accuracy.items() for s in range(3)}
    )


def noise(mean, **changes):
    found = {}
    for kind in hetrom.KINDS:
        for rate, arm, gain in ((0.3, "range-5-16", 0.02), (0.5, "range-8-16", 0.04)):
            gain = changes.get(f"{kind}-{rate}", gain)
            found |= {f"{kind}-{rate}-mean": mean, f"{kind}-{rate}-{arm}": mean + gain}
            found |= {f"{kind}-{rate}-oracle": mean + 0.05, f"{kind}-{rate}-max": mean - 0.2}
    return results(found)


def test_claim_1_needs_a_gain_that_grows_for_both_kinds_of_noise():
    verdict = hetrom.CLAIMS[0].verdict(noise(0.7))
    assert verdict.holds is True
    values = verdict.values["labels-0.5"]
    assert values["hetrom - mean"]["mean"] == pytest.approx(0.04, abs=0.004)
    assert values["share of mean -> oracle"] == pytest.approx(0.8, abs=0.1)
    assert values["max - mean"]["mean"] == pytest.approx(-0.2, abs=0.004)
    assert values["accuracy"]["hetrom"] == pytest.approx(0.74, abs=0.004)
    gap = values["hetrom - mean"]
    assert f"{gap['mean']:+.4f} ± {gap['over_tasks']:.4f} over 600 tasks" in verdict.sentence
    for changes in (
        {"labels-0.5": 0.0, "labels-0.3": -0.02},  # no gain at half
        {"outliers-0.5": -0.02, "outliers-0.3": -0.04},
        {"labels-0.3": 0.06},  # the gain shrinks
        {"outliers-0.3": 0.06},
    ):
        assert hetrom.CLAIMS[0].verdict(noise(0.7, **changes)).holds is False
    unsure = {
        f"{kind}-{rate}": gain
        for kind in hetrom.KINDS
        for rate, gain in ((0.3, -0.01), (0.5, 0.001))
    }
    verdict = hetrom.CLAIMS[0].verdict(noise(0.7, **unsure))
    gap = verdict.values["labels-0.5"]["hetrom - mean"]
    assert verdict.holds is False and 0 < gap["mean"] < gap["over_tasks"]


@pytest.mark.parametrize(("gain", "holds"), [(0.03, True), (-0.03, False), (0.0, False)])
def test_claim_2_needs_a_gain_on_hard_tasks_for_what_validation_chose(gain, holds):
    spread = 0.0 if gain == 0 else 0.02
    found = results({"easy-top-8": 0.6 + gain, "easy-mean": 0.6}, spread=spread)
    found |= results({"easy-top-4": 0.6 + (0.1 if gain < 0 else -0.1)})
    for name, values in found.items():
        values["easy"] = values_of(0.9 - gain, 3)["test"]
        values["validation"] = values_of(0.7 if "top-8" in name else 0.5, 4)["test"]
    verdict = hetrom.CLAIMS[1].verdict(found)
    assert verdict.holds is holds and verdict.sentence.startswith("hardest 8 of 16")


@pytest.mark.parametrize(
    ("gain", "same", "holds"),
    [(0.0, True, True), (0.02, True, True), (-0.02, True, False), (0.0, False, False)],
)
def test_claim_3_allows_no_loss_and_no_other_bits(gain, same, holds):
    found = results({"clean-range-5-16": 0.9 + gain, "clean-mean": 0.9})
    if gain == 0:
        found |= {f"clean-range-5-16-{s}": found[f"clean-mean-{s}"] for s in range(3)}
    found["same-bits"] = {"equal": same}
    assert hetrom.CLAIMS[2].verdict(found).holds is holds


def guidance(sg, validation):
    """Test accuracy of the fixed ranks: 0.7 for all but (8, 14), which has 0.8."""
    fit = {"rejected_at_5_percent": True, "ks": 0.2, "qq": 0.9}
    found = results({"clean-sg": 0.9}, fit=fit)
    for rate in hetrom.RATES:
        found |= results({f"labels-{rate}-sg": sg[rate]}, fit=fit)
        for m, k in hetrom.GRID:
            arm = f"labels-{rate}-range-{m}-{k}"
            of_test = 0.8 if (m, k) == (8, 14) else 0.7
            for s in range(3):
                chosen = values_of(validation[m, k], s + 50)["test"]
                found[f"{arm}-{s}"] = values_of(of_test, s, validation=chosen)
    return hetrom.CLAIMS[3].verdict(found)


def test_claim_4_compares_with_the_ranks_that_validation_chose():
    validation = {(5, 14): 0.5, (5, 16): 0.6, (8, 14): 0.4, (8, 16): 0.5}
    good = {0.3: 0.75, 0.5: 0.75}
    verdict = guidance(good, validation)
    assert verdict.holds is True and verdict.values["0.3"]["best"] == "labels-0.3-range-5-16"
    assert "rejected for 3 of 3 seeds (KS 0.200-0.200" in verdict.sentence
    assert guidance(good, {**validation, (8, 14): 0.9}).holds is False
    for worse in hetrom.RATES:
        assert guidance({**good, worse: 0.65}, validation).holds is False


@pytest.mark.parametrize(("seconds", "holds"), [(0.9, True), (1.0, True), (1.1, False)])
def test_claim_5_compares_the_cost_of_a_step(seconds, holds):
    rejection = {"precision": [0.4, 0.6, 0.8, 0.9], "recall": [0.5, 0.6, 0.7, 0.8]}
    found = results(
        {
            f"{kind}-{rate}-{hetrom_arms.fitting_arm(rate)}": 0.7
            for kind in hetrom.KINDS
            for rate in hetrom.RATES
        },
        rejection=rejection,
    )
    found["cost"] = {"seconds_per_step": {"mean": 1.0, "hetrom": seconds, "sg": 1.0}}
    verdict = hetrom.CLAIMS[4].verdict(found)
    assert verdict.holds is holds and "labels-0.5-range-8-16 0.40 -> 0.90" in verdict.sentence
    assert verdict.values["rejection"]["labels-0.3-range-5-16"]["recall"] == pytest.approx(
        rejection["recall"]
    )


def test_a_quick_run_decides_what_its_arms_allow():
    quick = {job.name for job in hetrom.all_jobs(True)}
    assert {"same-bits", "cost", "labels-0.5-range-8-16-0", "easy-top-8-0"} < quick
    assert not any(name.endswith(("-1", "-2")) for name in quick - {"range-5-1"})
    everything = {job.name for job in hetrom.all_jobs(False)}
    assert quick < everything
