"""What travels between server and clients, and what the server makes of the replies."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor, nn

from metalearn_tut.bilevel import Params
from metalearn_tut.checks import as_integer
from metalearn_tut.learners.learner import Learner
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.state import BUFFER, MASK, networks_of

State = Mapping[str, Tensor]
_HEAVIEST = 1e250  # a weight: more, and a product or the sum may not be finite


class Reply(NamedTuple):
    """What a client sends back after a round.

    Parameters
    ----------
    state : dict of name to Tensor
        Its parameters, buffers and masks: see :func:`state_of`.
    count : int
        Number of its images: its weight in the average. NumPy's integers are integers.
    loss : float
        Mean loss of its steps, each before the step.
    accuracy : float or None
        Mean accuracy of its steps.
    """

    state: State
    count: int
    loss: float = 0.0
    accuracy: float | None = None


def state_of(learner: Learner) -> Params:
    """A copy of all that is shared.

    The meta-parameters; of its networks the buffers, ``buffer.*``; and of a pruned learner the
    masks, ``mask.*``, as booleans. Frozen parameters do not travel: nobody trains them.
    """
    return {name: tensor.detach().clone() for name, tensor in _shared(learner).items()}


def load_state(learner: Learner, state: State) -> None:
    """Make a learner go on from here, in place; one that was not pruned is pruned if need be."""
    masks = {n.removeprefix(MASK): m for n, m in state.items() if n.startswith(MASK)}
    own = _masks_of(learner)
    if any(n not in own or not torch.equal(m, own[n]) for n, m in masks.items()):
        learner.set_masks(masks)
    with torch.no_grad():
        for name, tensor in _shared(learner).items():
            if not name.startswith(MASK):
                tensor.copy_(state[name])


def _shared(learner: Learner) -> dict[str, Tensor]:
    shared = dict(learner.meta_parameters())
    for first, network in networks_of(learner).items():
        shared |= {f"{BUFFER}{first}{n}": b for n, b in network.named_buffers()}
    return shared | {MASK + n: mask for n, mask in _masks_of(learner).items()}


def _masks_of(learner: Learner) -> dict[str, Tensor]:
    return {n: m != 0 for n, m in (getattr(learner, "masks", None) or {}).items()}


def bytes_of(state: State) -> int:
    """Bytes of the numbers in a state: what it costs to send, but for the wrapping.

    Examples
    --------
    >>> bytes_of({"weight": torch.zeros(3, 4), "gates.weight": torch.zeros(5)})
    68
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def weighted_average(states: Sequence[State], weights: Sequence[float], current: State) -> Params:
    """The server's step: ``sum_i w_i / (sum_j w_j) · state_i``.

    Parameters
    ----------
    states : sequence of dict
        From the clients, all with the names and shapes of ``current``.
    weights : sequence of float
        One for each, >= 0; they need not sum to 1, and a client of weight 0 does not count.
    current : dict
        The server's own state. If no weight is positive it is returned as it is, and its
        integers (counters, masks) are kept in any case: their average would mean nothing.
        What its masks have pruned is zero, whatever clients say.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or a state does not fit, naming the tensor.

    Notes
    -----
    Summed in float64, so that in float32 the order of the clients does not matter.

    Examples
    --------
    >>> states = [{"w": torch.tensor(1.0)}, {"w": torch.tensor(4.0)}]
    >>> weighted_average(states, [20, 10], {"w": torch.tensor(0.0)})
    {'w': tensor(2.)}
    """
    if len(states) != len(weights) or any(not 0 <= w < _HEAVIEST for w in weights):
        raise ValueError(f"weights must be one finite number >= 0 for each state, got {weights}")
    for i, state in enumerate(states):
        if wrong := _misfit(state, current):
            raise ValueError(f"state {i} is of another architecture: {wrong}")
    weights = [float(w) for w in weights]
    total = sum(weights)
    if not total:
        return dict(current)
    averaged = {}
    for name, own in current.items():
        if own.is_floating_point():
            parts = (
                w * state[name].double() for state, w in zip(states, weights, strict=True) if w
            )
            averaged[name] = (sum(parts) / total).to(own)
            if (mask := current.get(MASK + name)) is not None:
                averaged[name] = averaged[name].masked_fill(~mask, 0.0)
        else:
            averaged[name] = own
    return averaged


def problem_of(reply: Any, current: State) -> str | None:
    """Why a reply cannot be averaged, in words; None if it can.

    Parameters
    ----------
    reply : Reply, or anything else that came back
        An exception, or a sentence, says itself what went wrong.
    current : dict
        The server's state, whose names, shapes and kinds of numbers the reply must have.

    Examples
    --------
    >>> problem_of(Reply({"w": torch.tensor([float("nan")])}, 5), {"w": torch.zeros(1)})
    'w is not finite'
    """
    if isinstance(reply, BaseException):
        return f"{type(reply).__name__}: {reply}"
    if isinstance(reply, str):
        return reply
    if not isinstance(reply, Reply):
        return f"a reply was expected, not {type(reply).__name__}"
    count = as_integer(reply.count)
    if count is not None and abs(count) >= 2**63:
        return "its number of images is beyond all numbers"  # perhaps too long to be written
    if count is None or count < 1:
        return f"it has {reply.count!r} images"
    told = [reply.loss] if reply.accuracy is None else [reply.loss, reply.accuracy]
    if not all(map(_is_finite, told)):
        return f"its loss is {reply.loss!r} and its accuracy {reply.accuracy!r}"
    if not isinstance(reply.state, Mapping):
        return f"its state is {type(reply.state).__name__}"
    if wrong := _misfit(reply.state, current):
        return wrong
    for name, tensor in reply.state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"{name} is not finite"
    return None


def plain(reply: Reply) -> Reply:
    """A reply without a problem, its numbers as Python's: records of them are JSON."""
    accuracy = None if reply.accuracy is None else float(reply.accuracy)
    return Reply(reply.state, operator.index(reply.count), float(reply.loss), accuracy)


def _is_finite(value: Any) -> bool:
    """Whether a value is one finite number, of whatever library; a truth value is none."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return False
    try:
        return isfinite(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # several numbers, or too large
        return False


def _misfit(state: State, current: State) -> str | None:
    """The first tensor by name that differs from the server's."""
    for name in sorted(current.keys() | state.keys(), key=str):
        if name not in state or name not in current:
            return f"{name} is {'missing' if name in current else 'unknown'}"
        there, here = state[name], current[name]
        if not isinstance(there, Tensor):
            return f"{name} is {type(there).__name__}"
        if there.shape != here.shape:
            return f"{name} has shape {list(there.shape)}, not {list(here.shape)}"
        if there.dtype != here.dtype:
            return f"{name} is {there.dtype}, not {here.dtype}"
        if there.layout != torch.strided or there.is_meta:
            return f"{name} is not a dense tensor with numbers"
    return None


def fed_avg(model: nn.Module, inner_lr: float = 0.4) -> MAML:
    """FedAvg (McMahan et al. 2017) as a learner: clients descend their plain loss.

    It is trained without inner steps, on the query sets; ``adapt(x, y, steps=1)`` fine-tunes
    the shared network by a step of ``inner_lr``.
    """
    return MAML(model, inner_lr, inner_steps=0)


def per_fed_avg(model: nn.Module, inner_lr: float = 0.4, **settings: Any) -> MAML:
    """Per-FedAvg (Fallah et al. 2020): clients descend their loss after one step, as in MAML.

    ``first_order=True`` is its cheaper variant (FO).
    """
    return MAML(model, inner_lr, inner_steps=1, **settings)
