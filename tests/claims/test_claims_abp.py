"""The ABP studies: arms of equal effort, jobs that go on from one another, and their images."""

import copy

import numpy as np
import pytest
import torch

from metalearn_tut import claims
from metalearn_tut.block_voting import block_budget
from metalearn_tut.claims.abp import claims as abp
from metalearn_tut.claims.abp import design, jobs, pictures
from metalearn_tut.claims.statistics import accuracies
from metalearn_tut.models import CifarResNet

NAMES = ("abp", "abp_cifar10")


def epochs(config):
    """Epochs in all, and those with a teacher, of what a job ends with."""
    stages = config["setup"]["epochs"]
    arm = config["name"].split("-")[-2]
    if arm in ("gates", "alone"):
        return stages["gates"], 0
    rounds = config["n_prune"] if "n_prune" in config else config.get("rounds", 0)
    if arm == "scratch":
        taught = config["after"]["config"]["n_prune"] * stages["round"]
        return stages["gates"] + taught + stages["final"], taught
    before, taught = epochs(config["after"]["config"])
    if arm == "filters":  # goes on from ABP's rounds, and has a last training of its own
        rounds -= config["after"]["config"]["n_prune"]
    taught += rounds * stages["round"]
    last = stages["narrow"] if arm in ("filters", "longer") else stages["final"]
    return before + rounds * stages["round"] + last, taught


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_arms_that_are_compared_have_as_many_epochs_of_each_kind(name, quick):
    study = claims.load(name)
    found = {job.name: epochs(job.config) for job in study.jobs(quick)}
    seeds = study.seeds[:1] if quick else study.seeds
    for claim in study.claims:
        assert {found[f"{arm}-{s}"] for arm in (claim.arm, claim.rival) for s in seeds} == {
            found[f"{claim.arm}-0"]
        }, claim.text
    for arm in design.OTHERS if not quick else ():
        assert found[f"{arm}-0"] == found["abp-0"]


@pytest.mark.parametrize("name", NAMES)
def test_arms_of_a_seed_start_from_the_same_and_differ_in_one_thing(name):
    found = {job.name: job.config for job in claims.load(name).jobs(False)}
    for arm, what in (("random", "rule"), ("mean", "rule"), ("undistilled", "kd_weight")):
        ours, theirs = copy.deepcopy(found["abp-1"]), copy.deepcopy(found[f"{arm}-1"])
        assert theirs["voting"].pop(what) is not None
        assert {**theirs, "name": "", "factor": 0} == {**ours, "name": "", "factor": 0}
    for job in found.values():
        for how in ("after", "taught"):
            if how in job:
                assert job[how]["config"] == found[job[how]["job"]]
                assert job[how]["config"]["setup"] == job["setup"]
    assert found["scratch-2"]["after"]["job"] == "abp-2"
    assert found["abp-2"]["n_prune"] == block_budget(CifarResNet(20), 0.4) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_pilot_sees_no_test_image_and_what_it_chose_is_in_the_jobs(name):
    study = claims.load(name)
    assert all(job.config["setup"]["judge"] == "validation" for job in study.pilots())
    assert {job.name for job in study.pilots()} >= {
        f"{arm}-{point}" for arm in design.TUNED for point in design.GRID
    }
    factors = {job.name[:-2]: job.config.get("factor") for job in study.jobs(False)}
    expected = {"abp": 2.0, "random": 2.0, "unpruned": 2.0, "scratch": 2.0, "filters": 0.5}
    if name == "abp_cifar10":
        assert expected.items() <= factors.items()


def test_jobs_come_after_those_that_they_need():
    for name in NAMES:
        seen = set()
        for job in claims.load(name).jobs(False):
            assert design.needs(job) <= seen
            seen.add(job.config["name"])


# Images


def test_an_emoji_is_tested_on_an_artist_who_was_not_trained_on():
    parts = pictures.parts_of({"name": "emoji", "classes": 40})
    seen = {part: {image.tobytes() for image in x} for part, (x, _) in parts.items()}
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    for part in ("validation", "test"):
        assert parts[part][1].tolist() == list(range(40))
    x, y = parts["train"]
    assert x.shape[1:] == (3, 32, 32) and np.bincount(y).min() >= 3
    assert 300 % pictures.TOGETHER["emoji"] == 0 and 10_000 % pictures.TOGETHER["cifar10"] == 0


# Jobs


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four jobs of one seed on a few images, in a folder as the runner has it."""
    base = {**abp.tiny("emoji"), "batch": 30}
    made = {
        job.name: job for job in design.study(base, 1, (0,), (), dict.fromkeys(design.TUNED, 1))
    }
    folder, values = tmp_path_factory.mktemp("out"), {}
    for name in ("gates-0", "abp-0", "scratch-0", "filters-0"):
        place = folder / "abp" / made[name].key
        place.mkdir(parents=True)
        values[name] = made[name].run(made[name].config, place)
    return folder, made, values


@pytest.mark.slow
def test_what_others_go_on_from_is_done_once_and_read_by_all(ran):
    folder, made, values = ran
    assert len(list((folder / "trained").iterdir())) == 2  # the network with gates, and ABP's
    setup = made["abp-0"].config["setup"]
    gated = design.work.made_by(
        {"config": made["abp-0"].config},
        folder / "abp" / "x",
        jobs._pruned,
        jobs.gated_network(setup),
    )
    removed = [block for each in values["abp-0"]["removed"] for block in each]
    assert gated.pruned == set(removed) and len(removed) == 3
    again = [b for each in values["filters-0"]["removed"] for b in each]
    assert len(again) == 2 and not set(again) & set(removed)


@pytest.mark.slow
def test_a_job_says_what_is_right_and_what_it_costs(ran):
    _, _, values = ran
    whole = 40551040  # multiply-adds of a ResNet-20; each plain block has 4,718,592
    assert values["abp-0"]["macs"] == values["scratch-0"]["macs"]
    assert values["abp-0"]["macs"] == pytest.approx((whole - 3 * 4718592) / whole, abs=1e-3)
    assert values["filters-0"]["macs"] <= 0.07
    for name in ("abp-0", "scratch-0", "filters-0"):
        assert len(accuracies(values[name]["test"])) == 20 / pictures.TOGETHER["emoji"]
        assert len(accuracies(values[name]["validation"])) == 1
    assert "test" not in values["gates-0"] and len(values["gates-0"]["marks"]) == 9


def test_without_gates_the_start_is_the_same():
    setup = {**abp.tiny("emoji"), "seed": 4}
    state = jobs.gated_network(setup).network.state_dict()
    alone, short = jobs.new_network(setup), jobs.new_network(setup, [1, 5])
    assert all(torch.equal(state[name], t) for name, t in alone.state_dict().items())
    assert all(torch.equal(state[name], t) for name, t in short.state_dict().items())


def test_a_study_of_a_gpu_says_so_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first = claims.load("abp_cifar10").jobs(False)[0]
    with pytest.raises(RuntimeError, match="the study abp, on emoji, needs none"):
        first.run(first.config, tmp_path / "abp_cifar10" / "gates-0")
