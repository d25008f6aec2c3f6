"""What can be told: fields of a frozen dataclass that say what they mean and what they may be.

The command line is spelled from them. PyTorch takes seconds to import, so nothing here needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Option:
    """One thing that can be told.

    ``default`` is ``dataclasses.MISSING`` if it must be told; ``choices`` are all that is allowed,
    if there are any. ``among`` maps names to dataclasses: the value is one of these, told by its
    name and by options of its own. A ``positional`` one is told by its place alone. What is
    ``of_training`` is no part of a learner's configuration. ``complete`` gives the words that
    begin as what was typed, for a shell that completes.
    """

    name: str
    type: Any
    default: Any
    help: str = ""
    choices: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    among: Mapping[str, type] | None = None
    complete: Callable[[str], list[str]] | None = None
    positional: bool = False
    of_training: bool = False

    @property
    def flag(self) -> str:
        """The name as it is spelled on the command line."""
        return f"--{self.name.replace('_', '-')}"


def option(default: Any = MISSING, help: str = "", **meaning: Any) -> Any:
    """A field of a dataclass that is an :class:`Option`, whose other attributes are ``meaning``."""
    return field(default=default, metadata={"help": help, **meaning})


def options_of(kind: type) -> dict[str, Option]:
    """The options of a dataclass by name; a field that is no option is a part with its own."""
    hints, found = get_type_hints(kind), {}
    for f in fields(kind):
        if f.metadata:
            found[f.name] = Option(f.name, hints[f.name], f.default, **f.metadata)
        else:
            found |= options_of(hints[f.name])
    return found


def filled(kind: type[Kind], given: Mapping[str, Any]) -> Kind:
    """A dataclass with these options; all others are as usual."""
    values, hints = {}, get_type_hints(kind)
    for f in fields(kind):
        if not f.metadata:
            values[f.name] = filled(hints[f.name], given)
        elif f.name in given:
            values[f.name] = given[f.name]
    return kind(**values)
