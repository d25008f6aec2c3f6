"""Flower's messages in one process: a grid whose nodes answer at once (no tests here)."""

from copy import deepcopy

import pytest

from metalearn_tut.federated.flower.app import apps, make_federation


class FakeGrid:
    """Nodes that answer at once, in this process; some of them badly.

    How a client behaves is a word, or a function of the message that gives one.
    """

    def __init__(self, client_app, clients, behave=None, run_config=None):
        self.app, self.behave = client_app, behave or {}
        self.run_config = run_config or {}
        self.nodes = {1000 + client: client for client in range(clients)}
        self.replies, self.pushed, self.memory, self.answered = {}, [], {}, []

    def get_node_ids(self):
        return [node for node in self.nodes if self.behave.get(self.nodes[node]) != "gone"]

    def push_messages(self, messages):
        from flwr.app import Error, Message, RecordDict

        ids = []
        for message in messages:
            client = self.nodes[message.metadata.dst_node_id]
            kind = message.metadata.message_type
            self.pushed.append((kind, client))
            ids.append(f"message {len(self.pushed)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            how = self.behave.get(client) if kind == "train" else None
            how = how(message) if callable(how) else how
            if how == "late":
                continue
            if how == "unsent":
                ids[-1] = None
                continue
            if how == "empty":
                self.replies[ids[-1]] = Message(RecordDict(), reply_to=message)
                continue
            try:
                if how == "raises":
                    raise RuntimeError("out of memory")
                arrived = deepcopy(message)  # as if it had travelled
                self.replies[ids[-1]] = self.app(arrived, self.context(client))
                self.answered.append((client, self.replies[ids[-1]]))
            except Exception as error:
                self.replies[ids[-1]] = Message(Error(0, str(error)), reply_to=message)
        return ids

    def pull_messages(self, ids):
        return [self.replies.pop(i) for i in ids if i in self.replies]

    def context(self, client):
        from flwr.app import Context, RecordDict

        config = {"partition-id": client, "num-partitions": len(self.nodes)}
        config = {} if self.behave.get(client) == "nobody" else config
        state = self.memory.setdefault(client, RecordDict())
        return Context(1, 1000 + client, config, state, self.run_config)


def identify(monkeypatch):
    """Messages can be made in this process, as in a task of Flower's."""
    pytest.importorskip("flwr")
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)


def run(behave=None, clients=None, run_config=None, **config):
    """A run of the apps with this configuration; returns the grid."""
    server_app, client_app = apps(**config)
    n = clients or len(make_federation(config["experiment"], config["arguments"]).nodes)
    grid = FakeGrid(client_app, n, behave, run_config)
    server_app(grid, grid.context(0))
    return grid
