"""The blocks of a residual network: which they are, which may go, and others in their places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metalearn_tut.models.bound import with_tensors
from metalearn_tut.models.cifar_resnet import CifarResNet
from metalearn_tut.models.mode import any_frozen

MIXINGS = ("skipnet", "aig")


def named_blocks(network: nn.Module, names: Sequence[str] | None = None) -> dict[int, str]:
    """The blocks by number: those of these names in this order, or all of a ``CifarResNet``.

    Raises
    ------
    TypeError
        If no names are given for a network whose blocks are not known.
    ValueError
        If a name is none of a module, or one of these modules is inside another.

    Examples
    --------
    >>> list(named_blocks(CifarResNet(20)).items())[:2]
    [(0, 'blocks.0'), (1, 'blocks.1')]
    """
    if isinstance(names, str) or (names is not None and not len(names)):
        raise ValueError(f"blocks must be a list of names, at least one, got {names!r}")
    if names is None:
        if not isinstance(network, CifarResNet):
            raise TypeError(
                f"{type(network).__name__} has no residual blocks that are known: name those that "
                "may go, BlockGated(network, blocks=['layer1.1', ...])"
            )
        return {int(name): f"blocks.{name}" for name, _ in network.blocks.named_children()}
    known, seen = dict(network.named_modules()), set()
    for name in names:
        if not name or name not in known:
            raise ValueError(f"blocks: {name!r} is no module of {type(network).__name__}")
        inside = set(map(id, known[name].modules()))
        if seen & inside:
            raise ValueError(f"blocks: {name!r} is named twice, or part of another of them")
        seen |= inside
    return dict(enumerate(names))


def may_go(block: nn.Module) -> bool:
    """Whether a block leaves its input as it is when it is left out, and none of it is frozen."""
    shortcut = getattr(block, "shortcut", None)
    projects = isinstance(shortcut, nn.Module) and any(True for _ in shortcut.parameters())
    strides = getattr(block, "stride", 1) not in (1, (1, 1))
    return not (projects or strides or any_frozen(block)) and _passes_on(block)


@torch.no_grad()
def _passes_on(block: nn.Module) -> bool:
    """Whether the shortcut of a block, if it has one, gives what it is given, here a picture."""
    if not callable(getattr(block, "shortcut", None)):
        return True
    pixels = torch.arange(16.0).view(1, 1, 4, 4).to(next(block.parameters()))
    x = pixels.repeat(1, input_channels(block), 1, 1)
    return torch.equal(bypass(with_tensors(block, {}, training=False), x), x)


def input_channels(block: nn.Module) -> int:
    """Channels that a block reads: those of its first convolution."""
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    raise ValueError(f"a block ({type(block).__name__}) has no convolution, so no gate can read it")


def bypass(block: nn.Module, x: Tensor) -> Tensor:
    """What is left of a block without its branch: ``block.shortcut(x)``, or ``x`` itself."""
    shortcut = getattr(block, "shortcut", None)
    return shortcut(x) if callable(shortcut) else x


def mix(block: nn.Module, x: Tensor, mask: Tensor, mixing: str) -> Tensor:
    """The output of ``block`` under a mask ``[B, 1, 1, 1]``.

    Raises
    ------
    ValueError
        If the block changes the shape of its input, and has no shortcut that does, or gives no
        tensor.
    """
    own = x.clone()  # a block may write into its input
    if mixing == "aig":
        return torch.relu(bypass(block, x) + mask * block.residual(own))
    whole, skipped = block(own), bypass(block, x)
    if not isinstance(whole, Tensor):
        raise ValueError(
            f"a block ({type(block).__name__}) must give a tensor, got a {type(whole).__name__}"
        )
    if whole.shape != skipped.shape:
        raise ValueError(
            f"a block ({type(block).__name__}) makes {list(whole.shape[1:])} of "
            f"{list(x.shape[1:])}: name only blocks that keep the shape, or have a shortcut(x)"
        )
    mask = mask.to(whole.dtype)  # under autocast a softmax is float32, and the sum would be
    return mask * whole + (1 - mask) * skipped


class InPlace(nn.Module):
    """A function ``call(x)`` in the place of a block."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Tensor:
        """What the function makes of what the block would be given; a ValueError if that is more.

        What is left of a block that reads more than one tensor is not known.
        """
        if others or options:
            raise ValueError("blocks: one is called with more than its input; name another")
        return self.call(x)


def with_modules(network: nn.Module, modules: Mapping[str, nn.Module]) -> nn.Module:
    """``network`` with other modules in these places; all that is left is its own, not copied.

    For one call: the network itself is not changed, so that several threads may do so.
    """
    view = copy.copy(network)
    view._modules = dict(network._modules)
    inside: dict[str, dict[str, nn.Module]] = {}
    for name, module in modules.items():
        first, _, rest = name.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = module
        else:
            view._modules[first] = module
    for first, rest in inside.items():
        view._modules[first] = with_modules(network._modules[first], rest)
    return view


def without_blocks(network: nn.Module, names: Sequence[str]) -> nn.Module:
    """A copy without these blocks; those beside them keep their names."""
    shorter = copy.deepcopy(network)
    for name in names:
        path, _, last = name.rpartition(".")
        parent = shorter.get_submodule(path)
        if isinstance(network, CifarResNet):
            delattr(parent, last)
        else:  # it, or those behind it, may be asked for by name or number
            setattr(parent, last, nn.Identity())
    return shorter
