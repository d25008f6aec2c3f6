"""The second ANP study: its arms, and verdicts that follow from numbers alone."""

import pytest
import torch

from metalearn_tut.claims import Results, learners
from metalearn_tut.claims.anp import arms as anp_arms
from metalearn_tut.claims.anp import jobs as anp_jobs
from metalearn_tut.claims.anp import second as anp_second
from metalearn_tut.claims.statistics import correct_counts

ONE, TWO, THREE = anp_second.CLAIMS


@pytest.mark.parametrize("quick", [False, True])
def test_all_arms_of_a_setting_and_seed_have_one_start_one_training_and_one_test(quick):
    jobs = anp_second.all_jobs(quick)
    bases = {job.name: job.config for job in jobs if job.run is learners.train_and_test}
    arms = {job.name: job.config for job in jobs if job.run is anp_jobs.pruned}
    assert len(bases) + len(arms) == len(jobs) == (8 if quick else 33)
    for name, config in arms.items():
        setting, _, seed = name.split("-")
        assert config["dense"] == bases[f"{setting}-base-{seed}"]
        assert config["dense"]["name"] == f"{setting}-base-{seed}"
        assert config["dense"]["seed"] == int(seed)
        other = arms[f"{setting}-dense-{seed}"]
        assert other["score"] is None
        for part in ("dense", "schedule", "retrain", "test"):
            assert config[part] == other[part]
        assert set(config["test"]) == {"0.85", "before 0.85"}
        assert sum(config["schedule"]) == pytest.approx(0.85)


def test_what_was_not_to_change_is_as_in_the_first_study():
    first = {job.name: job.config for job in anp_arms.all_jobs(False)}
    second = {job.name: job.config for job in anp_second.all_jobs(False)}
    long, old = second["conv32_long-downdated-1"], first["conv32-downdated-1"]
    assert long["options"] == old["options"] and long["score"] == old["score"] == "anp"
    same = {**old["dense"], "name": long["dense"]["name"]}
    assert long["dense"] == same
    assert long["retrain"]["steps"] == [4 * n for n in old["retrain"]["steps"][:3]]
    assert long["test"]["0.85"] == old["test"]["0.85"]
    five, old = second["conv64_5shot-anp-2"], first["conv64-anp-2"]
    assert five["options"] == old["options"] and five["retrain"] == old["retrain"]
    assert five["dense"]["data"] == {**old["dense"]["data"], "shots": 5}
    assert five["dense"]["model"] == old["dense"]["model"]


def study(**levels):
    """Made-up results: each arm's accuracy, 0.9 where nothing is said, noise shared by all."""
    noise = 0.05 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    found = Results()
    for job in anp_second.all_jobs(False):
        level = levels.get(job.name.rpartition("-")[0].replace("-", "_"), 0.9)
        right = correct_counts((level + noise).clamp(0, 1), 50)
        found[job.name] = {"0.85": right, "before 0.85": right}
    return found


@pytest.mark.parametrize(("level", "holds"), [(0.88, False), (0.895, True), (0.91, True)])
@pytest.mark.parametrize(
    ("claim", "arm"), [(ONE, "conv64_5shot_anp"), (THREE, "conv32_long_downdated")]
)
def test_parity_allows_a_loss_of_one_point(claim, arm, level, holds):
    assert claim.verdict(study(**{arm: level})).holds is holds


def test_parity_is_decided_by_the_wider_network():
    assert ONE.verdict(study(conv32_5shot_anp=0.5)).holds is True


def test_the_score_must_beat_both_others():
    worse = {"conv32_5shot_lobs": 0.88, "conv32_5shot_magnitude": 0.88}
    assert TWO.verdict(study(**worse)).holds is True
    assert TWO.verdict(study(conv32_5shot_lobs=0.88)).holds is False
    assert TWO.verdict(study(conv32_5shot_magnitude=0.88)).holds is False


def test_what_was_not_run_is_not_decided():
    found = study()
    for seed in anp_second.SEEDS:
        del found[f"conv32_long-dense-{seed}"]
    assert [claim.verdict(found).holds for claim in anp_second.CLAIMS] == [True, False, None]


def test_without_results_nothing_is_decided():
    assert [claim.verdict(Results()).holds for claim in anp_second.CLAIMS] == [None] * 3
