"""Federations at their edges: nobody answers, numbers of other libraries, other contents."""

import json
import logging
from dataclasses import replace
from inspect import signature

import federated_grid
import numpy as np
import pytest
import torch
from channel_cases import gated
from federated_cases import ALL, gater_federation, maml_federation, nodes, vectors
from test_cli import command

from metalearn_tut import tasks
from metalearn_tut.cli import program as cli
from metalearn_tut.federated import (
    Across,
    Federation,
    FederationFailed,
    Reply,
    by_classes,
    fed_avg,
    in_process,
    load_state,
    per_fed_avg,
    problem_of,
    run_rounds,
    state_of,
    weighted_average,
)
from metalearn_tut.federated.flower.app import apps
from metalearn_tut.federated.outcome import reasons, unanswered
from metalearn_tut.federated.training import federated_train
from metalearn_tut.gating import MetaGater
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.state import settings_of
from metalearn_tut.runs import building as runs
from metalearn_tut.training import checkpoint

PLAN = {"rounds": 3, "support": 4, "query": 5, "outer_lr": 0.1, **ALL}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def broken(how):
    """Clients that all do the same wrong thing."""

    def ask(chosen, state, number):
        return {client: how(client, state, number) for client in chosen}

    return ask


def only_in(federation, good):
    """Honest clients in these rounds, and nobody in the others."""
    honest = in_process(federation)
    return lambda chosen, state, number: honest(chosen, state, number) if number in good else {}


def nan_reply(client, state, number):
    return Reply({n: torch.full_like(t, float("nan")) for n, t in state.items()}, 5)


def other_network(client, state, number):
    return Reply(state_of(per_fed_avg(torch.nn.Linear(5, 4).double())), 5)


# --- nobody answers ---------------------------------------------------------------------

NOBODY = {
    "late": (lambda *_: "no answer within 1 s", "12 times 'no answer within 1 s'"),
    "nan": (nan_reply, "12 times '0.weight is not finite'"),
    "architecture": (other_network, "12 times '0.bias is missing'"),
    "errors": (lambda c, s, n: OSError(f"disk {c} of {n}"), "12 times 'OSError: disk 0 of 0'"),
    "weightless": (lambda c, s, n: Reply(s, 0), "12 times 'it has 0 images'"),
    "silent": (lambda c, s, n: None, "12 times 'a reply was expected, not NoneType'"),
}


@pytest.mark.parametrize("how", NOBODY)
def test_a_federation_that_nobody_answers_fails_and_says_why(how, tmp_path):
    what, said = NOBODY[how]
    federation = maml_federation()
    before = state_of(federation.learner)
    with pytest.raises(FederationFailed) as failed:
        run_rounds(federation, broken(what), out=tmp_path)
    assert str(failed.value) == (
        f"nobody answered in any of the 3 rounds, so that nothing was learned: {said}"
    )
    assert [r["round"] for r in failed.value.records] == [0, 1, 2]
    assert same(state_of(federation.learner), before)


def test_reasons_are_grouped_and_the_most_frequent_comes_first():
    def mixed(client, state, number):
        return {0: "no answer", 1: ValueError("bad"), 2: f"error {number}", 3: "gone"}[client]

    with pytest.raises(FederationFailed, match=r"learned: 3 times 'no answer', 3 times 'Value"):
        run_rounds(maml_federation(), broken(mixed))
    told = [{"left_out": {"a": "x", "b": "y", "c": "y"}}, {"left_out": {"a": "z 1", "b": "z 22"}}]
    assert reasons(told) == "2 times 'y', 2 times 'z 1', once 'x'"
    assert reasons(told, most=1) == "2 times 'y' and 2 other reasons"
    with pytest.raises(FederationFailed, match="nobody answered in the only round, so that"):
        run_rounds(maml_federation(rounds=1), broken(nan_reply))


def test_labels_that_the_network_has_no_output_for_are_the_reason():
    learner = per_fed_avg(torch.nn.Sequential(torch.nn.Linear(5, 2)).double(), 0.2)
    with pytest.raises(FederationFailed, match=r"learned: 6 times 'ValueError: (support|query)_y"):
        run_rounds(Federation(learner, _with_classes(2, 3), **PLAN))
    network = gated("conv4", "support", seed=1, ways=2)
    images = tasks.from_arrays(torch.rand(40, 1, 16, 16), torch.arange(40) % 4)
    own = by_classes(images, 2, 4, unseen=0).train
    with pytest.raises(FederationFailed, match=r"must hold labels in 0\.\.1, got"):
        run_rounds(Federation(MetaGater(network), own, **{**PLAN, "rounds": 1}))


def _with_classes(*classes):
    found = [n for n in by_classes(vectors(), 6, 2, unseen=0).train if set(n.classes) & {*classes}]
    assert len(found) >= 2
    return found[:2]


@pytest.mark.parametrize("good", [{0, 2}, {1}, {2}, {0}])
def test_some_empty_rounds_are_not_failure_and_change_nothing(good, caplog):
    federation = maml_federation()
    with caplog.at_level(logging.WARNING, "metalearn_tut.federated"):
        records = run_rounds(federation, only_in(federation, good))
    assert {r["round"] for r in records if r["loss"] is not None} == good
    assert all((r["moved"] > 0) == (r["round"] in good) for r in records)
    last = 2 - max(good)
    assert unanswered(records) == last
    assert (f"nobody answered in the last {last} of 3 rounds" in caplog.text) == bool(last)


def test_a_failed_run_is_resumed_as_if_it_had_not_failed(tmp_path):
    whole = maml_federation()
    expected = run_rounds(whole)
    with pytest.raises(FederationFailed):
        run_rounds(maml_federation(), broken(nan_reply), out=tmp_path)
    with pytest.raises(FederationFailed, match="no answer"):  # and fails again, if it does
        run_rounds(maml_federation(), broken(lambda *_: "no answer"), out=tmp_path, resume=True)
    resumed = maml_federation()
    assert run_rounds(resumed, out=tmp_path, resume=True) == expected
    assert same(state_of(resumed.learner), state_of(whole.learner))


@pytest.mark.parametrize("good", [{0}, {0, 1}])
def test_unanswered_rounds_at_the_end_are_done_again_on_resume(tmp_path, good):
    whole, cut, resumed = (maml_federation() for _ in range(3))
    expected = run_rounds(whole)
    run_rounds(cut, only_in(cut, good), out=tmp_path)
    asked = []
    honest = in_process(resumed)

    def ask(chosen, state, number):
        asked.append(number)
        return honest(chosen, state, number)

    assert run_rounds(resumed, ask, out=tmp_path, resume=True) == expected
    assert asked == sorted({0, 1, 2} - good)
    assert same(state_of(resumed.learner), state_of(whole.learner))


def test_a_failed_run_leaves_no_learner_and_its_folder_can_be_resumed(tmp_path):
    options = {"config": {"n": 4}, "progress": False}
    with pytest.raises(FederationFailed, match="nobody answered"):
        federated_train(maml_federation(), tmp_path, ask=broken(nan_reply), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.safetensors"]
    whole, resumed = maml_federation(), maml_federation()
    expected = run_rounds(whole)
    assert federated_train(resumed, tmp_path, resume=True, **options) == expected
    assert {"last.safetensors", "history.json"} <= {path.name for path in tmp_path.iterdir()}
    assert same(state_of(resumed.learner), state_of(whole.learner))


def test_the_command_line_ends_with_1_and_a_sentence(capsys, tmp_path, monkeypatch):
    def fails(self, client, state, round):
        raise OSError("the images are gone")

    monkeypatch.setattr(Federation, "train", fails)
    given = "--nodes 2 --classes-per-node 2 --width 4 --queries 3 --rounds 2 --fraction 1"
    code, _, said = command(capsys, "federate", "--out", tmp_path / "run", *given.split())
    assert code == 1 and len([line for line in said if line.startswith("metalearn-tut")]) == 1
    assert "nobody answered in any of the 2 rounds" in said[-1]
    assert "4 times 'OSError: the images are gone'" in said[-1]
    assert command(capsys, "evaluate", tmp_path / "run")[0] == 2  # there is nothing to evaluate


def test_flowers_app_fails_too(monkeypatch):
    federated_grid.identify(monkeypatch)
    config = {"experiment": "federated_cases:maml_federation", "arguments": '{"n": 3, "rounds": 2}'}
    behave = dict.fromkeys(range(3), "raises")
    with pytest.raises(FederationFailed, match="6 times 'error 0: out of memory'"):
        federated_grid.run(behave, **config)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("local_steps", "local_steps is 2 here and 1 there"),
        ("outer_lr", "outer_lr is 2 here and 0.1 there"),
        ("tasks_per_step", "tasks_per_step is 2 here and 1 there"),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
def test_a_node_that_made_another_federation_says_so_and_does_not_train(
    monkeypatch, argument, said, secure
):
    federated_grid.identify(monkeypatch)
    own = {"n": 3, "rounds": 1}
    config = {"experiment": "federated_cases:maml_federation", "secure": secure, "wait": 1.0}
    server_app, _ = apps(**config, arguments=json.dumps(own))
    _, client_app = apps(**config, arguments=json.dumps(own | {argument: 2}))
    grid = federated_grid.FakeGrid(client_app, 3)
    with pytest.raises(FederationFailed, match=f"3 times 'error 0: this node has .*: {said}"):
        server_app(grid, grid.context(0))


# --- frozen layers ----------------------------------------------------------------------


def frozen_gater(seed=1, **settings):
    """A federation of MetaGater whose first layer, and the first gate's, are frozen."""
    federation = gater_federation(torch.float64, **settings)
    model = gated("conv4", "support", seed=seed, ways=4).double()
    for part in (model.blocks[0], model.gates[0]):
        part.requires_grad_(False)
    learner = MetaGater(model, 0.1, sparsity=0.2, target=None)
    return replace(federation, learner=learner, rounds=2)


@pytest.mark.parametrize("update", ["full", "first_order"])
def test_frozen_parts_stay_and_the_others_learn(update):
    federation = frozen_gater()
    learner = federation.learner
    learner = MetaGater(learner.model, 0.1, sparsity=0.2, target=None, update=update)
    federation = replace(federation, learner=learner)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}
    records = run_rounds(federation)
    assert all(r["left_out"] == {} for r in records)
    moved = {n for n, p in learner.model.named_parameters() if not torch.equal(p, before[n])}
    free = {n for n, p in learner.model.named_parameters() if p.requires_grad}
    assert moved == free == learner.meta_parameters().keys() and len(free) < len(before)
    task = federation.samplers[0][0]
    end = learner.adapt(task.support_x, task.support_y).params
    after = {n: p.detach() for n, p in learner.model.named_parameters()}
    assert end.keys() == after.keys()
    assert {n for n in end if not torch.equal(end[n], after[n])} <= free


def test_the_gradient_of_what_is_free_is_a_finite_difference():
    """With relaxed gates, along a random direction, everything frozen held fixed."""
    federation = frozen_gater()
    learner = MetaGater(federation.learner.model, 0.1, sparsity=0.2, target=None, relaxed=True)
    batch = federation.samplers[0].batch(0, 2)
    generator = torch.Generator().manual_seed(3)
    metas = learner.meta_parameters()
    along = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in metas.items()}

    def value(step=0.0):
        with torch.no_grad():
            for n, p in metas.items():
                p += step * along[n]
        torch.manual_seed(0)  # of the gates' noise
        found = learner.task_losses(batch).losses.sum()
        with torch.no_grad():
            for n, p in metas.items():
                p -= step * along[n]
        return found

    grads = torch.autograd.grad(value(), list(metas.values()))
    slope = sum((g * along[n]).sum() for n, g in zip(metas, grads, strict=True))
    measured = (value(1e-6) - value(-1e-6)) / 2e-6
    torch.testing.assert_close(slope, measured.detach(), rtol=1e-5, atol=1e-8)


def test_all_frozen_is_one_sentence_before_any_work():
    model = gated("conv4", "support", seed=1, ways=4).requires_grad_(False)
    own = gater_federation().nodes
    with pytest.raises(ValueError, match="has nothing to train: all its parameters are frozen"):
        Federation(MetaGater(model), own, **PLAN)


class FixedFirst(torch.nn.Module):
    """The network of :func:`frozen_network`, its first layer written as constants."""

    def __init__(self, network):
        super().__init__()
        self.weight, self.bias = (p.detach().clone() for p in network[0].parameters())
        self.last = torch.nn.Linear(6, 4).double()
        self.last.load_state_dict(network[2].state_dict())

    def forward(self, x):
        return self.last(torch.tanh(x @ self.weight.T + self.bias))


def frozen_network():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4)]
    network = torch.nn.Sequential(*layers).double()
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("make", "options"), [(per_fed_avg, {}), (per_fed_avg, {"first_order": True}), (fed_avg, {})]
)
def test_a_frozen_layer_is_a_constant_of_the_federation(make, options):
    network = frozen_network()
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    federation = Federation(make(network, 0.2, **options), nodes(4), **PLAN)
    constant = Federation(make(FixedFirst(network), 0.2, **options), nodes(4), **PLAN)
    records = run_rounds(federation)
    assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in run_rounds(constant)])
    assert records[0]["bytes_up"] == 4 * 8 * (6 * 4 + 4)
    found, expected = state_of(federation.learner), state_of(constant.learner)
    for name in ("weight", "bias"):
        torch.testing.assert_close(found[f"2.{name}"], expected[f"last.{name}"])
        assert torch.equal(getattr(network[0], name), before[f"0.{name}"])


@pytest.mark.parametrize("make", [per_fed_avg, fed_avg])
def test_all_frozen_is_one_sentence_of_every_learner(make):
    network = frozen_network().requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        Federation(make(network, 0.2), nodes(4), **PLAN)


# --- numbers of other libraries ---------------------------------------------------------

COUNTS = [np.int64(24), np.int32(24), np.uint8(24), np.array(24), torch.tensor(24)]
LOSSES = [np.float64(1.5), np.float32(1.5), np.float16(1.5), np.array(1.5), torch.tensor(1.5), 2]


@pytest.mark.parametrize("count", COUNTS, ids=repr)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_count_or_a_loss_of_another_library_is_averaged(count, loss):
    federation, plain = maml_federation(rounds=1), maml_federation(rounds=1)

    def ask_with(federation, count, loss):
        honest = in_process(federation)
        return lambda chosen, state, number: {
            c: reply._replace(count=count, loss=loss, accuracy=loss)
            for c, reply in honest(chosen, state, number).items()
        }

    records = run_rounds(federation, ask_with(federation, count, loss))
    assert records == run_rounds(plain, ask_with(plain, 24, float(loss)))
    assert records[0]["left_out"] == {} and json.loads(json.dumps(records)) == records
    assert same(state_of(federation.learner), state_of(plain.learner))


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"count": True}, "it has True images"),
        ({"count": np.True_}, "it has np.True_ images"),
        ({"count": torch.tensor(True)}, r"it has tensor\(True\) images"),
        ({"count": 5.0}, "it has 5.0 images"),
        ({"count": np.float64(5)}, r"it has np.float64\(5.0\) images"),
        ({"count": "5"}, "it has '5' images"),
        ({"count": np.int64(0)}, r"it has np.int64\(0\) images"),
        ({"count": np.array([5, 6])}, "images"),
        ({"loss": True}, "its loss is True"),
        ({"loss": "1.0"}, "its loss is '1.0'"),
        ({"loss": np.float32("nan")}, "its loss is np.float32"),
        ({"loss": torch.ones(2)}, "its loss is tensor"),
        ({"loss": np.ones(2)}, "its loss is array"),
        ({"loss": 1j}, "its loss is 1j"),
        ({"loss": 10**400}, "its loss is 1000"),
        ({"accuracy": False}, "accuracy False"),
    ],
)
def test_what_is_no_number_is_refused(told, said):
    state = {"w": torch.zeros(1)}
    problem = problem_of(Reply(state, 5, 1.0)._replace(**told), state)
    with pytest.raises(ValueError, match=said):
        raise ValueError(problem)


def test_a_federation_of_numpys_integers_is_that_of_pythons(tmp_path):
    counts = {"rounds": 2, "support": 4, "query": 5, "local_steps": 2, "tasks_per_step": 2}
    of_numpy = {name: np.int64(n) for name, n in counts.items()}
    own, other = maml_federation(**counts), maml_federation(**of_numpy, seed=np.int32(0))
    assert run_rounds(own, out=tmp_path) == run_rounds(other, out=tmp_path, resume=True)
    assert own.describe() == other.describe() == json.loads(json.dumps(other.describe()))


# --- known by content -------------------------------------------------------------------


def federation_of(source=None, learner=None, local_labels=False, **settings):
    """Four nodes of two classes each, with one of its parts changed."""
    source = vectors() if source is None else source
    torch.manual_seed(0)
    learner = learner or per_fed_avg(torch.nn.Linear(5, 4).double(), 0.2)
    own = by_classes(source, 4, 2, unseen=0, local_labels=local_labels).train
    return Federation(learner, own, **{**PLAN, **settings})


def changed_pixel(position=7):
    source = vectors()
    images = source.images.copy()
    images[position, 2] += 1e-12
    return replace(source, images=images)


def permuted_labels():
    y = (torch.arange(96) + 1) % 4
    return tasks.from_arrays(vectors().images, y)


def gater(**settings):
    network = gated("conv4", "support", seed=1, ways=4)
    return MetaGater(network, **{"inner_lr": 0.1, "sparsity": 0.2, "target": None, **settings})


OTHERS = {
    "one number of one image": (lambda: federation_of(changed_pixel()), "fingerprint was"),
    "another draw of the same size": (lambda: federation_of(vectors(seed=1)), "fingerprint was"),
    "labels one further": (lambda: federation_of(permuted_labels()), "fingerprint was"),
    "labels from 0 on": (lambda: federation_of(local_labels=True), "(fingerprint|labels) was"),
    "another seed": (lambda: federation_of(seed=1), "seed was 0, now 1"),
    "another rate": (lambda: federation_of(outer_lr=0.2), "outer_lr was 0.1, now 0.2"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_run_is_not_resumed_with_other_contents(what, tmp_path):
    make, said = OTHERS[what]
    run_rounds(federation_of(), out=tmp_path)
    before = (tmp_path / "server.safetensors").read_bytes()
    other = make()
    assert [n.size for n in other.nodes] == [n.size for n in federation_of().nodes]
    with pytest.raises(ValueError, match=f"cannot resume .*: .*{said}"):
        run_rounds(other, out=tmp_path, resume=True)
    assert (tmp_path / "server.safetensors").read_bytes() == before


def test_the_order_of_nodes_counts_and_names_of_data_do_not(tmp_path):
    federation = federation_of()
    expected = run_rounds(federation, out=tmp_path)
    turned = replace(federation_of(), nodes=federation.nodes[::-1])
    with pytest.raises(ValueError, match=r"node 0\.fingerprint was .*, now"):
        run_rounds(turned, out=tmp_path, resume=True)
    renamed = federation_of(replace(vectors(), name="somewhere else"))
    assert run_rounds(renamed, out=tmp_path, resume=True) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"inner_lr": 0.3},
        {"gate_lr": 0.3},
        {"sparsity": 0.3},
        {"target": 0.5},
        {"update": "first_order"},
        {"stages": ("gates",)},
        {"warmup": 0.5},
        {"detach_stage1": True},
        {"relaxed": True},
        {"seed": 1},
        {"backbone_gates": "learned"},
        {"loss": torch.nn.MultiMarginLoss()},
    ],
    ids=str,
)
def test_a_run_is_not_resumed_with_another_setting_of_its_learner(changes, tmp_path):
    own = gater_federation().nodes
    plan = {**PLAN, "rounds": 1, "query": 6}
    run_rounds(Federation(gater(), own, **plan), out=tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume .*: learner\..* was .*, now"):
        run_rounds(Federation(gater(**changes), own, **plan), out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (lambda net: per_fed_avg(net, 7.0), "learner.inner_lr was 0.2, now 7.0"),
        (lambda net: per_fed_avg(net, 0.2, first_order=True), "learner.first_order was False, n"),
        (lambda net: fed_avg(net, 0.2), "learner.inner_steps was 1, now 0"),
        (lambda net: MAML(net, 0.2, 3), "learner.inner_steps was 1, now 3"),
        (lambda net: per_fed_avg(net, 0.2, loss=torch.nn.MultiMarginLoss()), "learner.loss was"),
        (
            lambda net: per_fed_avg(torch.nn.Sequential(net[0], torch.nn.ReLU(), net[2]), 0.2),
            "model",
        ),
    ],
)
def test_a_run_is_not_resumed_with_another_maml(learner, said, tmp_path):
    def federation(make):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 4)]
        return Federation(make(torch.nn.Sequential(*layers).double()), nodes(4), **PLAN)

    run_rounds(federation(lambda net: per_fed_avg(net, 0.2)), out=tmp_path)
    with pytest.raises(ValueError, match=f"cannot resume .*: .*{said}"):
        run_rounds(federation(learner), out=tmp_path, resume=True)


def test_frozen_weights_are_part_of_what_a_run_is(tmp_path):
    expected = run_rounds(frozen_gater(), out=tmp_path)
    with pytest.raises(ValueError, match=r"learner.frozen content was .*, now"):
        run_rounds(frozen_gater(seed=2), out=tmp_path, resume=True)
    assert run_rounds(frozen_gater(), out=tmp_path, resume=True) == expected


def test_samplers_of_nodes_are_known_by_content():
    one, other = federation_of(), federation_of(changed_pixel())
    assert one.samplers[0].settings() == federation_of().samplers[0].settings()
    pairs = zip(one.samplers, other.samplers, strict=True)
    assert sum(a.settings() != b.settings() for a, b in pairs) == 1
    found = [Across(f.nodes, 4, 5).settings() for f in (one, federation_of(), other)]
    assert found[0] == found[1] != found[2]
    assert json.loads(json.dumps(found[0])) == found[0]


# --- a pruned learner -------------------------------------------------------------------


def half_masks(learner):
    generator = torch.Generator().manual_seed(4)
    metas = learner.meta_parameters()
    return {
        n: (torch.rand(p.shape, generator=generator) > 0.5).to(p)
        for n, p in metas.items()
        if p.ndim > 1
    }


def pruned_federation(**settings):
    federation = maml_federation(**settings)
    federation.learner.set_masks(half_masks(federation.learner))
    return federation


def zeros_of(learner, masks):
    metas = learner.meta_parameters()
    return all(metas[n].masked_select(m == 0).eq(0).all() for n, m in masks.items())


def test_masks_travel_and_pruned_weights_stay_zero(tmp_path):
    federation = pruned_federation()
    masks = half_masks(federation.learner)
    before = state_of(federation.learner)
    assert {n for n in before if n.startswith("mask.")} == {f"mask.{n}" for n in masks}
    run_rounds(federation, out=tmp_path)
    after = state_of(federation.learner)
    assert zeros_of(federation.learner, masks) and not torch.equal(
        after["0.weight"], before["0.weight"]
    )
    resumed = pruned_federation()
    run_rounds(resumed, out=tmp_path, resume=True)
    assert same(state_of(resumed.learner), after)
    with pytest.raises(ValueError, match=r"mask\.0\.weight is \[6, 5\] in the file and absent in"):
        run_rounds(maml_federation(), out=tmp_path, resume=True)


def test_the_learner_of_a_pruned_federation_is_kept_with_its_masks(tmp_path):
    federation = pruned_federation()
    masks = half_masks(federation.learner)
    federated_train(federation, tmp_path, config={"n": 4}, progress=False)
    other = maml_federation().learner
    checkpoint.load(tmp_path / "last.safetensors", other)
    assert other.masks.keys() == masks.keys() and zeros_of(other, masks)
    assert all(torch.equal(other.masks[n], m) for n, m in masks.items())


def test_a_client_that_was_not_pruned_is_pruned_by_what_it_is_sent():
    server, client = pruned_federation(), maml_federation()
    sent = state_of(server.learner)
    expected, found = server.train(1, sent, 0), client.train(1, sent, 0)
    assert same(found.state, expected.state) and problem_of(found, sent) is None
    load_state(client.learner, sent)
    assert zeros_of(client.learner, half_masks(client.learner))


def test_a_client_cannot_let_pruned_weights_grow_again():
    federation = pruned_federation(rounds=1)
    honest = in_process(federation)

    def grown(chosen, state, number):
        return {
            c: r._replace(
                state={n: t + 1 if t.is_floating_point() else t for n, t in r.state.items()}
            )
            for c, r in honest(chosen, state, number).items()
        }

    run_rounds(federation, grown)
    assert zeros_of(federation.learner, half_masks(federation.learner))
    state = {"w": torch.tensor([1.0, 2.0]), "mask.w": torch.tensor([True, False])}
    assert weighted_average([state], [1.0], state)["w"].tolist() == [1.0, 0.0]


def test_the_learner_ends_where_the_server_does_buffers_included():
    model = torch.nn.Sequential(
        torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 4)
    )
    federation = Federation(fed_avg(model.double()), nodes(3), **{**PLAN, "rounds": 1})
    sent = {}

    def shifted(client, state, number):
        reply = federation.train(client, state, number)
        sent[client] = {n: t + client if "running_mean" in n else t for n, t in reply.state.items()}
        return reply._replace(state=sent[client])

    run_rounds(federation, in_process(federation, shifted))
    sizes = [node.size for node in federation.nodes]
    for name in ("0.weight", "buffer.1.running_mean"):
        mean = sum(s * sent[c][name] for c, s in enumerate(sizes)) / sum(sizes)
        torch.testing.assert_close(state_of(federation.learner)[name], mean)


# --- nodes ------------------------------------------------------------------------------


def test_two_nodes_of_one_number_are_refused():
    own = nodes(3)
    for double in ([own[0], own[0]], [*own, replace(own[1], classes=own[1].classes)]):
        with pytest.raises(ValueError, match="nodes must have different numbers, and two have"):
            Federation(fed_avg(torch.nn.Linear(5, 4).double()), double, **PLAN)
    assert len(Federation(fed_avg(torch.nn.Linear(5, 4).double()), own, **PLAN).nodes) == 3


# --- one set of defaults ----------------------------------------------------------------


def built(monkeypatch, tmp_path, words):
    """The configuration that a command would train with, and its federation, if it makes one."""

    kept = {}

    class Enough(Exception):
        pass

    def stop(*args, **options):
        kept.update(options, first=args[0])
        raise Enough

    monkeypatch.setattr("metalearn_tut.cli.commands.federate.federated_train", stop)
    monkeypatch.setattr("metalearn_tut.cli.commands.train.meta_train", stop)
    code = cli.run([*words.split(), "--out", str(tmp_path / "run")])
    assert code == 1 and kept, code
    return kept["config"], kept["first"]


@pytest.mark.parametrize("algorithm", [name for name in runs.ALGORITHMS if name != "tsmd"])
def test_a_learner_of_the_command_line_is_that_of_its_class(monkeypatch, tmp_path, algorithm):
    words = f"train --algorithm {algorithm} --width 4 --no-validate"
    config, learner = built(monkeypatch, tmp_path, words)
    plain = runs.build_learner({**config, "algorithm": {"name": algorithm}})
    assert settings_of(learner) == settings_of(plain)


@pytest.mark.parametrize("algorithm", runs.FEDERATED)
def test_a_federation_of_the_command_line_is_that_of_its_classes(monkeypatch, tmp_path, algorithm):
    config, federation = built(monkeypatch, tmp_path, f"federate --algorithm {algorithm} --width 4")
    plain = runs.build_learner({**config, "algorithm": {"name": algorithm}})
    assert settings_of(federation.learner) == settings_of(plain)
    sets = {"support": federation.support, "query": federation.query}
    default = Federation(plain, federation.nodes, config["federation"]["rounds"], **sets)
    names = ("fraction", "local_steps", "tasks_per_step", "outer_lr", "equal_weights", "seed")
    for name in names + (("gate_outer_lr",) if algorithm == "metagater" else ()):
        assert getattr(federation, name) == getattr(default, name), name


def test_the_student_of_the_command_line_is_mamls(monkeypatch, tmp_path):
    config, _ = built(monkeypatch, tmp_path, "train --algorithm maml --width 4 --no-validate")
    network = runs.build_learner(config).model
    algorithm = {n: v for n, v in config["algorithm"].items() if n != "name"}
    assert settings_of(MAML(network, **algorithm)) == settings_of(MAML(network))


def test_help_names_the_defaults_of_the_classes(capsys):
    assert cli.run(["federate", "--help"]) == 0
    options = " ".join(capsys.readouterr().out.split()).split("Options:")[1]
    for maker, names in ((MetaGater, ("sparsity", "target")), (Federation, ("gate_outer_lr",))):
        for name in names:
            default = signature(maker).parameters[name].default
            said = options.split(f"--{name.replace('_', '-')} ")[1].split("--")[0]
            assert f"[default: {default:g}]" in said, name


# What is told of a round, and in what time


def test_numbers_of_other_libraries_are_kept_with_their_round(tmp_path):
    def watch(number):
        return {"tensor": torch.tensor(number), "numpy": np.float32(0.5), "more": [np.int64(3)]}

    federation = maml_federation()
    records = run_rounds(federation, out=tmp_path, watch=watch)
    again = run_rounds(maml_federation(), out=tmp_path, resume=True)
    for number, (told, kept) in enumerate(zip(records, again, strict=True)):
        expected = {"tensor": number, "numpy": 0.5, "more": [3]}
        assert {n: told[n] for n in expected} == {n: kept[n] for n in expected} == expected


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2", None, float("nan")])
def test_rounds_between_checkpoints_are_a_count(bad, tmp_path):
    with pytest.raises(ValueError, match="save_every must be an integer >= 1"):
        run_rounds(maml_federation(), out=tmp_path, save_every=bad)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_time_that_nobody_can_wait_for_is_refused(bad):
    with pytest.raises(ValueError, match="timeout must be positive and finite"):
        in_process(maml_federation(), timeout=bad)


@pytest.mark.parametrize("bad", ["no", 2, None])
def test_what_is_no_answer_to_whether_weights_are_equal_is_refused(bad):
    with pytest.raises(ValueError, match="equal_weights must be one of True, False"):
        replace(maml_federation(), equal_weights=bad)


def test_a_watch_may_have_nothing_to_say():
    records = run_rounds(maml_federation(), watch=lambda number: None)
    assert records == run_rounds(maml_federation())
