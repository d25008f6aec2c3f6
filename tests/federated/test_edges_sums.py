"""Secure aggregation: the plain average to its stated precision, and no update for the server."""

import federated_grid
import numpy as np
import pytest
import torch
from federated_cases import maml_federation

from metalearn_tut.federated import (
    Federation,
    FederationFailed,
    Reply,
    fed_avg,
    in_process,
    run_rounds,
    state_of,
)
from metalearn_tut.federated.flower import sums as flower_sums
from metalearn_tut.federated.flower.sums import SecureClients, to_be_masked
from metalearn_tut.files.tensor_file import read_tensors

STAGES = ("setup", "share_keys", "collect_masked_vectors", "unmask")
MAML = {"experiment": "federated_cases:maml_federation", "secure": True, "wait": 5.0}


@pytest.fixture
def flower(monkeypatch, tmp_path):
    """Run the apps on a grid in this process; gives the state, the records and the grid."""
    federated_grid.identify(monkeypatch)

    def run(arguments='{"n": 3, "rounds": 1}', behave=None, **config):
        config = {**MAML, "arguments": arguments, "out": str(tmp_path), **config}
        grid = federated_grid.run(behave, **config)
        tensors, rest = read_tensors(tmp_path / "server.safetensors")
        return tensors, rest["records"], grid

    return run


def stage_of(message):
    return message.content.config_records["secaggplus_configs"]["stage"]


def dies_at(stage, how="raises"):
    return lambda message: how if stage_of(message) == stage else None


def without(*missing, n, rounds=1):
    """The plain average of the other clients."""
    federation = maml_federation(n=n, rounds=rounds)
    honest = in_process(federation)
    records = run_rounds(
        federation, lambda chosen, s, r: honest([c for c in chosen if c not in missing], s, r)
    )
    return state_of(federation.learner), records


def farthest(found, expected):
    return max((found[n] - p).abs().max().item() for n, p in expected.items())


def bound(weights, clip):
    """What the documentation states: 3 n clip / (T sum w / W), T = 2^min(30, 32 - bits of n)."""
    n = len(weights)
    quanta = 2 ** min(30, 32 - n.bit_length())
    return 3 * n * clip / (quanta * sum(w / max(weights) for w in weights))


# --- the same average -------------------------------------------------------------------


@pytest.mark.parametrize(("n", "clip"), [(2, 8.0), (3, 8.0), (4, 5.0), (6, 64.0)])
def test_sums_give_the_plain_average_to_the_stated_precision(flower, n, clip):
    state, (record,), _ = flower(f'{{"n": {n}, "rounds": 1}}', clip=clip)
    expected, (plain,) = without(n=n)
    limit = bound([node.size for node in maml_federation(n=n).nodes], clip)
    assert limit < 1e-6 and farthest(state, expected) < limit
    assert record["loss"] == pytest.approx(plain["loss"], abs=limit)
    assert record["accuracy"] == pytest.approx(plain["accuracy"], abs=limit)
    assert record["left_out"] == {}


def test_several_rounds_stay_beside_the_plain_ones(flower):
    state, records, _ = flower('{"n": 3, "rounds": 3}')
    expected, plain = without(n=3, rounds=3)
    assert farthest(state, expected) < 3e-7
    assert [r["moved"] for r in records] == pytest.approx([r["moved"] for r in plain], abs=1e-6)


class Grid(federated_grid.FakeGrid):
    """Nodes whose updates are given, by client; Flower's mod masks them."""

    def __init__(self, state, replies, weights):
        from flwr.client.mod import secaggplus_mod

        def train(message, context):
            return secaggplus_mod(message, context, masked)

        def masked(message, context):
            from flwr.app import Message

            client = context.node_config["partition-id"]
            told = message.content["told"]
            content = to_be_masked(replies[client], state, weights[client], told)
            return Message(content, reply_to=message)

        super().__init__(train, len(replies))


def summed(federation, state, replies, monkeypatch, weights=None):
    """What a round's clients are given back by :class:`SecureClients`."""
    federated_grid.identify(monkeypatch)
    weights = weights or [federation.weight(reply) for reply in replies]
    ask = SecureClients(Grid(state, replies, weights), federation)
    return ask.answers({c: 1000 + c for c in range(len(replies))}, state, 0)


def test_weights_counters_and_runs_without_accuracy_are_as_in_the_plain_average(monkeypatch):
    federation = maml_federation(n=3)
    sizes = [node.size for node in federation.nodes]
    generator = torch.Generator().manual_seed(0)
    state = {"w": torch.randn(4, 3, generator=generator), "n": torch.tensor(7)}
    replies = [
        Reply({"w": torch.randn(4, 3, generator=generator), "n": torch.tensor(i)}, size, float(i))
        for i, size in enumerate(sizes)
    ]
    found = summed(federation, state, replies, monkeypatch)
    mean = sum(s * r.state["w"].double() for s, r in zip(sizes, replies, strict=True)) / sum(sizes)
    for client, size in enumerate(sizes):
        reply = found[client]
        torch.testing.assert_close(reply.state["w"].double(), mean, rtol=0, atol=3e-7)
        assert reply.state["w"].dtype == torch.float32 and reply.state["n"] == 7
        assert reply.count == size and reply.accuracy is None
        loss = sum(s * r.loss for s, r in zip(sizes, replies, strict=True)) / sum(sizes)
        assert reply.loss == pytest.approx(loss, abs=1e-6)


def test_what_nobody_changed_stays_bitwise_so_that_pruned_weights_stay_zero(monkeypatch):
    federation = maml_federation(n=3)
    state = {"w": torch.tensor([0.0, 0.1, -3.3], dtype=torch.float64)}
    replies = [Reply({"w": state["w"].clone()}, node.size) for node in federation.nodes]
    for reply in summed(federation, state, replies, monkeypatch).values():
        assert torch.equal(reply.state["w"], state["w"])


# --- what the server is sent ------------------------------------------------------------


def test_the_server_is_sent_masks_over_updates_and_no_loss(flower):
    """Each node's vector looks drawn uniformly; nothing else in its replies depends on data."""
    _, _, grid = flower()
    sent = [m.content for _, m in grid.answered if "fitres.metrics" in m.content.config_records]
    assert len(sent) == 3
    vectors = []
    for content in sent:
        assert all(len(record) == 0 for record in content.array_records.values())
        assert dict(content.config_records["fitres.metrics"]) == {}
        assert set(content.metric_records) == {"fitres.num_examples"}
        from flwr.common import bytes_to_ndarray

        masked = content.config_records["secaggplus_configs"]["masked_params"]
        vectors.append(bytes_to_ndarray(masked[1]) / 2**32)
    for vector in vectors:  # 67 numbers; updates are small, so unmasked ones lie near 1/2 or 1/8
        assert 0.3 < vector.mean() < 0.7 and vector.std() > 0.2
    again = np.corrcoef(np.stack(vectors))
    assert np.abs(again[np.triu_indices(3, 1)]).max() < 0.5


# --- nodes that go away -----------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_node_that_fails_in_a_stage_is_left_out_and_named(flower, stage):
    state, (record,), _ = flower(behave={1: dies_at(stage)})
    assert record["left_out"] == {"node 1": "error 0: out of memory"}
    expected, _ = without(1, n=3)
    assert farthest(state, expected) < 1e-7


def test_a_node_that_fails_after_its_vector_was_summed_counts(flower):
    state, (record,), _ = flower(behave={1: dies_at("unmask")})
    assert record["left_out"] == {}
    assert farthest(state, without(n=3)[0]) < 1e-7


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("stage", STAGES[:3])
def test_a_node_that_is_late_is_left_out_and_takes_no_other_stages_time(flower, stage):
    state, (record,), _ = flower(behave={2: dies_at(stage, "late")}, timeout=2.0)
    assert record["left_out"] == {"node 2": "no answer in time"}
    assert farthest(state, without(2, n=3)[0]) < 1e-7


def test_nodes_that_fail_in_different_stages_leave_no_masks_behind(flower):
    """The keys of node 2 are put together again; node 1 was gone before it could mask with them."""
    behave = {1: dies_at("share_keys"), 2: dies_at("collect_masked_vectors")}
    state, (record,), _ = flower('{"n": 5, "rounds": 1}', behave=behave)
    assert sorted(record["left_out"]) == ["node 1", "node 2"]
    assert farthest(state, without(1, 2, n=5)[0]) < 1e-7


def test_every_stage_has_a_time_of_its_own(monkeypatch):
    limits = []
    monkeypatch.setattr(flower_sums.time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(flower_sums, "delivered", lambda *args: limits.append(args[2]) or {})
    postman = flower_sums._Postman(None, 80.0)
    for _ in STAGES:
        postman.send_and_receive([])
    assert limits == [10.0, 20.0, 70.0, 80.0]


def test_when_too_few_are_left_nobody_has_answered_and_the_next_round_goes_on(flower):
    calls = []

    def twice(message):
        calls.append(stage_of(message))
        return "raises" if calls.count("setup") == 1 and stage_of(message) == "share_keys" else None

    state, records, _ = flower('{"n": 3, "rounds": 2}', behave={0: twice, 1: dies_first(1)})
    assert records[0]["loss"] is None and records[0]["moved"] == 0
    assert records[0]["left_out"]["node 2"] == "too few nodes were left for a sum"
    assert records[0]["left_out"]["node 0"] == "error 0: out of memory"
    assert records[1]["left_out"] == {}
    federation = maml_federation(n=3, rounds=2)
    honest = in_process(federation)
    run_rounds(federation, lambda chosen, s, r: honest(chosen, s, r) if r else {})
    assert farthest(state, state_of(federation.learner)) < 1e-7


def dies_first(times):
    """In the first messages of a run."""
    left = [times]

    def behave(message):
        left[0] -= 1
        return "raises" if left[0] >= 0 else None

    return behave


def test_when_no_sum_can_be_made_in_any_round_the_run_has_failed(flower):
    behave = dict.fromkeys((0, 1), dies_at("collect_masked_vectors"))
    with pytest.raises(FederationFailed, match=r"any of the 2 rounds.*4 times 'error 0: out of"):
        flower('{"n": 3, "rounds": 2}', behave=behave)


# --- what cannot be masked --------------------------------------------------------------


def test_an_update_beyond_the_clip_is_refused_by_its_node_not_cut(flower):
    with pytest.raises(FederationFailed, match=r"a number of its update is beyond ±0.001: raise"):
        flower(clip=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": torch.tensor([9.0])}, "a number of its update is beyond ±8: raise clip"),
        ({"w": torch.tensor([float("nan")])}, "w is not finite"),
        ({"w": torch.zeros(2)}, r"w has shape \[2\], not \[1\]"),
        ({"v": torch.zeros(1)}, "v is unknown"),
    ],
)
def test_a_node_looks_at_its_own_reply_since_the_server_cannot(change, said):
    pytest.importorskip("flwr")
    state, told = {"w": torch.zeros(1)}, {"clip": 8.0, "most": 5.0}
    with pytest.raises(ValueError, match=said):
        to_be_masked(Reply({"w": torch.ones(1)} | change, 5), state, 5.0, told)
    with pytest.raises(ValueError, match="beyond ±8"):
        to_be_masked(Reply({"w": torch.ones(1)}, 5, loss=8.5), state, 5.0, told)
    with pytest.raises(ValueError, match="it has more images than the server knows of"):
        to_be_masked(Reply({"w": torch.ones(1)}, 6), state, 6.0, told)
    assert to_be_masked(Reply({"w": torch.ones(1)}, 5), state, 5.0, told).array_records


def test_a_sum_of_one_is_refused_before_any_work(monkeypatch):
    learner, nodes = fed_avg(torch.nn.Linear(5, 4).double()), maml_federation(n=4).nodes
    one = Federation(learner, nodes, rounds=1, support=4, query=5, fraction=0.1)
    with pytest.raises(ValueError, match=r"needs two nodes in every round, and fraction=0.1 of 4"):
        SecureClients(None, one)
    two = Federation(learner, nodes, rounds=1, support=4, query=5, fraction=0.5)
    for clip in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clip must be positive"):
            SecureClients(None, two, clip=clip)
    assert SecureClients(None, two).answers({3: 1003}, {}, 0) == {
        3: "a sum hides nothing of a single node"
    }
