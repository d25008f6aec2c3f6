"""The ABP studies: arms of equal effort, their jobs on a small scale, verdicts from numbers."""

import copy

import numpy as np
import pytest
import torch

from metalearn_tut import block_voting, tasks
from metalearn_tut.claims import Results, records
from metalearn_tut.claims.abp import arms as abp_arms
from metalearn_tut.claims.abp import cifar as abp_cifar
from metalearn_tut.claims.abp import claims as abp
from metalearn_tut.claims.abp import jobs as abp_jobs
from metalearn_tut.claims.abp import second as abp_second
from metalearn_tut.claims.study import Job
from metalearn_tut.evaluation import cost
from metalearn_tut.models import CifarResNet

ONE, TWO, THREE, FOUR, FIVE = abp.CLAIMS
STUDIES = {"abp": abp.STUDY, "abp_cifar": abp_cifar.STUDY}
SETUP = {
    **abp_arms.CHARACTERS,
    "data": {"name": "characters", "classes": 3, "per_class": [2, 1]},
    "classes": 3,
    "batch": 3,
    "recipes": {
        stage: {"epochs": 1, "lr": 0.05}
        for stage in ("gates", "round", "final", "filters", "narrow")
    },
}


# Arms


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("study", STUDIES)
def test_every_arm_has_as_many_epochs_and_as_many_of_distillation(study, quick):
    jobs = {job.name: job.config for job in STUDIES[study].jobs(quick)}
    totals = set()
    for name, config in jobs.items():
        if "final" not in config:
            continue
        voting = config.get("voting", {})
        rounds = config.get("rounds", voting.get("n_prune", 0) // voting.get("per_round", 1))
        distilled = rounds * config["epochs"]
        totals.add(config["gates"]["recipes"]["gates"]["epochs"] + distilled + config["final"])
        ratio, seed = name.split("-")[1:]
        rival = jobs[f"abp-{ratio}-{seed}"]
        assert distilled == rival["voting"]["n_prune"] * rival["epochs"], name
        assert config["gates"] == rival["gates"] == jobs[f"gates-{seed}"]
        assert config["gates"]["name"] == f"gates-{seed}"
        assert config["gates"]["seed"] == int(seed)
    assert len(totals) == 1
    if not quick:  # as the criteria say
        assert f"{totals.pop()} in all" in STUDIES[study].claims[1].criterion


def test_what_another_job_made_is_named_by_its_own_configuration():
    jobs = {job.name: job.config for job in abp_arms.all_jobs(False)}
    more = {job.name: job.config for job in abp_second.all_jobs(False)}
    for name, config in [*jobs.items(), *more.items()]:
        if "of" in config:
            assert config["arm"] == jobs[config["of"]], name


def test_images_of_a_character_are_in_one_part_each():
    parts = abp_jobs.characters(abp_arms.CHARACTERS["data"])
    assert {name: len(x) for name, (x, _) in parts.items()} == {
        "train": 800,
        "validation": 400,
        "test": 800,
    }
    seen = [{image.tobytes() for image in x} for x, _ in parts.values()]
    assert len(set.union(*seen)) == sum(map(len, seen)) > 1990
    for x, y in parts.values():
        assert np.bincount(y).tolist() == [len(y) // 100] * 100
        assert x.shape[1:] == (3, 32, 32) and (x[:, 0] == x[:, 2]).all()
        assert not x[:, :, :2].any() and not x[..., -2:].any()
    again = abp_jobs.characters(abp_arms.CHARACTERS["data"])
    assert all((again[n][0] == x).all() for n, (x, _) in parts.items())
    source, (x, y) = tasks.glyphs("train"), parts["test"]
    chosen = np.sort(np.random.default_rng(0).permutation(source.n_classes)[:100])
    own = {image.tobytes() for image in source.images_of(int(chosen[y[5]]), range(20))}
    assert x[5][0, 2:-2, 2:-2].tobytes() in own


# Jobs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The jobs of one seed, run in one folder as the runner does."""
    folder, values = tmp_path_factory.mktemp("abp"), {}
    first = Job("gates-0", abp_arms.gated_config(SETUP, 0), abp_jobs.train_gated)
    wanted = ("abp-0.4-0", "random-0.4-0", "unpruned-0.4-0", "scratch-0.4-0")
    arms = [job for job in abp_arms.arm_jobs(SETUP, 0) if job.name in wanted]
    for job in (first, *arms):
        values[job.name] = job.run(job.config, folder / job.key)
    return folder, values, {job.name: job for job in (first, *arms)}


@pytest.mark.slow
def test_an_arm_removes_its_blocks_and_says_what_is_right(done):
    folder, values, jobs = done
    found = values["abp-0.4-0"]
    assert [len(removed) for removed in found["removed"]] == [1, 1, 1]
    assert found["votes"][0]["candidates"] == [1, 2, 4, 5, 7, 8]
    data = abp_jobs.images(SETUP["data"])
    job = jobs["abp-0.4-0"]
    _, final = abp_jobs.pruned_network(job.config, folder / job.key, data["train"], data["test"])
    share = block_voting.image_accuracy(final.network, data["test"])
    assert np.mean([int(r) for r in found["test"].split()]) == pytest.approx(share)
    assert len(found["test"].split()) == 3 * 17
    assert final.soft == found["soft"] and final.ungated == found["ungated"]
    assert len(final.network.blocks) == 6
    assert found["macs"] == values["scratch-0.4-0"]["macs"] < values["unpruned-0.4-0"]["macs"]


@pytest.mark.slow
def test_arms_start_from_the_gates_of_their_seed(done, monkeypatch):
    folder, values, jobs = done
    job, seen = jobs["random-0.4-0"], []
    monkeypatch.setattr(records, "record_of", lambda job, where: {"there": job.name})
    real = block_voting.vote_and_prune

    def spy(gated, *args, **options):
        seen.append(copy.deepcopy(gated.state_dict()))
        return real(gated, *args, **options)

    monkeypatch.setattr(block_voting, "vote_and_prune", spy)
    assert abp_jobs.pruned(job.config, folder / job.key) == values["random-0.4-0"]
    train = abp_jobs.images(SETUP["data"])["train"]
    setup = jobs["gates-0"]
    expected = abp_jobs.gated_network(setup.config, folder / setup.key, train).state_dict()
    assert all(torch.equal(seen[0][name], tensor) for name, tensor in expected.items())


def test_without_prunes_and_gates_the_start_is_the_same(tmp_path):
    config = abp_arms.gated_config(SETUP, 4)
    short = {n: {**how, "epochs": 0} for n, how in SETUP["recipes"].items()}
    config = {**config, "recipes": short}
    data = abp_jobs.images(SETUP["data"])["train"]
    gated = abp_jobs.gated_network(config, tmp_path / "a", data)
    arm = {"gates": config, "rounds": 0, "epochs": 0, "final": 0}
    alone = abp_jobs.unpruned_network(arm, tmp_path / "b", data)
    state = gated.network.state_dict()
    assert all(torch.equal(state[name], t) for name, t in alone.state_dict().items())


@pytest.mark.slow
def test_filters_start_from_the_network_of_the_arm(done, tmp_path, monkeypatch):
    folder, _, jobs = done
    arm = jobs["abp-0.4-0"]
    monkeypatch.setattr(records, "record_of", lambda job, where: {"there": job.name})
    seen = []
    real = block_voting.soft_filter_prune

    def spy(network, *args, **options):
        seen.append(copy.deepcopy(network).state_dict())
        return real(network, *args, **options)

    monkeypatch.setattr(block_voting, "soft_filter_prune", spy)
    config = {"of": arm.name, "arm": arm.config, "kept": 0.5}
    found = abp_jobs.prune_filters(config, folder / "filters")
    train = abp_jobs.images(SETUP["data"])["train"]
    expected = abp_jobs.pruned_network(arm.config, folder / arm.key, train)[1].network
    assert all(torch.equal(seen[0][n], t) for n, t in expected.state_dict().items())
    stem, head, plain = 442368, 3 * 64, 4718592  # the halves of a plain block cost the same
    narrowing, narrowed = 1179648, 2359296  # those of a block that changes the shape do not
    assert found["macs"] == stem / 2 + head + 4 * plain * (1 / 2 + 1 / 4) / 2 + 2 * (
        narrowing / 2 + narrowed / 4
    )


@pytest.mark.slow
def test_filters_of_the_second_study_start_from_the_first_one(done, tmp_path, monkeypatch):
    folder, _, jobs = done
    arm, study = jobs["abp-0.4-0"], folder.parent / "abp"
    study.exists() or study.symlink_to(folder)
    monkeypatch.setattr(records, "record_of", lambda job, where: (where / job.key).exists() or None)
    seen = []
    monkeypatch.setattr(abp_jobs, "pruned_network", lambda arm, source, train: seen.append(source))
    work = folder.parent / "abp_second" / "soft"
    for config in (arm.config, {**arm.config, "epochs": 7}):
        with pytest.raises(TypeError):  # there is no network in what was put in its place
            abp_jobs.prune_filters({"of": arm.name, "arm": config, "kept": 0.5}, work)
    assert seen == [study / arm.key, work / arm.name]


@pytest.mark.slow
def test_filters_are_pruned_by_the_recipes_of_their_own_study(done, monkeypatch):
    folder, _, jobs = done
    arm, seen = jobs["abp-0.4-0"], []
    monkeypatch.setattr(records, "record_of", lambda job, where: {"there": job.name})
    monkeypatch.setattr(
        block_voting,
        "soft_filter_prune",
        lambda network, data, kept, recipe, **_: seen.append(recipe) or network,
    )
    recipes = {stage: {"epochs": 0, "lr": rate} for stage, rate in (("filters", 3), ("narrow", 4))}
    config = {"of": arm.name, "arm": arm.config, "kept": 0.5, "recipes": recipes}
    abp_jobs.prune_filters(config, folder / "other")
    assert [(r.epochs, r.lr) for r in seen] == [(0, 3)]


def test_latency_counts_blocks_and_compares_in_turns(monkeypatch):
    """On a machine on which time goes by multiply-adds."""
    monkeypatch.setattr(cost, "latency", lambda network, shape, *_, **__: cost.macs(network, shape))
    asked = {"depths": [20], "ratios": [0.6], "batches": [2], "turns": 3}
    found = abp_jobs.latency(asked, None)["20 0.6"]
    assert found["removed"] == 5
    assert found["macs"] == pytest.approx(1 - 5 * 4718592 / 40552576, abs=1e-4)
    assert found["latency"]["2"] == found["macs"]


# Verdicts


def study(jobs=None, **levels):
    """Made-up results: each arm's accuracy, 0.8 where nothing is said, luck shared by all."""
    luck = torch.rand(800, generator=torch.Generator().manual_seed(0))
    found = Results()
    for job in jobs or abp_arms.all_jobs(False):
        level = levels.get(job.name.rpartition("-")[0].replace("-", "_").replace(".", ""), 0.8)
        found[job.name] = {
            "test": " ".join(str(int(r)) for r in luck < level),
            **{"soft": 0.5, "ungated": 0.4, "removed": [[1], [2], [4]], "macs": 1000},
        }
    ratios = {"macs": 0.6, "latency": {"1": 0.62, "64": 0.65}}
    found["latency"] = {"20 0.4": ratios}
    return found


@pytest.mark.slow
def test_the_arithmetic_needs_no_run_and_finds_other_blocks_wrong(monkeypatch):
    assert ONE.verdict(Results()).holds is True
    deep = ONE.verdict(Results()).values["110"]
    total = 442368 + 52 * 4718592 + 2 * 3538944 + 640
    assert deep["0.4"] == pytest.approx(100 * 21 * 4718592 / total)
    monkeypatch.setattr(abp, "TABLE", ((56, None, 0.2, 15.0),))  # the rule's five blocks
    assert ONE.verdict(Results()).holds is False


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(("level", "holds"), [(0.82, True), (0.8, True), (0.77, False)])
def test_a_loss_must_not_lie_beyond_the_interval(level, holds):
    assert TWO.verdict(study(abp_04=level, abp_06=0.5)).holds is holds
    on_photographs = abp_cifar.CLAIMS[0].verdict(study(abp_cifar.all_jobs(False), abp_04=level))
    assert on_photographs.holds is holds


def test_votes_must_beat_every_other_way():
    others = ("random_04", "oneshot_04", "undistilled_04", "scratch_04")
    worse = dict.fromkeys(others, 0.75)
    assert THREE.verdict(study(**worse)).holds is True
    for other in others:
        assert THREE.verdict(study(**{**worse, other: 0.8})).holds is False
    assert abp_cifar.CLAIMS[1].verdict(study(random_04=0.75)).holds is True
    assert abp_cifar.CLAIMS[1].verdict(study()).holds is False


@pytest.mark.parametrize(("at_64", "holds"), [(0.65, True), (0.67, False)])
def test_time_must_fall_with_the_multiply_adds(at_64, holds):
    found = study()
    found["latency"]["20 0.4"]["latency"]["64"] = at_64
    assert FOUR.verdict(found).holds is holds


def test_the_shorter_network_must_be_the_better_start():
    assert FIVE.verdict(study(filters_abp_05=0.85)).holds is True
    assert FIVE.verdict(study()).holds is False


@pytest.mark.parametrize(("claim", "title"), [(0, "soft"), (1, "once")])
def test_so_it_must_in_the_second_study(claim, title):
    jobs, claim = abp_second.all_jobs(False), abp_second.CLAIMS[claim]
    assert claim.verdict(study(jobs, **{f"{title}_abp_05": 0.85})).holds is True
    assert claim.verdict(study(jobs)).holds is False
    assert set(claim.verdict(study(jobs)).values["curve"]) == {
        job.name.rpartition("-")[0] for job in jobs if job.name.startswith(title)
    }


def test_both_ways_of_the_second_study_have_as_many_epochs():
    ways = (abp_second.SOFT, abp_second.ONCE)
    assert [sum(how["epochs"] for how in way.values()) for way in ways] == [30, 30]


def test_half_of_the_filters_of_the_short_network_cost_no_more():
    torch.manual_seed(0)
    whole = CifarResNet(20)
    macs = {}
    for name, network, kept in (
        ("abp", block_voting.remove_blocks(whole, (1, 2, 4, 5, 7)), 0.5),
        ("alone", whole, 0.3),
    ):
        zeroed = copy.deepcopy(network)
        block_voting.zero_filters(zeroed, kept, norms=True)
        macs[name] = abp.cost.macs(block_voting.remove_zero_filters(zeroed), (3, 32, 32))
    assert macs["abp"] <= macs["alone"]


def test_without_results_nothing_is_decided_but_the_arithmetic():
    for study in (*STUDIES.values(), abp_second.STUDY):
        found = [claim.verdict(Results()).holds for claim in study.claims]
        assert found == [True if claim is ONE else None for claim in study.claims]
