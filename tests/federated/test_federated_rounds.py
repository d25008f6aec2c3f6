"""Aggregation and rounds: identities G9 to G12, hostile clients, and a server that is killed."""

import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import background
import federated_cases
import pytest
import torch
from bilevel_cases import assert_same
from federated_cases import (
    ALL,
    ALPHA,
    gater_federation,
    maml_federation,
    nodes,
    quadratic_federation,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from metalearn_tut import bilevel
from metalearn_tut.federated import (
    Federation,
    FederationFailed,
    Reply,
    bytes_of,
    fed_avg,
    in_process,
    load_state,
    per_fed_avg,
    problem_of,
    rounds,
    run_rounds,
    state_of,
    weighted_average,
)
from metalearn_tut.models import CifarResNet
from metalearn_tut.tasks import TaskBatch

# Averages


def states(n, dtype=torch.float64):
    return [
        {
            "w": torch.randn(3, 2, generator=torch.Generator().manual_seed(i), dtype=dtype),
            "buffer.mean": torch.full((2,), float(i), dtype=dtype),
            "buffer.count": torch.tensor(10 * i + 1),
        }
        for i in range(n)
    ]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=5))
def test_G11_weights_are_normalized_and_integers_kept(weights):
    all_states = states(len(weights))
    current = {**states(1)[0], "buffer.count": torch.tensor(7)}
    average = weighted_average(all_states, weights, current)
    expected = sum(w / sum(weights) * s["w"] for s, w in zip(all_states, weights, strict=True))
    torch.testing.assert_close(average["w"], expected)
    means = sum(w / sum(weights) * i for i, w in enumerate(weights))
    torch.testing.assert_close(average["buffer.mean"], torch.full((2,), means).double())
    assert average["buffer.count"] == 7 and average["buffer.count"].dtype == torch.int64
    again = weighted_average(all_states, [3 * w for w in weights], current)
    torch.testing.assert_close(again["w"], average["w"])


def test_G11_the_order_of_clients_does_not_matter_in_float32():
    all_states, weights = states(5, torch.float32), [3.0, 1.0, 7.0, 2.0, 5.0]
    expected = weighted_average(all_states, weights, all_states[0])
    for order in ([4, 3, 2, 1, 0], [2, 0, 4, 1, 3]):
        found = weighted_average(
            [all_states[i] for i in order], [weights[i] for i in order], all_states[0]
        )
        assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_G11_without_data_a_client_does_not_count_and_without_clients_nothing_changes():
    a, b, current = *states(2), states(1)[0]
    bad = {**b, "w": b["w"] * float("nan")}
    assert torch.equal(weighted_average([a, bad], [2, 0], current)["w"], a["w"])
    for found in (weighted_average([], [], current), weighted_average([a], [0], current)):
        assert all(torch.equal(found[n], current[n]) for n in current)


def test_running_statistics_are_averaged_and_counters_are_not():
    learners = [fed_avg(CifarResNet(20)) for _ in range(2)]
    found = [state_of(learner) for learner in learners]
    found[1]["buffer.stem.1.num_batches_tracked"] += 8
    found[1]["buffer.stem.1.running_mean"] += 1.0
    average = weighted_average(found, [1, 3], found[0])
    assert average["buffer.stem.1.num_batches_tracked"] == 0
    assert average["buffer.stem.1.running_mean"].eq(0.75).all()
    load_state(learners[0], average)
    assert learners[0].model.stem[1].running_mean.eq(0.75).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: weighted_average(s, [1, -1], s[0]), "weights must be one finite number >= 0"),
        (lambda s: weighted_average(s, [1], s[0]), "weights must be one finite number >= 0"),
        (lambda s: weighted_average(s, [1, float("nan")], s[0]), "weights must be one finite"),
        (
            lambda s: weighted_average([s[0], {**s[1], "w": torch.ones(2, 2)}], [1, 1], s[0]),
            r"state 1 is of another architecture: w has shape \[2, 2\], not \[3, 2\]",
        ),
        (lambda s: weighted_average([s[0], {}], [1, 1], s[0]), "state 1 .*buffer.count is missing"),
    ],
)
def test_averages_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(states(2))


# Rounds in closed form


def test_G9_one_client_and_one_local_step_are_the_centralized_step():
    federation = maml_federation(1, rounds=1, tasks_per_step=3)
    learner, batch = federation.learner, federation.samplers[0].batch(0, 3)
    grads = bilevel.meta_gradient(learner.model, batch, inner_lr=0.2, inner_steps=1)
    expected = {n: p - 0.1 * grads[n] for n, p in state_of(learner).items()}
    records = run_rounds(federation)
    assert_same(state_of(learner), expected)
    moved = 0.1 * torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
    torch.testing.assert_close(torch.tensor(records[0]["moved"]).double(), moved)


@pytest.mark.parametrize("steps", [1, 3])
def test_G9_identical_clients_are_the_same_as_one(steps):
    A = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    found = []
    for n in (1, 4):
        federation, _ = quadratic_federation([A] * n, [5] * n, local_steps=steps, rounds=2)
        federation.learner.optima[:] = torch.tensor([1.0, 0.5])
        run_rounds(federation)
        found.append(federation.learner.theta.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("equal_weights", [True, False])
def test_G10_one_local_step_is_the_weighted_centralized_step(equal_weights):
    federation = maml_federation(rounds=1, equal_weights=equal_weights)
    for node, size in zip(federation.nodes, [12, 10, 16, 20], strict=True):
        object.__setattr__(node, "positions", tuple(p[: size // 2] for p in node.positions))
    sizes = [node.size for node in federation.nodes]
    learner = federation.learner
    expected = state_of(learner)
    for sampler, size in zip(federation.samplers, sizes, strict=True):
        batch = TaskBatch.stack([sampler[0]])
        grads = bilevel.meta_gradient(learner.model, batch, inner_lr=0.2, inner_steps=1)
        share = 1 / 4 if equal_weights else size / sum(sizes)
        expected = {n: p - 0.1 * share * grads[n] for n, p in expected.items()}
    run_rounds(federation)
    assert_same(state_of(learner), expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_G10_quadratic_clients_with_one_hessian_meet_at_the_weighted_mean(steps):
    A = torch.tensor([[1.5, 0.4], [0.4, 0.8]], dtype=torch.float64)
    federation, optima = quadratic_federation([A] * 3, [2, 5, 3], local_steps=steps)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    mean, one = weights @ optima, torch.eye(2, dtype=torch.float64)
    M = one - 0.2 * (one - ALPHA * A) @ A @ (one - ALPHA * A)
    theta = federation.learner.theta.detach().clone()
    run_rounds(federation)
    expected = mean + torch.linalg.matrix_power(M, steps) @ (theta - mean)
    torch.testing.assert_close(federation.learner.theta.detach(), expected)
    load_state(federation.learner, {"theta": mean})
    run_rounds(federation)
    torch.testing.assert_close(federation.learner.theta.detach(), mean)


def test_G10_with_unequal_hessians_and_several_local_steps_clients_drift():
    """A round keeps the minimum of the mean of the F_i where it is for T_0 = 1, and only there."""
    eye = torch.eye(2, dtype=torch.float64)
    hessians = [0.3 * eye, 1.5 * eye]
    curvature = [(1 - ALPHA * h[0, 0]) ** 2 * h[0, 0] for h in hessians]

    def after_a_round(steps, pulls):
        """From the mean of the optima weighted by ``pulls``, how far the model moves."""
        federation, optima = quadratic_federation(hessians, [4, 4], local_steps=steps)
        start = sum(p * a for p, a in zip(pulls, optima, strict=True)) / sum(pulls)
        load_state(federation.learner, {"theta": start})
        (record,) = run_rounds(federation)
        return record["moved"]

    drifted = [1 - (1 - 0.2 * c) ** 20 for c in curvature]  # 20 steps pull this far
    assert after_a_round(1, curvature) < 1e-14 and after_a_round(20, drifted) < 1e-14
    assert after_a_round(20, curvature) > 0.01


def test_G12_fedavg_descends_the_query_loss():
    learner = fed_avg(torch.nn.Linear(5, 4).double())
    plan = {"rounds": 1, "support": 4, "query": 5, "outer_lr": 0.1}
    federation = Federation(learner, nodes(1), **plan, local_steps=1)
    task = federation.samplers[0][0]
    loss = torch.nn.functional.cross_entropy(learner.model(task.query_x), task.query_y)
    grads = torch.autograd.grad(loss, list(learner.model.parameters()))
    expected = {
        n: (p - 0.1 * g).detach()
        for (n, p), g in zip(learner.model.named_parameters(), grads, strict=True)
    }
    run_rounds(federation)
    assert_same(state_of(learner), expected)


def test_gates_have_their_own_rate_and_the_learner_is_told_the_progress():
    federation = gater_federation(rounds=2)
    federation = Federation(
        federation.learner, federation.nodes, 2, 4, 6, outer_lr=0.0, gate_outer_lr=0.2, **ALL
    )
    before, told = state_of(federation.learner), []
    real = federation.learner.task_losses

    def spy(batch, progress):
        told.append(progress)
        assert not batch.tags
        return real(batch, progress)

    federation.learner.task_losses = spy
    run_rounds(federation)
    after = state_of(federation.learner)
    moved = {n for n in after if not torch.equal(after[n], before[n])}
    assert moved and all(name.startswith("gates.") for name in moved)
    assert sorted(set(told)) == [0.0, 0.5]


# Who is asked, and what it costs


def test_clients_are_drawn_by_seed_and_round():
    federation = maml_federation(8, fraction=0.5, rounds=50)
    drawn = [tuple(federation.clients(r)) for r in range(50)]
    assert all(len(set(c)) == 4 and list(c) == sorted(c) for c in drawn) and len(set(drawn)) > 20
    assert drawn == [tuple(maml_federation(8, fraction=0.5).clients(r)) for r in range(50)]
    assert drawn != [tuple(maml_federation(8, fraction=0.5, seed=1).clients(r)) for r in range(50)]
    few = maml_federation(8, fraction=0.01)
    assert all(len(few.clients(r)) == 1 for r in range(9))


def test_bytes_are_counted_with_gates_and_without_those_who_did_not_answer():
    federation = gater_federation(rounds=1)
    state = state_of(federation.learner)
    own = 4 * sum(p.numel() for p in federation.learner.model.parameters())
    gates = 4 * sum(p.numel() for p in federation.learner.model.gates.parameters())
    assert bytes_of(state) == own and 0 < gates < own

    def train(client, state, round):
        if client == 1:
            raise ConnectionError("gone")
        return federation.train(client, state, round)

    (record,) = run_rounds(federation, in_process(federation, train))
    assert (record["bytes_down"], record["bytes_up"]) == (3 * own, 2 * own)


# Clients that go wrong


def hostile(federation, how):
    """Client 1 does something bad."""

    def train(client, state, round):
        if client != 1:
            return federation.train(client, state, round)
        reply = Reply({n: t.clone() for n, t in state.items()}, 10**6, 0.0, 0.5)
        return how(reply)

    return in_process(federation, train)


def fail(reply):
    raise RuntimeError("out of memory")


def with_tensor(name, tensor):
    return lambda reply: reply._replace(state={**reply.state, name: tensor})


HOSTILE = {
    "raises": (fail, "RuntimeError: out of memory"),
    "nan": (with_tensor("0.bias", torch.full((6,), float("nan")).double()), "0.bias is not finite"),
    "inf": (with_tensor("0.bias", torch.full((6,), float("inf")).double()), "0.bias is not finite"),
    "shape": (with_tensor("0.bias", torch.zeros(5)), "0.bias has shape [5], not [6]"),
    "dtype": (with_tensor("0.bias", torch.zeros(6)), "0.bias is torch.float32, not torch.float64"),
    "unknown": (with_tensor("more", torch.zeros(6)), "more is unknown"),
    "missing": (lambda reply: reply._replace(state={}), "0.bias is missing"),
    "no name": (with_tensor(3, torch.zeros(6)), "3 is unknown"),
    "sparse": (
        with_tensor("0.bias", torch.zeros(6).double().to_sparse()),
        "0.bias is not a dense tensor with numbers",
    ),
    "endless": (
        lambda reply: reply._replace(count=10**5000),
        "its number of images is beyond all numbers",
    ),
    "no tensor": (with_tensor("0.bias", [0.0] * 6), "0.bias is list"),
    "no images": (lambda reply: reply._replace(count=0), "it has 0 images"),
    "less": (lambda reply: reply._replace(count=-3), "it has -3 images"),
    "not a number": (lambda reply: reply._replace(count=float("nan")), "it has nan images"),
    "loss": (
        lambda reply: reply._replace(loss=float("nan")),
        "its loss is nan and its accuracy 0.5",
    ),
    "word": (
        lambda reply: reply._replace(accuracy="all"),
        "its loss is 0.0 and its accuracy 'all'",
    ),
    "state": (lambda reply: reply._replace(state=None), "its state is NoneType"),
    "nothing": (lambda reply: None, "a reply was expected, not NoneType"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_client_is_left_out_named_and_the_round_goes_on(what, caplog):
    how, reason = HOSTILE[what]
    federation = maml_federation(rounds=2)
    with caplog.at_level(logging.WARNING, "metalearn_tut.federated.rounds"):
        records = run_rounds(federation, hostile(federation, how))
    assert [r["left_out"] for r in records] == [{"node 1": reason}] * 2
    assert f"round 1 goes on without node 1: {reason}" in caplog.text
    without = maml_federation(rounds=2)
    honest = in_process(without)
    run_rounds(without, lambda chosen, s, r: honest([c for c in chosen if c != 1], s, r))
    assert_same(state_of(federation.learner), state_of(without.learner), rtol=0)


def test_a_late_client_is_left_out_and_disturbs_nobody(monkeypatch):
    federation, without = maml_federation(rounds=2), maml_federation(rounds=2)
    release, real, stuck = threading.Event(), federation.samplers[1].tasks, set()

    def late(indices):
        stuck.add(threading.current_thread())
        return release.wait(600) and real(indices)

    class Thread(threading.Thread):  # too late is who waits, however slow the others are
        def join(self, timeout=None):
            while self.is_alive() and not (timeout == 2.0 and self in stuck):
                super().join(0.01)

    monkeypatch.setattr(rounds.threading, "Thread", Thread)
    federation.samplers[1].tasks = late
    before = set(threading.enumerate())
    records = run_rounds(federation, in_process(federation, timeout=2.0))
    assert [r["left_out"] for r in records] == [{"node 1": "no answer within 2 s"}] * 2
    honest = in_process(without)
    run_rounds(without, lambda chosen, s, r: honest([c for c in chosen if c != 1], s, r))
    assert_same(state_of(federation.learner), state_of(without.learner), rtol=0)
    release.set()
    late = set(threading.enumerate()) - before
    for thread in late:
        thread.join(background.HANG)
    assert len(late) == 2 and not any(thread.is_alive() for thread in late)
    assert_same(state_of(federation.learner), state_of(without.learner), rtol=0)


def test_a_diverging_client_is_left_out_by_itself():
    learner = fed_avg(torch.nn.Linear(5, 4).double())
    plan = {"rounds": 1, "support": 4, "query": 5, "fraction": 1.0, "outer_lr": 0.01}
    federation = Federation(learner, nodes(3), **plan, local_steps=2)
    node = federation.nodes[1]
    huge = replace(node.source, images=1e300 * node.source.images)
    object.__setattr__(node, "source", huge)
    (record,) = run_rounds(federation)
    assert record["left_out"] == {"node 1": "FloatingPointError: the loss is nan in step 1"}
    assert all(torch.isfinite(t).all() for t in state_of(learner).values())


def test_if_nobody_answers_the_model_is_unchanged(caplog):
    federation = maml_federation(rounds=2)
    before = state_of(federation.learner)
    with caplog.at_level(logging.WARNING), pytest.raises(FederationFailed) as failed:
        run_rounds(federation, lambda chosen, state, round: {})
    records = failed.value.records
    assert_same(state_of(federation.learner), before, rtol=0)
    assert set(records[0]["left_out"].values()) == {"no answer"}
    assert records[0]["loss"] is None and records[0]["moved"] == 0 and records[0]["bytes_up"] == 0
    assert "round 0 changes nothing: nobody answered" in caplog.text


def test_a_client_cannot_change_the_servers_state_behind_its_back():
    federation, without = maml_federation(rounds=2), maml_federation(rounds=2)

    def train(client, state, round):
        if client == 1:
            for tensor in state.values():
                tensor.fill_(1e9)
            raise RuntimeError("caught")
        return federation.train(client, state, round)

    run_rounds(federation, in_process(federation, train))
    honest = in_process(without)
    run_rounds(without, lambda chosen, s, r: honest([c for c in chosen if c != 1], s, r))
    assert_same(state_of(federation.learner), state_of(without.learner), rtol=0)


def test_every_step_of_every_round_has_tasks_of_its_own():
    federation = maml_federation(2, rounds=2, local_steps=2, tasks_per_step=3)
    drawn = {0: [], 1: []}
    for client, sampler in enumerate(federation.samplers):
        real = sampler.tasks
        sampler.tasks = lambda i, own=drawn[client], real=real: (own.extend(i), real(i))[1]
    run_rounds(federation)
    assert drawn == {0: list(range(12)), 1: list(range(12))}


def test_problem_of_finds_nothing_wrong_with_an_honest_reply():
    federation = maml_federation()
    state = state_of(federation.learner)
    assert problem_of(federation.train(0, state, 0), state) is None


# A server that is killed


def test_a_killed_server_resumes_exactly(tmp_path):
    whole = gater_federation(rounds=4, fraction=0.7)
    expected = run_rounds(whole, watch=lambda n: {"n": n})
    stopped = gater_federation(rounds=4, fraction=0.7)

    def until(chosen, state, round):
        if round == 2:
            raise KeyboardInterrupt
        return in_process(stopped)(chosen, state, round)

    watch = {"watch": lambda n: {"n": n}}
    with pytest.raises(KeyboardInterrupt):
        run_rounds(stopped, until, out=tmp_path, **watch)
    resumed = gater_federation(rounds=4, fraction=0.7)
    torch.manual_seed(99)
    assert run_rounds(resumed, out=tmp_path, resume=True, **watch) == expected
    assert_same(state_of(resumed.learner), state_of(whole.learner), rtol=0)
    again = gater_federation(rounds=4, fraction=0.7)  # all done: nothing to do but load
    assert run_rounds(again, lambda *_: pytest.fail("asked"), out=tmp_path, resume=True) == expected
    assert_same(state_of(again.learner), state_of(whole.learner), rtol=0)


def state_at(federation, round=None, **run):
    """The number of rounds done and the server's state, as the next round begins."""
    seen = {}

    def ask(chosen, state, number):
        if round in (None, number):
            seen.update(number=number, state=state)
            raise KeyboardInterrupt
        return in_process(federation)(chosen, state, number)

    with pytest.raises(KeyboardInterrupt):
        run_rounds(federation, ask, **run)
    return seen["number"], seen["state"]


CHILD = """
import sys
sys.path.insert(0, {tests!r})
from federated_cases import maml_federation
from metalearn_tut.federated import run_rounds
run_rounds(maml_federation(rounds=10**6), out={out!r})
"""


@pytest.mark.slow
def test_a_server_killed_by_the_system_leaves_a_whole_checkpoint(tmp_path):
    code = CHILD.format(tests=str(Path(federated_cases.__file__).parent), out=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + background.HANG
        while not (tmp_path / "server.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
    long = {"rounds": 10**6}
    done, state = state_at(maml_federation(**long), out=tmp_path, resume=True)
    assert done >= 1
    assert_same(state, state_at(maml_federation(**long), done)[1], rtol=0)


def test_checkpoints_of_other_runs_are_refused(tmp_path):
    run_rounds(maml_federation(), out=tmp_path)
    with pytest.raises(FileExistsError, match=r"holds a run: go on with it \(resume=True"):
        run_rounds(maml_federation(), out=tmp_path)
    with pytest.raises(ValueError, match=r"cannot resume .*: local_steps was 1, now 2"):
        run_rounds(maml_federation(local_steps=2), out=tmp_path, resume=True)
    (tmp_path / "server.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="is damaged, or not a server's checkpoint"):
        run_rounds(maml_federation(), out=tmp_path, resume=True)


def test_records_are_json():
    records = run_rounds(maml_federation(rounds=1))
    assert json.loads(json.dumps(records)) == records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"fraction": 1.5}, "fraction must be in"),
        ({"rounds": 0}, "rounds must be an integer >= 1, got 0"),
        ({"local_steps": 0}, "local_steps must be an integer >= 1"),
        ({"outer_lr": float("nan")}, "outer_lr must be finite and >= 0, got nan"),
        ({"support": 50}, r"node 0 has 24 images, fewer than support \+ query = 50 \+ 5"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        maml_federation(**settings)


def test_more_bad_settings_are_named(tmp_path):
    learner = per_fed_avg(torch.nn.Linear(5, 4))
    with pytest.raises(ValueError, match="nodes must not be empty"):
        Federation(learner, [], rounds=1, support=1, query=1)
    with pytest.raises(ValueError, match="timeout must be positive and finite, got 0"):
        in_process(maml_federation(), timeout=0.0)
    with pytest.raises(ValueError, match="save_every must be an integer >= 1, got 0"):
        run_rounds(maml_federation(), save_every=0)
