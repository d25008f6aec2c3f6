"""From a dataclass of options to a command of the parser, and from what it reads back."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, replace
from enum import Enum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from metalearn_tut.runs.options import Option, options_of

with warnings.catch_warnings():  # typer 0.20 takes names from click 8.5 that go with click 9
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer


class Command(typer.core.TyperCommand):
    """Typer escapes brackets for rich, which is not used here: take the escapes out again."""

    def get_help(self, ctx: Any) -> str:
        """The text of ``--help``."""
        return super().get_help(ctx).replace("\\[", "[")


class Stopped(Exception):
    """Ctrl-C, which typer would end without a word."""


def add_command(app: typer.Typer, options: type) -> None:
    """Give the program a command: the class's name, its docstring as help, its options.

    What it does is the function of the same name in a module of that name in ``cli.commands``,
    which is imported when the command runs: PyTorch takes seconds, and ``--help`` none.
    """
    name = options.__name__.lower()

    def run(context: typer.Context, **told: Any) -> int:
        try:
            read = options(**_chosen(options, {n: _plain(v) for n, v in told.items()}))
            module = importlib.import_module(f"metalearn_tut.cli.commands.{name}")
            return getattr(module, name)(read, context.obj) or 0
        except KeyboardInterrupt as stop:
            raise Stopped(str(stop) or "stopped") from stop

    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__signature__ = Signature([context, *map(_parameter, _flat(options))])
    run.__doc__ = options.__doc__
    app.command(name, cls=Command)(run)


def _flat(options: type) -> Iterator[Option]:
    """The options of a command; where one chooses an algorithm, those of all algorithms too."""
    for told in options_of(options).values():
        if told.among is None:
            yield told
        else:
            yield replace(told, type=str, choices=tuple(told.among))
            yield from _of_any(told.among)


def _of_any(kinds: Mapping[str, type]) -> Iterator[Option]:
    """Options that one or another of them has: not given unless told, and the help says so."""
    each = {name: options_of(kind) for name, kind in kinds.items()}
    for name in dict.fromkeys(name for known in each.values() for name in known):
        having = {kind: known[name] for kind, known in each.items() if name in known}
        first = next(iter(having.values()))
        choices = dict.fromkeys(c for o in having.values() for c in o.choices)
        unless_told = first if _type(first) is bool else replace(first, default=None)
        yield replace(unless_told, choices=tuple(choices), help=first.help + _usual(having))


def _usual(having: Mapping[str, Option]) -> str:
    """The default of an option for the help, and who has another."""
    first = next(iter(having.values())).default
    if first is None or first is False:
        return ""
    others = [f"; {kind}: {_said(o.default)}" for kind, o in having.items() if o.default != first]
    return f"  [default: {_said(first)}{''.join(others)}]"


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(told: Option) -> Any:
    """What the parser makes of a word: of ``float | None`` a float."""
    is_union = get_origin(told.type) is not list and get_args(told.type)
    return get_args(told.type)[0] if is_union else told.type


def _parameter(told: Option) -> Parameter:
    """An option as an argument of the command's function, from which Typer spells it."""
    kind, default = _type(told), Parameter.empty if told.default is MISSING else told.default
    if told.choices:
        kind = Enum(told.name, {value: value for value in told.choices}, type=str)
        default = kind(default) if isinstance(default, str) else default
    if told.positional:  # what it means is said in the docstring: click 8.5 loses its help
        info = typer.Argument(autocompletion=told.complete)
    elif kind is bool and default is False:  # on when named
        info = typer.Option(told.flag, help=told.help, show_default=False)
    else:
        shown = default not in (None, Parameter.empty)
        limits = {"min": told.min, "max": told.max}
        info = typer.Option(
            help=told.help, show_default=shown, autocompletion=told.complete, **limits
        )
    annotation = Annotated[kind | None if default is None else kind, info]
    return Parameter(told.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain(value: Any) -> Any:
    """What the parser read, as commands take it."""
    if isinstance(value, Path):
        return expanded(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value.value if isinstance(value, Enum) else value


def _chosen(options: type, read: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, with the algorithm that was chosen made of its own options."""
    values = dict(read)
    for told in options_of(options).values():
        if told.among is not None:
            own = {o.name: values.pop(o.name) for o in _of_any(told.among)}
            kind = told.among[values[told.name]]
            values[told.name] = kind.of_options({n: v for n, v in own.items() if _was_given(v)})
    return values


def _was_given(value: Any) -> bool:
    """0 was; a flag that is off was not."""
    return value is not None and value is not False


def expanded(path: str | Path) -> Path:
    """A path from the home folder on, where the shell left that to us: ``--root=~/data``."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user") from error
