"""Clients in threads: the rounds of one after another, bit by bit."""

import threading

import federated_cases as cases
import pytest
import torch
from torch import nn

from metalearn_tut.federated import Federation, in_process, per_fed_avg, run_rounds


def with_dropout():
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.Dropout(0.3), nn.Linear(6, 4)]
    learner = per_fed_avg(nn.Sequential(*layers).double(), 0.2)
    plan = {"rounds": 2, "support": 4, "query": 5, "outer_lr": 0.1, **cases.ALL}
    return Federation(learner, cases.nodes(4), **plan)


FEDERATIONS = {
    "MAML": cases.maml_federation,
    "gates": cases.gater_federation,
    "dropout": with_dropout,
}


@pytest.mark.parametrize("kind", FEDERATIONS)
def test_rounds_with_workers_are_bitwise_those_of_one(kind):
    one, two = FEDERATIONS[kind](), FEDERATIONS[kind]()
    assert run_rounds(one, workers=1) == run_rounds(two, workers=2)
    for key, tensor in one.learner.state_dict().items():
        assert torch.equal(tensor, two.learner.state_dict()[key]), key


@pytest.mark.parametrize(("kind", "several"), [("MAML", True), ("gates", True), ("dropout", False)])
def test_gates_noise_is_a_clients_own_and_dropout_is_everybodys(kind, several, monkeypatch):
    federation, seen = FEDERATIONS[kind](), []
    train = Federation.train

    def watched(self, client, state, round):
        seen.append((self.learner is federation.learner, threading.get_ident()))
        return train(self, client, state, round)

    monkeypatch.setattr(Federation, "train", watched)
    run_rounds(federation, workers=2)
    assert seen[0] == (True, threading.get_ident())
    last = seen[-len(federation.nodes) :]  # the first may be done twice, to find out
    assert any(not own for own, _ in last) == several


def test_a_client_that_fails_in_a_thread_is_left_out(monkeypatch):
    train = Federation.train

    def some(self, client, state, round):
        if client == 2:
            raise RuntimeError("out of battery")
        return train(self, client, state, round)

    monkeypatch.setattr(Federation, "train", some)
    records = run_rounds(cases.maml_federation(), workers=2)
    assert all([*record["left_out"]] == ["node 2"] for record in records)


def test_clients_of_ones_own_go_one_after_another():
    federation, idents = cases.maml_federation(), set()

    def train(client, state, round):
        idents.add(threading.get_ident())
        return federation.train(client, state, round)

    run_rounds(federation, in_process(federation, train), workers=2)
    assert idents == {threading.get_ident()}
