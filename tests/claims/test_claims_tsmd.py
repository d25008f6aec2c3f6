"""The TSMD study: its arms, and verdicts that follow from numbers alone."""

import pytest
import torch

from metalearn_tut.claims import Results, learners
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.claims.tsmd import arms as tsmd_arms
from metalearn_tut.claims.tsmd import claims as tsmd
from metalearn_tut.claims.tsmd import jobs as tsmd_jobs

ORDER, ADAPTED, COSTS, SWEEPS, LONGER, MORE = tsmd.CLAIMS
SAME = {"parameters": 10, "macs": 20, "bytes": 30}


def by_name(quick=False):
    return {job.name: job for job in tsmd_arms.all_jobs(quick)}


@pytest.mark.parametrize("quick", [False, True])
def test_all_learners_of_a_shot_and_seed_have_one_training_and_one_test(quick):
    jobs = by_name(quick)
    assert len(jobs) == len(tsmd_arms.all_jobs(quick)) == (19 if quick else 65)
    for name, job in jobs.items():
        if job.run not in (learners.train_and_test, tsmd_jobs.taught):
            continue
        arm, _, rest = job.config["name"].rpartition("_")
        shots, seed = (int(part) for part in rest.split("-"))
        assert job.config["name"] == name and job.config["seed"] == seed
        assert job.config["data"]["shots"] == shots
        whole = jobs[f"student_{shots}-{seed}"].config
        assert job.config["test"] == whole["test"]
        if arm != "start":
            assert job.config["training"] == whole["training"]
        if job.run is tsmd_jobs.taught and "width" not in arm:
            assert all(job.config[part] == whole[part] for part in ("model", "algorithm"))


def test_teachers_are_those_of_the_same_shots_and_seed_and_the_fixed_one_begins_where_tsmd_does():
    jobs = by_name()
    for name, job in jobs.items():
        if "teacher" in job.config and name != "costs":
            which = "start" if name.startswith(("fixed", "tsmd")) else "oracle"
            end = name.rpartition("_")[2]
            assert job.config["teacher"] == jobs[f"{which}_{end}"].config
    for end in ("1-0", "5-2"):
        tsmd_job, oracle = jobs[f"tsmd_{end}"].config, jobs[f"oracle_{end}"].config
        assert tsmd_job["same"] == oracle and oracle["start"] == jobs[f"start_{end}"].config
        assert "fixed_teacher" not in tsmd_job["distil"]
        assert jobs[f"fixed_{end}"].config["distil"] == {
            **tsmd_job["distil"],
            "fixed_teacher": True,
        }


def test_the_student_is_a_twentieth_of_the_teacher_at_most():
    found = tsmd_jobs.costs(by_name()["costs"].config, None)
    assert 20 * found["student"]["parameters"] <= found["teacher"]["parameters"]
    assert found["taught"] == found["student"] != found["teacher"]
    # 3 steps of 3 passes, and one to answer; 5 steps of 3 passes; 5 support images
    assert found["adaptation"]["teacher"] == 10 * 5 * found["teacher"]["macs"]
    assert found["adaptation"]["student"] == 15 * 5 * found["student"]["macs"]


def study(quick=False, **levels):
    """Made-up results: each arm's accuracy, 0.8 where nothing is said, noise shared by all."""
    noise = 0.05 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    levels = {"fixed": 0.82, "tsmd": 0.84, "oracle": 0.9, "taught_by_oracle": 0.84, **levels}
    found = Results()
    for job in tsmd_arms.all_jobs(quick):
        arm = job.name.rpartition("_")[0]
        at = {"test": levels.get(arm, 0.8)}
        if arm == "unlabeled":
            at = {w: levels.get(w, 0.8) for w in ("alone", "teacher", "own", "true")}
        found[job.name] = {w: correct_counts((x + noise).clamp(0, 1), 50) for w, x in at.items()}
        found[job.name]["same_teacher"] = True
    taught = levels.get("taught", SAME)
    work = {"teacher": 100, "student": 50}
    found["costs"] = {"taught": taught, "student": SAME, "teacher": SAME, "adaptation": work}
    return found


@pytest.mark.parametrize(("arm", "level"), [("fixed", 0.79), ("tsmd", 0.81), ("oracle", 0.83)])
def test_the_ordering_breaks_at_any_rung(arm, level):
    assert ORDER.verdict(study()).holds is True
    assert ORDER.verdict(study(**{arm: level})).holds is False


def test_the_ordering_must_hold_with_five_shots_too():
    found = study()
    for seed in tsmd_arms.SEEDS:
        found[f"tsmd_5-{seed}"] = found[f"student_5-{seed}"]
    assert ORDER.verdict(found).holds is False


@pytest.mark.parametrize("arm", ["unadapted", "test_only"])
def test_adaptation_must_beat_both_others(arm):
    assert ADAPTED.verdict(study()).holds is True
    assert ADAPTED.verdict(study(**{arm: 0.85})).holds is False


def test_what_is_deployed_must_cost_the_same():
    assert COSTS.verdict(study()).holds is True
    verdict = COSTS.verdict(study(taught={**SAME, "bytes": 31}))
    assert verdict.holds is False
    assert verdict.values["adaptation_ratio"] == 3


def test_guidance_must_help_the_smallest_and_the_larger_less():
    small = {"taught_by_oracle_width4": 0.85}
    assert SWEEPS.verdict(study(**small)).holds is True
    assert SWEEPS.verdict(study(**small, taught_by_oracle=0.86)).holds is False
    below = {"taught_by_oracle_width4": 0.79, "taught_by_oracle": 0.75}
    assert SWEEPS.verdict(study(**below)).holds is False
    values = SWEEPS.verdict(study(rkd=0.83)).values
    assert values["rkd - student"]["mean"] == pytest.approx(0.03, abs=0.005)


def test_the_teacher_must_beat_more_steps():
    assert LONGER.verdict(study()).holds is True
    assert LONGER.verdict(study(student_longer=0.85)).holds is False


def test_soft_labels_of_more_images_must_beat_none_and_ones_own():
    assert MORE.verdict(study(teacher=0.85)).holds is True
    assert MORE.verdict(study(teacher=0.85, own=0.86)).holds is False
    assert MORE.verdict(study(teacher=0.79, own=0.7)).holds is False


def test_a_quick_run_is_decided_by_one_shot():
    assert [c.verdict(study(True, teacher=0.85)).holds for c in (ORDER, MORE)] == [True, True]


def test_without_results_nothing_is_decided():
    assert [claim.verdict(Results()).holds for claim in tsmd.CLAIMS] == [None] * 6
