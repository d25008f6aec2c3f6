"""The ANP study: its arms, its jobs on a small scale, and verdicts that follow from numbers."""

import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file

from metalearn_tut.claims import Results, learners
from metalearn_tut.claims.anp import arms as anp_arms
from metalearn_tut.claims.anp import claims as anp
from metalearn_tut.claims.anp import jobs as anp_jobs
from metalearn_tut.claims.records import write_record
from metalearn_tut.claims.statistics import accuracies, correct_counts
from metalearn_tut.claims.study import Job

SMALL = {"split": "validation", "tasks": 3, "queries": 2, "seed": 2}
DENSE = {
    "name": "base",
    "model": {"name": "Conv4", "in_channels": 1, "ways": 5, "width": 4, "norm": "support"},
    "algorithm": {
        "name": "maml",
        "inner_lr": 0.1,
        "inner_steps": 2,
        "rate_mode": "per_layer_and_step",
    },
    "data": {"shots": 1, "queries": 2},
    "training": {"steps": 2, "tasks_per_step": 2, "outer_lr": 0.003},
    "test": {"test": SMALL},
    "seed": 5,
}
CONFIG = {
    "dense": DENSE,
    "score": "anp",
    "schedule": [0.45, 0.25],
    "options": {"n_tasks": 2, "spare": ["blocks.0.conv", "head"]},
    "retrain": {"steps": [2, 1], "tasks_per_step": 2, "outer_lr": 0.01},
    "test": {name: SMALL for name in ("before 0.45", "0.45", "0.70", "validation 0.70")},
}


# Arms


def test_all_arms_of_a_network_and_seed_have_one_start_one_training_and_one_test():
    arms = {job.name: job.config for job in anp_arms.all_jobs(False) if job.run is anp_jobs.pruned}
    bases = {j.name: j.config for j in anp_arms.all_jobs(False) if j.run is learners.train_and_test}
    for name, config in arms.items():
        network, _, seed = name.split("-")
        other = arms[f"{network}-dense-{seed}"]
        assert config["dense"] == bases[f"{network}-base-{seed}"]
        assert config["dense"]["seed"] == int(seed)
        for part in ("dense", "schedule", "retrain"):
            assert config[part] == other[part]
        shares = {n: how for n, how in config["test"].items() if "validation" not in n}
        assert shares == {n: other["test"][n] for n in shares}
        assert config["test"]["0.85"]["tasks"] == 600
        chosen = config["test"].get("validation 0.85")
        assert chosen is None or chosen["split"] == "validation"
    spared = [arms[f"conv32-{score}-0"]["options"] for score in anp_arms.SCORES]
    assert all(options == spared[0] for options in spared)
    assert arms["conv32-uniform-0"]["options"]["spare"] == []


def test_the_schedule_removes_the_shares_that_are_named():
    total = 0.0
    for step, share in zip(anp_arms.SCHEDULE, anp_arms.SHARES, strict=True):
        total += step
        assert f"{total:.2f}" == share


def test_the_naive_way_has_as_many_steps_of_meta_training_as_anp():
    jobs = {job.name: job.config for job in anp_arms.all_jobs(False)}
    for share, rounds in (("0.85", 3), ("0.90", 4)):
        config, arm = jobs[f"naive-lobs-{share}-1"], jobs["conv32-anp-1"]
        steps = arm["dense"]["training"]["steps"] + sum(arm["retrain"]["steps"][:rounds])
        assert config["training"]["steps"] == steps
        assert config["schedule"] == arm["schedule"][:rounds]
        assert config["options"] == arm["options"]


@pytest.mark.parametrize("quick", [False, True])
def test_the_naive_way_is_tested_on_the_tasks_of_the_arm_it_is_compared_with(quick):
    jobs = {job.name: job.config for job in anp_arms.all_jobs(quick)}
    naive = [name for name in jobs if name.startswith("naive")]
    assert len(naive) == (1 if quick else 12)
    for name in naive:
        share, seed = name.split("-")[2:]
        assert jobs[name]["test"] == jobs[f"conv32-anp-{seed}"]["test"][share]


# Jobs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anp") / "arm"
    return folder, anp_jobs.pruned(CONFIG, folder)


def test_an_arm_removes_the_shares_and_is_tested_before_and_after_training(done):
    _, values = done
    assert values["kept"]["0.45"][""] == pytest.approx(0.55, abs=0.01)
    assert values["kept"]["0.70"][""] == pytest.approx(0.30, abs=0.01)
    for share in ("0.45", "0.70"):
        assert values["kept"][share]["head"] == values["kept"][share]["blocks.0.conv"] == 1
        assert values[f"cost {share}"]["parameters"] < 600
    assert set(CONFIG["test"]) < set(values) and "before 0.70" not in values
    assert len(accuracies(values["0.45"], 10)) == 3
    assert values["cost 0.70"]["macs"] < values["cost 0.45"]["macs"]


def test_an_arm_is_resumed_to_the_same_values(done, tmp_path):
    folder, values = done
    shutil.copytree(folder, tmp_path / "arm")
    (tmp_path / "arm" / "rounds" / "round_02.safetensors").unlink()
    assert anp_jobs.pruned(CONFIG, tmp_path / "arm") == values


@pytest.mark.slow
def test_the_dense_arm_keeps_everything_and_is_trained_as_long(tmp_path):
    config = {**CONFIG, "score": None, "retrain": {**CONFIG["retrain"], "steps": [1, 1]}}
    values = anp_jobs.pruned(config, tmp_path / "arm")
    assert all(share == 1 for kept in values["kept"].values() for share in kept.values())
    first = learners.trained_learner(DENSE, tmp_path / "arm").meta_parameters()
    anp_jobs.after_rounds(
        learner := learners.trained_learner(DENSE, tmp_path / "other"),
        learners.train_tasks(DENSE["data"], DENSE["seed"]),
        config,
        tmp_path / "again",
    )
    assert any(not torch.equal(p, learner.meta_parameters()[n]) for n, p in first.items())


def test_arms_start_from_the_dense_job_beside_them_and_train_it_if_it_is_not_done(tmp_path):
    job = Job(DENSE["name"], DENSE, learners.train_and_test)
    alone = learners.trained_learner(DENSE, tmp_path / "arm").meta_parameters()
    learners.train_and_test(DENSE, tmp_path / job.key)
    write_record(job, tmp_path, {}, seconds=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / job.key).iterdir()}
    beside = learners.trained_learner(DENSE, tmp_path / "another").meta_parameters()
    assert all(torch.equal(p, beside[n]) for n, p in alone.items())
    assert not (tmp_path / "another").exists() and (tmp_path / "arm" / "base").exists()
    assert before.keys() == {path: None for path in (tmp_path / job.key).iterdir()}.keys()


@pytest.mark.slow
def test_the_naive_network_is_pruned_before_it_is_meta_trained(tmp_path):
    ordinary = {"steps": 2, "tasks_per_step": 1, "outer_lr": 0.003}
    config = {
        "dense": DENSE,
        "score": "lobs",
        "schedule": [0.4, 0.2],
        "options": {"n_tasks": 1, "spare": ["head"]},
        "ordinary": {"training": ordinary, "retrain": ordinary},
        "training": {"steps": 2, "tasks_per_step": 2, "outer_lr": 0.003},
        "test": SMALL,
    }
    values = anp_jobs.naive(config, tmp_path)
    assert len(accuracies(values["test"], 10)) == 3 and 0 <= values["ordinary"] <= 1
    ends = load_file(tmp_path / "meta" / "last.safetensors")
    zeros = sum(int((t == 0).sum()) for n, t in ends.items() if n.startswith("meta.blocks"))
    size = sum(t.numel() for n, t in ends.items() if n.startswith("meta.") and "conv" in n)
    assert zeros >= 0.6 * size - 10


def test_one_task_has_the_same_five_classes_with_the_same_labels():
    sampler = learners.train_tasks({"shots": 1, "queries": 2}, 3)
    one = anp_jobs.OneTask(sampler)
    assert one.names == sampler[0].tags["classes"]
    by_label = {}
    for i in range(6):
        task = one[i]
        assert set(task.tags["classes"]) == set(one.names)
        support = {x.numpy().tobytes() for x in task.support_x}
        for x, y in zip(task.query_x, task.query_y.tolist(), strict=True):
            assert x.numpy().tobytes() not in support
            by_label.setdefault(y, set()).add(x.numpy().tobytes())
    assert [len(by_label[y]) for y in range(5)] == [20] * 5  # no image has two labels
    assert len(set().union(*by_label.values())) == 100


@pytest.mark.slow
def test_fewer_filters_cost_less(tmp_path):
    config = {
        "dense": {**DENSE, "model": {**DENSE["model"], "width": 16}},
        "n_tasks": 2,
        "keep": [0.5],
        "retrain": {"steps": 1, "tasks_per_step": 2, "outer_lr": 0.01},
        "test": SMALL,
    }
    values = anp_jobs.filters(config, tmp_path)["0.5"]
    inputs, positions = (9, 9 * 16, 9 * 16, 9 * 16), (28**2, 14**2, 7**2, 3**2)
    macs = [16 * d * n for d, n in zip(inputs, positions, strict=True)]
    narrow = [m / 2 if i == 0 else m / 4 for i, m in enumerate(macs)]
    assert values["macs"] == pytest.approx((sum(narrow) + 40) / (sum(macs) + 80), abs=1e-9)
    assert 0 < values["accuracy"] < 1 and values["bytes"] < 0.6 and values["latency"] > 0


# Verdicts


def arm(accuracy, splits, **more):
    """An arm's values for each seed: 600 tasks, noise shared by all arms."""
    g = torch.Generator().manual_seed(1)
    noise = 0.05 * torch.randn(600, generator=g)
    found = ((accuracy + noise).clamp(0, 1) * learners.QUERIES).round() / learners.QUERIES
    return {**{split: correct_counts(found, learners.QUERIES) for split in splits}, **more}


SPLITS = [f"{when}{s}" for s in anp_arms.SHARES for when in ("", "before ")] + ["validation 0.85"]


def study(**accuracy):
    """Made-up results of the whole study, by arm; 0.9 where nothing is said."""
    found = Results()
    for job in anp_arms.all_jobs(False):
        name = job.name.rpartition("-")[0]
        level = accuracy.get(name.replace("-", "_").replace(".", ""), 0.9)
        cut = name.endswith(("-anp", "-uniform"))
        left = {s: int(1000 * (1.05 - float(s))) if cut else 1000 for s in anp_arms.SHARES}
        cost = {f"cost {s}": dict.fromkeys(("macs", "bytes"), n) for s, n in left.items()}
        found[job.name] = arm(level, [*SPLITS, "test"], ordinary=0.99, **cost)
    found["filters"] = {"0.5": {"latency": 0.5, "macs": 0.3, "bytes": 0.3, "accuracy": 0.9}}
    return found


ONE, TWO, THREE, FOUR, FIVE = anp.CLAIMS


def test_claim_1_is_decided_by_what_validation_prefers():
    assert ONE.verdict(study()).holds is True
    assert ONE.verdict(study(conv64_anp=0.85, conv64_uniform=0.5)).holds is False
    assert ONE.verdict(study(conv64_anp=0.895, conv64_uniform=0.5)).holds is True
    found = study(conv64_anp=0.85, conv64_uniform=0.9)
    assert ONE.verdict(found).holds is True  # the better one counts
    for seed in range(3):  # the worse on test tasks, if validation tasks say so
        low = found[f"conv64-anp-{seed}"]
        low["validation 0.85"] = correct_counts(torch.ones(600), learners.QUERIES)
    assert ONE.verdict(found).holds is False


def test_claim_2_needs_every_naive_way_to_be_clearly_worse():
    worse = {f"naive_{s}_{r}": 0.8 for s in ("magnitude", "lobs") for r in ("085", "090")}
    assert TWO.verdict(study(**worse)).holds is True
    for name in worse:
        assert TWO.verdict(study(**{**worse, name: 0.895})).holds is False


def test_claim_3_needs_anp_above_every_other_score():
    others = {f"conv32_{name}": 0.85 for name in anp_arms.OTHERS}
    assert THREE.verdict(study(**others)).holds is True
    for name in others:
        verdict = THREE.verdict(study(**{**others, name: 0.9}))
        assert verdict.holds is False
    assert verdict.values["0.85"]["lobs"]["mean"] == pytest.approx(0.05, abs=0.005)


def test_claim_4_allows_one_point():
    assert FOUR.verdict(study(anil64_anp=0.895)).holds is True
    assert FOUR.verdict(study(anil64_anp=0.88)).holds is False


def test_claim_5_looks_at_every_share():
    assert FIVE.verdict(study()).holds is True
    for what in ("macs", "bytes"):
        found = copy.deepcopy(study())
        found["conv32-anp-0"]["cost 0.95"][what] = 160
        assert FIVE.verdict(found).holds is False
