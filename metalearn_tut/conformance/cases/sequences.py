"""Recurrent networks, attention and embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from metalearn_tut.conformance.case import Case, regression
from metalearn_tut.tasks.task import Task


class _Recurrent(nn.Module):
    """Sequences ``[B, 3, 2]``; the last state, and a linear output."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells = kind(2, 2, batch_first=True).double()
        self.last = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.cells(x)[0][:, -1])


class _ByHand(nn.Module):
    """An ``nn.GRUCell`` stepped in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.GRUCell(2, 2).double(), nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 2)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.last(state)


class _Attention(nn.Module):
    """``nn.MultiheadAttention`` over three positions; asked for weights it is not fused."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True).double()
        self.last = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x, need_weights=self.need_weights)[0].mean(1))


class _AttentionByHand(nn.Module):
    """The same written out: ``softmax(q k^T) v``."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(2, 2).double() for _ in range(3))
        self.last = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(1, 2) / 2**0.5
        return self.last((scores.softmax(-1) @ self.value(x)).mean(1))


class _Words(nn.Module):
    """Words ``[B, 3]`` of a vocabulary of five."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self.last = embedding.double(), nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        words = self.embedding(x)
        return self.last(torch.tanh(words.sum(1) if words.ndim == 3 else words))


def words() -> list[Task]:
    """Two tasks with inputs of words; one word is in no support set."""
    tasks = []
    for i, task in enumerate(regression(3)):
        support, query = (
            torch.randint(high, (4, 3), generator=torch.Generator().manual_seed(i))
            for high in (4, 5)
        )
        tasks.append(Task(support, task.support_y, query, task.query_y))
    return tasks


def _case(name: str, build: Callable[[], nn.Module], told: str) -> Case:
    return Case(name, build, partial(regression, 3, 2), told=told)


SEQUENCES = (
    _case("LSTM", partial(_Recurrent, nn.LSTM), "LSTM|lstm"),
    _case("GRU", partial(_Recurrent, nn.GRU), "GRU|gru"),
    _case("GRU cell in a loop", _ByHand, "GRU|gru|shape|len"),
    _case("nn.MultiheadAttention", partial(_Attention, False), "ttention"),
    _case("nn.MultiheadAttention with weights", partial(_Attention, True), "ttention"),
    _case("attention in Python", _AttentionByHand, "softmax|matmul|transpose"),
    Case("embedding", lambda: _Words(nn.Embedding(5, 2)), words, told="[Ee]mbedding"),
    Case(
        "bag of words (EmbeddingBag)",
        lambda: _Words(nn.EmbeddingBag(5, 2, mode="sum")),
        words,
        told="[Ee]mbedding_?[Bb]ag",
    ),
)
