"""The study that compares: one budget, one test, recipes that can be followed again, verdicts."""

import pytest
import torch

from metalearn_tut import gating, saliency
from metalearn_tut.claims import Results
from metalearn_tut.claims.compact import claims as compact
from metalearn_tut.claims.compact import jobs as compact_jobs
from metalearn_tut.claims.compact.arms import all_jobs, configurations
from metalearn_tut.claims.learners import QUERIES
from metalearn_tut.claims.learners import test_tasks as tasks_of
from metalearn_tut.claims.runner import run_jobs
from metalearn_tut.claims.statistics import correct_counts
from metalearn_tut.evaluation import cost
from metalearn_tut.models import Conv4, ResNet12

SHAPE = (1, 28, 28)


def drawn(config):
    """Training tasks that a learner has seen, without those of its teacher."""
    steps = config["steps"] if isinstance(config["steps"], list) else [config["steps"]]
    own = sum(steps) * config["training"]["tasks_per_step"]
    return own + (drawn(config["base"]) if "base" in config else 0)


def test_all_learners_draw_as_many_training_tasks_and_answer_the_same_test_tasks():
    for seed in (0, 2):
        made = configurations(seed, quick=False)
        whole = {name: config for name, config in made.items() if "before" not in name}
        assert {drawn(config) for config in whole.values()} == {960}
        assert len({str(config["test"]) for config in made.values()}) == 1
        assert {config["seed"] for config in made.values()} == {seed}
        noisy = {name for name, c in made.items() if c["tasks"]["kind"] == "labels"}
        assert noisy == {name for name in made if name.startswith("noisy")}
    assert set(all_jobs(False)[-1].config["learners"]) == set(whole)


@pytest.mark.parametrize("quick", [False, True])
def test_what_others_start_from_comes_before_them(quick):
    order = [job.name for job in all_jobs(quick)]
    configs = {job.name: job.config for job in all_jobs(quick)}
    for name, config in configs.items():
        for part in ("base", "teacher"):
            if part in config:
                assert configs[config[part]["name"]] == config[part]
                assert order.index(config[part]["name"]) < order.index(name)
    assert order[-1] == "times"


TEST = {"split": "validation", "tasks": 3, "queries": 2, "seed": 2}


def tiny(config):
    """The same recipe for a small network, in a few steps."""
    steps = config["steps"]
    small = {**config, "steps": [1] * len(steps) if isinstance(steps, list) else 2}
    small |= {"training": {**config["training"], "tasks_per_step": 2}, "test": {"test": TEST}}
    if config["aggregate"]["name"] == "range":
        small |= {"aggregate": {"name": "range", "m": 0, "k": 1}}
    if "options" in config:
        small["options"] = {**config["options"], "n_tasks": 2}
    if "voting" in config:
        small["voting"] = {**config["voting"], "n_tasks": 2}
    for part in ("base", "teacher"):
        if part in config:
            small[part] = tiny(config[part])
    if "width" in config.get("model", {}):
        small["model"] = {**config["model"], "width": 4 if config["model"]["width"] < 32 else 8}
    return small


SMALL = {name: tiny(config) for name, config in configurations(0, quick=True).items()}
RECIPES = ("maml8", "proto8", "anp75", "filters", "abp", "tsmd-anp50", "gated0.5", "noisy-hetrom")


def depth(config):
    return sum(part in str(config) for part in ("'base'", "'teacher'"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    names = (*RECIPES, "before", "maml32", "tsmd-before", "blocks-before", "residual")
    order = sorted((SMALL[name] for name in names), key=depth)
    done = [compact_jobs.Job(c["name"], c, compact_jobs.train_and_measure) for c in order]
    outcome = run_jobs(done, folder)
    assert not outcome.failed
    return folder, {n: r["values"]["values"] for n, r in outcome.records.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_followed_again_gives_the_same_learner_without_training(made, name):
    folder, values = made
    config = SMALL[name]
    job = compact_jobs.Job(config["name"], config, compact_jobs.train_and_measure)
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    again = compact_jobs.train_and_measure(config, folder / job.key)
    assert again == values[config["name"]]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == files


def learner(made, name):
    config = SMALL[name]
    job = compact_jobs.Job(config["name"], config, compact_jobs.train_and_measure)
    return compact_jobs.make_learner(config, made[0] / job.key)


@pytest.mark.slow
def test_costs_are_those_of_the_network_that_is_deployed(made):
    _, values = made
    dense = Conv4(1, ways=5, width=8, norm="support")
    found = values["maml32-0"]["cost"]
    assert (found["parameters"], found["macs"]) == (cost.parameters(dense), cost.macs(dense, SHAPE))
    narrow = Conv4(1, ways=5, width=4, norm="support")
    for name in ("proto8-0", "maml8-0", "filters-0"):  # a head for prototypes, too
        assert values[name]["cost"]["macs"] == cost.macs(narrow, SHAPE)
        assert values[name]["cost"]["parameters"] == cost.parameters(narrow)
    whole = ResNet12(ways=5, widths=(4, 8, 16, 32), in_channels=1)
    assert values["residual-0"]["cost"]["macs"] == cost.macs(whole, SHAPE)
    assert values["abp-0"]["cost"]["macs"] < cost.macs(whole, SHAPE)


@pytest.mark.slow
def test_pruned_weights_are_not_counted_and_the_teacher_neither(made):
    _, values = made
    masked = learner(made, "anp75")
    kept = saliency.kept_fraction(masked.masks)
    assert kept == pytest.approx(0.25, abs=0.05)
    whole, sparse = values["maml32-0"]["cost"], values["anp75-0"]["cost"]
    removed = sum(int((~mask).sum()) for mask in masked.masks.values())
    assert sparse["parameters"] == whole["parameters"] - removed
    taught = values["tsmd-anp50-0"]["cost"]["parameters"]
    student = learner(made, "tsmd-anp50").student
    gone = sum(int((~mask).sum()) for mask in student.masks.values())
    assert gone > 0 and taught == cost.parameters(student.model) - gone


@pytest.mark.slow
def test_gated_multiply_adds_are_the_mean_over_the_test_images(made):
    _, values = made
    gated = learner(made, "gated0.5")
    active = []
    for task in tasks_of({"shots": 1}, TEST).tasks(range(TEST["tasks"])):
        network = gated.adapt(task.support_x, task.support_y).deploy()
        with torch.no_grad():
            masks = network.run(task.query_x.float() / 255)[1]
        active.append(gating.active_macs(network, masks, SHAPE).double().mean().item())
    expected = sum(active) / len(active)
    assert values["gated0.5-0"]["cost"]["macs"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_two_blocks_are_gone(made):
    short = learner(made, "abp")
    kinds = [type(block).__name__ for block in short.model.blocks]
    assert kinds.count("ShortcutBlock") == 2 and not hasattr(short.model, "gates")


@pytest.mark.slow
def test_rates_that_were_learned_stay_with_the_narrow_network(made, monkeypatch):
    dense = learner(made, "before")
    train = compact_jobs._train
    at_first = lambda *given: train(*given) if given[3] == 0 else None  # noqa: E731
    monkeypatch.setattr(compact_jobs, "_train", at_first)
    narrow = compact_jobs.narrowed(SMALL["filters"], made[0] / "none")
    assert dense.learned_rates and all(
        torch.equal(narrow.learned_rates[n], r) for n, r in dense.learned_rates.items()
    )


# Verdicts


def study(times=None, macs=None, **levels):
    """Made-up results: each learner's accuracy, 0.8 where nothing is said, noise shared by all."""
    noise = 0.04 * torch.randn(600, generator=torch.Generator().manual_seed(0))
    found = Results()
    for job in all_jobs(False)[:-1]:
        name = job.name.rpartition("-")[0]
        right = correct_counts(
            (levels.get(name.replace("-", "_"), 0.8) + noise).clamp(0, 1), QUERIES
        )
        each = (macs or {}).get(name, 100.0)
        found[job.name] = {"test": right, "cost": {"parameters": 9, "macs": each, "bytes": 5}}
    default = {"adapt": 0.01, "latency": 0.001}
    names = all_jobs(False)[-1].config["learners"]
    found["times"] = {name: {**default, **(times or {}).get(name, {})} for name in names}
    return found


def holds(number, **made):
    return compact.CLAIMS[number - 1].verdict(study(**made)).holds


@pytest.mark.parametrize(
    ("number", "name", "base", "least"),
    [
        (1, "anp75", "maml16", 0.0),
        (2, "tsmd", "maml8", 0.0),
        (5, "tsmd_anp50", "tsmd", -0.02),
        (6, "noisy_hetrom_anp75", "noisy_mean_anp75", 0.0),
    ],
)
def test_the_paired_difference_decides(number, name, base, least):
    assert holds(number, **{name: 0.8 + least + 0.02, base: 0.8}) is True
    assert holds(number, **{name: 0.8 + least - 0.02, base: 0.8}) is False


def test_a_short_network_must_be_cheaper_and_hardly_worse():
    cheap = {"abp": 70.0}
    assert holds(3, macs=cheap) is True
    assert holds(3, macs={"abp": 80.0}) is False
    assert holds(3, macs=cheap, abp=0.77) is False


def test_gates_are_held_against_the_narrow_network():
    few = {"gated2": 105.0, "gated1": 130.0, "gated0.5": 160.0}
    assert holds(4, macs=few, **{"gated2": 0.83}) is True
    assert holds(4, macs=few, **{"gated0.5": 0.83}) is False
    assert holds(4, macs=few) is False


def test_prototypes_must_be_faster_and_hardly_worse():
    fast = {"proto32": {"adapt": 0.002}}
    assert holds(7, times=fast) is True
    assert holds(7) is False
    assert holds(7, times=fast, proto32=0.77) is False


def test_seconds_are_saved_by_what_is_gone():
    fast = {"filters": {"latency": 0.0007}}
    assert holds(8, times=fast) is True
    assert holds(8) is False
    assert holds(8, times={**fast, "anp75": {"latency": 0.0008}}) is False
    assert holds(8, times=fast, filters=0.75) is False


def test_the_table_has_a_row_for_each_learner():
    found = compact.rows(study(maml8=0.6))
    assert list(found) == list(all_jobs(False)[-1].config["learners"])
    row = found["maml8"]
    right = [int(c) for c in study(maml8=0.6)["maml8-1"]["test"].split()]
    assert row["accuracy"] == pytest.approx(sum(right) / len(right) / QUERIES)
    assert row["over_seeds"] == pytest.approx(0, abs=1e-9) and row["over_tasks"] > 0.002
    assert row["latency"] == 0.001 and row["bytes"] == 5


def test_nothing_is_decided_without_results():
    for claim in compact.CLAIMS:
        assert claim.verdict(Results()).holds is None
