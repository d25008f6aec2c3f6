"""What the commands of the command line share: their options, and the way to commands.py."""

from __future__ import annotations

import warnings
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

with warnings.catch_warnings():  # typer 0.20 takes names from click 8.5 that go with click 9
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer

# PyTorch takes seconds to import, so commands.py is imported when a command runs, not for --help.


def choice(name: str, *values: str) -> Any:
    """A type that has these values, for the parser."""
    return Enum(name, {value: value for value in values}, type=str)


def option(help: str, **settings: Any) -> Any:
    """An option of a command, by its help text."""
    return typer.Option(help=help, **settings)


def flag(name: str, help: str) -> Any:
    """An option that is on when named."""
    return typer.Option(name, help=help, show_default=False)


class Command(typer.core.TyperCommand):
    """Typer escapes brackets for rich, which is not used here: take the escapes out again."""

    def get_help(self, ctx: Any) -> str:
        """The text of ``--help``."""
        return super().get_help(ctx).replace("\\[", "[")


SEEDS = 2**63 - 1  # PyTorch takes none that is larger
TrainData = choice("TrainData", "emoji", "glyphs", "omniglot", "mini_imagenet", "image_folder")
Norm = choice("Norm", "batch", "support", "group", "none")
Rotations = Annotated[bool, flag("--rotations", "Quarter turns are classes of their own.")]
WithinGroup = Annotated[bool, flag("--within-group", "Tasks within one script or alphabet.")]
Root = Annotated[Path | None, option("Folder of the data's files.")]
Threads = Annotated[int | None, option("Threads of each process.", min=1, max=1024)]
Device = Annotated[str, option("cpu, cuda, or another device of PyTorch.")]
# What arguments mean is said in the commands' texts: click 8.5 loses the help given to them.
Run = Annotated[str, typer.Argument()]


def expanded(path: str | Path) -> Path:
    """A path from the home folder on, where the shell left that to us: ``--root=~/data``."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user") from error


def _plain(value: Any) -> Any:
    """What the parser gave, as commands take it."""
    if isinstance(value, Path):
        return expanded(value)
    return value.value if isinstance(value, Enum) else value


class Stopped(Exception):
    """Ctrl-C, which typer would end without a word."""


def command(name: str, options: dict[str, Any]) -> int:
    """Call the function that does it, with the options as plain values."""
    arguments = options.pop("context").obj
    try:
        plain = {n: _plain(v) for n, v in options.items()}
        from metalearn_tut.cli import commands

        return getattr(commands, name)(SimpleNamespace(**plain), arguments) or 0
    except KeyboardInterrupt as stop:
        raise Stopped(str(stop) or "stopped") from stop
