"""The MetaGater study: what arms have in common, jobs on a small scale, verdicts from numbers."""

import copy

import pytest
import torch

from metalearn_tut import gating, tasks
from metalearn_tut.claims import Results
from metalearn_tut.claims.metagater import arms as metagater_arms
from metalearn_tut.claims.metagater import claims as metagater
from metalearn_tut.claims.metagater import filters as metagater_filters
from metalearn_tut.claims.metagater import jobs
from metalearn_tut.claims.metagater import second as metagater_second
from metalearn_tut.claims.study import Job
from metalearn_tut.evaluation import cost
from metalearn_tut.federated import Across, state_of
from metalearn_tut.gating import ChannelGatedConv4, MetaGater
from metalearn_tut.models import Conv4

ONE, TWO, THREE, FOUR, FIVE, SIX = metagater.CLAIMS
MAIN = metagater_arms.MAIN
SMALL = {
    **metagater_arms.SETUP,
    "width": 4,
    "nodes": {"train": 6, "validation": 3, "test": 4},
    "plan": {
        **metagater_arms.SETUP["plan"],
        "rounds": 2,
        "fraction": 0.4,
        "local_steps": 2,
        "query": 5,
    },
    "validation": {"support": 10, "tasks": 1},
    "test": {"supports": [5, 10], "query": 6, "draws": 2, "seed": 0},
}


def configs(quick=False):
    return {job.name: job.config for job in metagater_arms.all_jobs(quick)}


# Arms


@pytest.mark.parametrize("quick", [False, True])
def test_every_arm_takes_as_many_local_steps_and_as_many_images(quick):
    totals, drawn = set(), set()
    for name, config in configs(quick).items():
        if "plan" not in config:
            continue
        plan, steps = config["plan"], 0
        assert plan["seed"] % 1000 == config["seed"] == int(name.rpartition("-")[2])
        if name.startswith("half"):
            continue
        for part in (config, config.get("start")):
            steps += part["plan"]["rounds"] * part["plan"]["local_steps"] if part else 0
        totals.add(steps)
        drawn.add((plan["support"], plan["query"], plan["fraction"], config["nodes"]["train"]))
    assert len(totals) == len(drawn) == 1
    if not quick:  # as the criteria say
        assert totals == {120} and drawn == {(10, 20, 16 / 192, 192)}
        assert "192 nodes" in ONE.criterion and "30 rounds of 16 nodes with 4" in ONE.criterion


def test_gated_arms_differ_in_what_their_names_say():
    found = configs()
    main = found[f"{MAIN}-0"]
    for name, part in {
        "gated-0.7-0": {"gates": {**main["gates"], "target": 0.7}, "watch": None},
        "gated-0.35-0": {"gates": {**main["gates"], "target": 0.35}, "watch": None},
        "mixed-0": {"within_script": False, "watch": None},
        "fedavg-0": {
            "gates": {**main["gates"], "stages": []},
            "rates": metagater_arms.RATES,
            "watch": None,
        },
    }.items():
        assert found[name] == {**main, **part}
    alone = found["separate-0"]
    assert alone["plan"]["outer_lr"] == 0 < alone["plan"]["gate_outer_lr"]
    assert alone["gates"] == {**main["gates"], "warmup": 0.0}


def test_what_another_job_made_is_named_by_its_own_configuration():
    found = configs()
    starts = [c["start"] for c in found.values() if "start" in c]
    assert len(starts) == 3 * 5
    assert all(start == found[start["name"]] for start in starts)
    arms = [c for c in found.values() if "arm" in c]
    assert len(arms) == 3 and all(c["arm"] == found[c["of"]] for c in arms)


# Nodes


def test_no_new_node_has_a_class_or_a_script_that_trained():
    setup, seen = metagater_arms.SETUP, {}
    for split, number in setup["nodes"].items():
        nodes = jobs.nodes_of(split, number)
        source = nodes[0].source
        assert len(nodes) == number
        assert all(len(node.classes) == 5 and node.labels == (0, 1, 2, 3, 4) for node in nodes)
        scripts = [{source.groups[c] for c in node.classes} for node in nodes]
        assert all(len(of_node) == 1 for of_node in scripts)
        classes = {source.class_names[c] for node in nodes for c in node.classes}
        seen[split] = classes, set.union(*scripts)
        least = max(setup["test"]["supports"]) + setup["test"]["query"]
        assert min(node.size for node in nodes) >= least
    for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not seen[a][0] & seen[b][0] and not seen[a][1] & seen[b][1]
    n = setup["nodes"]
    assert n["test"] / (n["train"] + n["test"]) == 0.2 and n["train"] >= 50
    assert len(seen["test"][1]) == 4  # as the criteria say


def test_mixed_nodes_have_scripts_of_all_sorts():
    nodes = jobs.nodes_of("train", 20, within=False)
    groups = nodes[0].source.groups
    assert any(len({groups[c] for c in node.classes}) > 1 for node in nodes)


def test_tests_are_the_same_for_all_seeds_and_training_is_not():
    a, b = (configs()[f"dense-{seed}"] for seed in (0, 1))
    mine, other = jobs.new_node_tasks("test", a, 5)[7], jobs.new_node_tasks("test", b, 5)[7]
    assert torch.equal(mine.query_x, other.query_x) and mine.tags == other.tags
    first, second = (jobs.nodes_of("train", 8, config["seed"]) for config in (a, b))
    assert [node.classes for node in first] != [node.classes for node in second]


# Jobs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The jobs of one seed, run in one folder as the runner does."""
    folder, values, made = tmp_path_factory.mktemp("metagater"), {}, {}
    for job in metagater_arms.arms(SMALL, 0):
        short = job.name.rpartition("-")[0]
        if short in ("half", MAIN, "fedavg", "separate", "static-8", "choices"):
            config = _cheap(job.config)
            made[job.name] = Job(job.name, config, job.run)
            values[job.name] = job.run(config, folder / made[job.name].key)
    return folder, values, made


def _cheap(config):
    if "rates" in config:
        return {**config, "rates": [[0.1], [0.1, 1.0]]}
    return {**config, "scratch": {"lr": [1.0], "steps": [2]}} if "scratch" in config else config


@pytest.mark.slow
def test_new_nodes_are_counted_node_by_node(done):
    folder, values, made = done
    found, config = values[f"{MAIN}-0"], made[f"{MAIN}-0"].config
    learner, _ = jobs.train(config, folder / made[f"{MAIN}-0"].key)  # resumed, not trained again
    sampler = jobs.new_node_tasks("test", config, 5)
    expected = [0] * 4
    for i in range(8):
        task = sampler[i]
        right = learner.adapt(task.support_x, task.support_y)(task.query_x).argmax(1)
        expected[i % 4] += (right == task.query_y).sum().item()
    assert found["5"] == " ".join(map(str, expected))
    assert found["answers"] == 12 and len(found["open"]) == 4 and not found["left_out"]
    assert values["static-8-0"]["macs"]["5"] == values["static-8-0"]["macs"]["10"] < 0.4
    assert values["half-0"]["macs"]["5"] == 1.0


@pytest.mark.slow
def test_gates_that_learn_alone_leave_the_backbone_as_it_was(done):
    folder, _, made = done
    learners = {
        name: jobs.train(made[f"{name}-0"].config, folder / made[f"{name}-0"].key)[0]
        for name in ("half", "separate", MAIN)
    }
    half, alone = (state_of(learners[name]) for name in ("half", "separate"))
    assert all(torch.equal(alone[name], tensor) for name, tensor in half.items())
    fresh = state_of(jobs.build(made["separate-0"].config))
    assert any(not torch.equal(alone[name], fresh[name]) for name in alone if "gates" in name)
    start = jobs.build(made["half-0"].config).model.state_dict()
    gated = jobs.build(made[f"{MAIN}-0"].config).model.state_dict()
    assert all(torch.equal(gated[name], tensor) for name, tensor in start.items())


@pytest.mark.slow
def test_rates_are_those_of_the_best_learner_on_validation(done, monkeypatch):
    _, values, made = done
    assert values["fedavg-0"]["rates"][0] == 0.1
    config = {**made["fedavg-0"].config, "rates": [[0.2, 0.3], [0.1, 0.4]]}
    learner = jobs.build(config)

    def graded(learner, sampler, indices):
        assert "validation" in repr(sampler) and "test" not in repr(sampler)
        inner = learner.inner
        return torch.tensor([0.5 + inner.inner_lr - inner.gate_lr for _ in indices])

    monkeypatch.setattr(jobs, "task_values", graded)
    best, rates = jobs.tune_rates(learner, config)
    assert rates == [0.3, 0.1] and best.inner.stages == ("backbone", "gates")
    assert best.sparsity == 1.0 and best.inner.target == 0.5


def test_smallest_filters_go():
    torch.manual_seed(0)
    network = Conv4(1, 5, 4, norm="support", image_size=28)
    with torch.no_grad():
        for block in network.blocks:
            block.conv.weight[1] = block.conv.weight[3] = 1e-4
    narrow = jobs.pruned(network, 0.5)
    assert narrow.width == (2, 2, 2, 2)
    assert torch.equal(narrow.blocks[0].conv.weight, network.blocks[0].conv.weight[[0, 2]])


def test_the_gradient_is_that_of_the_mean_loss():
    config = {**SMALL, "seed": 0, "watch": {"every": 2, "nodes": 3}}
    learner, nodes = jobs.build(config), jobs.nodes_of("train", 6)
    watched = jobs._watch(learner, nodes, config)
    assert watched(2) == {}
    batch = Across(nodes[:3], 10, 5, seed=10**6).batch(0, 3)
    metas = learner.meta_parameters()
    loss = learner.task_losses(batch).losses.mean()
    gradients = torch.autograd.grad(loss, list(metas.values()))
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    for number in (0, 1, 3):
        assert watched(number)["gradient"] == pytest.approx(norm, rel=1e-5)
        assert watched(number)["gates' gradient"] == 0


# Filters chosen otherwise


@pytest.fixture(scope="module")
def adapted():
    torch.manual_seed(1)
    network = ChannelGatedConv4(Conv4(1, 5, 8, norm="support", image_size=28), open_bias=0.3)
    for gate in network.gates:
        torch.nn.init.normal_(gate.outer.weight, std=2.0)
    learner = MetaGater(network, 0.1, 0.5, sparsity=1.0, target=0.3)
    return learner, jobs.new_node_tasks("test", SMALL, 10)[0]


def run_ranked(learner, task, scores=None, gates=None):
    network = copy.deepcopy(learner.model)
    network.load_state_dict(learner.adapt(task.support_x, task.support_y).params)
    x = tasks.as_float(torch.cat([task.support_x, task.query_x]))
    with torch.no_grad():
        logits, masks = network.run(x, 10)
        counts = [mask.sum(1) for mask in masks]
        ranked = metagater_filters.RankedPass(gates or network.gates, counts, scores, 10)
        again = ranked.head(network.head, network.flow(x, ranked))
    return network, (logits, masks), (again, ranked.masks)


def test_ranked_by_their_own_logits_the_same_filters_open(adapted):
    _, (logits, masks), (again, ranked) = run_ranked(*adapted)
    assert 0.1 < torch.cat(masks, 1).mean() < 0.9
    assert all(map(torch.equal, masks, ranked)) and torch.equal(logits, again)


def test_other_filters_are_as_many_and_cost_as_much(adapted):
    scores = [torch.arange(8.0) for _ in range(4)]
    network, (_, masks), (_, ranked) = run_ranked(*adapted, scores)
    counts = [gating.active_macs(network, each, jobs.SHAPE) for each in (masks, ranked)]
    assert torch.equal(*counts)
    for mask, other in zip(masks, ranked, strict=True):
        n = int(mask[3].sum())
        assert other[3].tolist() == [0.0] * (8 - n) + [1.0] * n
    assert not all(map(torch.equal, masks, ranked))


def test_each_choice_answers_and_the_learned_one_as_the_study_does(adapted):
    learner, task = adapted
    found = metagater_filters.correct_by_choice(learner, task, 3, (1.0, 2))
    assert found == metagater_filters.correct_by_choice(learner, task, 3, (1.0, 2))
    assert set(found) == set(metagater_filters.CHOICES)
    assert found["learned"] == jobs.answer_task(learner, task)[0]
    network = run_ranked(learner, task)[0]
    order = [block.conv.weight.abs().sum((1, 2, 3)) for block in network.blocks]
    logits = run_ranked(learner, task, order)[2][0]
    assert found["magnitude"] == (logits[10:].argmax(1) == task.query_y).sum()


def test_gates_from_scratch_learn_and_leave_the_backbone(adapted):
    learner, task = adapted
    network = run_ranked(learner, task)[0]
    args = learner, network, task, 5
    zero, one, again = (metagater_filters._new_gates(*args, lr, 2) for lr in (0.0, 1.0, 1.0))
    pairs = list(zip(zero.parameters(), one.parameters(), again.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b, _ in pairs)
    assert all(torch.equal(b, c) for _, b, c in pairs)
    assert not torch.equal(zero[0].inner.weight, network.gates[0].inner.weight)


@pytest.mark.slow
def test_choices_take_the_trained_arm_of_their_seed(done):
    _, values, _ = done
    for support in (5, 10):
        assert values["choices-0"][f"learned {support}"] == values[f"{MAIN}-0"][str(support)]
    assert values["choices-0"]["rates"] == [1.0, 2]


# Time


def test_as_many_filters_are_open_as_is_said_and_time_is_compared():
    gated = ChannelGatedConv4(Conv4(1, 5, 8, image_size=28))
    metagater_filters.open_first(gated, 0.25)
    masks = gated.masks(torch.rand(3, 1, 28, 28))
    assert all(mask.tolist() == [[1.0] * 2 + [0.0] * 6] * 3 for mask in masks)
    asked = {"networks": {"tiny": [1, 8, 28]}, "open": [0.5], "calls": 1, "turns": 4}
    found = metagater_filters.latency(asked, None)["tiny 0.5"]
    open_macs = 784 * 9 * 4 + (196 + 49 + 9) * 9 * 16 + 5 * 4
    gates = (1 + 3 * 8) * 16 + 4 * 16 * 8
    whole = cost.macs(Conv4(1, 5, 8, image_size=28), jobs.SHAPE)
    assert found["macs"] == pytest.approx((open_macs + gates) / whole)
    low, high = found["spread"]
    assert 0 < low <= found["time"] <= high


# Verdicts


def study(macs=None, gradient=(2.0, 1.0), answers=90, jobs=metagater_arms.all_jobs, **levels):
    """Made-up results: each arm's accuracy, 0.8 where nothing is said, luck shared by all."""
    luck = torch.rand(48, answers, generator=torch.Generator().manual_seed(0))
    costs = {MAIN: 0.3, "gated-0.7": 0.6, "gated-0.35": 0.2, "separate": 0.3, "fedavg": 0.3}
    costs |= {"static-12": 0.6, "static-10": 0.43, "static-8": 0.29, "static-6": 0.18}
    costs |= macs or {}
    found = Results()
    for job in jobs(False):
        arm = job.name.rpartition("-")[0]
        if not arm:
            continue

        def right(name):
            level = levels.get(name.replace("-", "_").replace(".", ""), 0.8)
            return " ".join(str(int(n)) for n in (luck < level).sum(1))

        if arm == "choices":
            names = metagater_filters.CHOICES
            found[job.name] = {f"{n} {s}": right(n) for n in names for s in (5, 10, 20)}
            continue
        found[job.name] = {
            **{str(support): right(arm) for support in (5, 10, 20)},
            "macs": {str(support): costs.get(arm, 1.0) for support in (5, 10, 20)},
            "gradient": {str(r): [gradient[r > 10], 0.1] for r in range(0, 30, 3)},
            "answers": answers,
            "bytes": 1000,
        }
    found["latency"] = {"Conv4-16 0.5": {"macs": 0.3, "time": 0.7, "spread": [0.6, 0.8]}}
    return found


@pytest.mark.parametrize(
    ("level", "macs", "holds"),
    [(0.8, 0.3, True), (0.78, 0.3, True), (0.75, 0.3, False), (0.9, 0.6, False)],
)
def test_a_gated_network_must_be_nearly_as_good_and_half_as_dear(level, macs, holds):
    verdict = ONE.verdict(study({MAIN: macs}, gated_05=level))
    assert verdict.holds is holds
    assert verdict.values["10"]["accuracy"][MAIN] == pytest.approx(level, abs=0.02)


def test_meta_learned_gates_must_beat_every_other_choice():
    others = ("scratch", "random", "magnitude", "static_10", "fedavg")
    worse = dict.fromkeys(others, 0.7)
    assert TWO.verdict(study(**worse)).holds is True
    for other in others:
        assert TWO.verdict(study(**{**worse, other: 0.8})).holds is False, other
    assert TWO.verdict(study(**worse, average=0.9)).holds is True  # reported only


def test_the_static_rival_is_the_smallest_that_is_no_cheaper():
    found = study({MAIN: 0.29})
    assert "static-8" in TWO.verdict(found).values["5"]["macs"]
    assert "static-10" in TWO.verdict(study({MAIN: 0.3})).values["5"]["macs"]
    assert "dense" in TWO.verdict(study({MAIN: 0.7})).values["5"]["macs"]


def test_joint_learning_must_win_at_no_higher_cost():
    assert THREE.verdict(study(separate=0.7)).holds is True
    assert THREE.verdict(study()).holds is False
    assert THREE.verdict(study({"separate": 0.2}, separate=0.7)).holds is False
    unsure = study()  # better on some nodes, worse on others
    for seed in (0, 1, 2):
        values = unsure[f"separate-{seed}"]
        values["10"] = " ".join(reversed(values["10"].split()))
    gap = THREE.verdict(unsure).values["10"]["joint - separate"]
    assert THREE.verdict(unsure).holds is False and gap["over_tasks"] > 0


@pytest.mark.parametrize(
    ("macs", "level", "holds"),
    [
        ({}, 0.77, True),
        ({}, 0.7, False),
        ({"gated-0.7": 0.3}, 0.8, False),
        ({"gated-0.35": 0.3}, 0.8, False),
        ({"gated-0.7": 0.9, MAIN: 0.6, "gated-0.35": 0.4}, 0.8, False),
    ],
)
def test_multiply_adds_must_fall_with_the_target(macs, level, holds):
    assert FOUR.verdict(study(macs, gated_035=level)).holds is holds


def test_multiply_adds_must_fall_with_every_seed():
    found = study()
    found["gated-0.7-2"]["macs"]["10"] = 0.25
    assert FOUR.verdict(found).holds is False


def test_the_gradient_must_fall_and_steps_and_skew_must_cost_little():
    assert FIVE.verdict(study()).holds is True
    assert FIVE.verdict(study(gradient=(1.0, 1.1))).holds is False
    one = study()
    one["one-step-1"]["gradient"] = {str(r): [1.0 + r, 0.0] for r in range(4)}
    assert FIVE.verdict(one).holds is False
    for arm in ("one_step", "mixed", "mixed_one_step"):
        assert FIVE.verdict(study(**{arm: 0.9})).holds is False, arm
    assert FIVE.verdict(study(one_step=0.78, mixed=0.78, mixed_one_step=0.79)).holds is True


def test_rounds_are_sorted_by_number():
    assert metagater._fall({"2": [4.0, 0], "10": [1.0, 0], "1": [8.0, 0], "3": [2.0, 0]}) == 1 / 8


@pytest.mark.parametrize(("time", "holds"), [(0.9, True), (1.1, False)])
def test_time_must_be_saved_in_every_case(time, holds):
    found = study()
    found["latency"]["Conv4-64 0.5"] = {"macs": 0.3, "time": time, "spread": [0.6, 1.2]}
    assert SIX.verdict(found).holds is holds


def test_without_results_nothing_is_decided():
    assert [claim.verdict(Results()).holds for claim in metagater.CLAIMS] == [None] * 6


def test_a_quick_run_has_every_arm_of_one_seed():
    quick, full = ({n.rpartition("-")[0] for n in configs(q)} for q in (True, False))
    assert quick == full and len(configs(True)) == len(full)


# The second study

_PRICES = {"weight-0.5": 0.5, "weight-1.0": 0.3, "weight-2.0": 0.1}


@pytest.mark.parametrize(
    ("macs", "levels", "holds"),
    [
        ({}, {}, True),
        ({}, {"weight_05": 0.5, "weight_20": 0.5}, True),
        ({}, {"weight_10": 0.7, "weight_20": 0.7}, False),
        ({"weight-2.0": 0.3}, {}, False),
        ({"weight-0.5": 0.3}, {}, False),
        ({"weight-0.5": 0.9, "weight-1.0": 0.5, "weight-2.0": 0.4}, {}, False),
    ],
)
def test_a_weight_must_save_much_at_little_loss(macs, levels, holds):
    found = study({**_PRICES, **macs}, jobs=metagater_second.all_jobs, **levels)
    claim = metagater_second.CLAIMS[0]
    assert claim.verdict(found).holds is holds and FOUR.number == claim.follows
    assert claim.verdict(Results()).holds is None


def test_weights_must_save_with_every_seed():
    found = study(_PRICES, jobs=metagater_second.all_jobs)
    found["weight-1.0-1"]["macs"]["10"] = 0.05
    assert metagater_second.CLAIMS[0].verdict(found).holds is False


@pytest.mark.parametrize("quick", [False, True])
def test_only_the_price_is_another_one(quick):
    first = configs(quick)
    for job in metagater_second.all_jobs(quick):
        arm, _, seed = job.name.rpartition("-")
        if arm == "dense":
            assert job.config == first[job.name]
            continue
        main = first[f"{MAIN}-{seed}"]
        price = {"sparsity": float(arm.partition("-")[2]), "target": None}
        assert job.config == {**main, "gates": {**main["gates"], **price}, "watch": None}
