"""The blocks of a residual network: which they are, which may go, and others in their places."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    return getattr(block, "stride", 1) in (1, (1, 1)) and not projects and not any_frozen(block)


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
        If the block changes the shape of its input, and has no shortcut that does.
    """
    if mixing == "aig":
        return torch.relu(bypass(block, x) + mask * block.residual(x))
    whole, skipped = block(x), bypass(block, x)
    if whole.shape != skipped.shape:
        raise ValueError(
            f"a block ({type(block).__name__}) makes {list(whole.shape[1:])} of "
            f"{list(x.shape[1:])}: name only blocks that keep the shape, or have a shortcut(x)"
        )
    return mask * whole + (1 - mask) * skipped


class InPlace(nn.Module):
    """A function ``call(x, ...)`` in the place of a block."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *arguments: Any) -> Tensor:
        """What the function makes of what the block would be given."""
        return self.call(*arguments)


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
        if type(parent).forward is nn.Sequential.forward:
            delattr(parent, last)
        else:  # it may be asked for by its name
            setattr(parent, last, nn.Identity())
    return shorter
