"""The command line, ``metalearn-tut``: ``demo | learn | data | train | evaluate | ...``.

What each command can be told is in ``cli.options``, what it does in ``cli.commands``.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

from metalearn_tut.cli.options import COMMANDS
from metalearn_tut.cli.parser import Stopped, add_command, typer
from metalearn_tut.machine import keep_memory

OVERVIEW = """\
Few-shot learning of compact models. What one can do:

  metalearn-tut demo                       draw five things, watch a network learn them
  metalearn-tut learn FOLDER NEW.png       learn your own few pictures, and name another
  metalearn-tut train --out runs/mine      meta-train a learner (data says from what)
  metalearn-tut evaluate runs/mine         measure it on new classes, with an interval
  metalearn-tut prune | export | federate  make it small, or a file, or train on nodes
  metalearn-tut reproduce --list           what the papers claim, and what decides it
  metalearn-tut COMMAND --help             how; --install-completion lets Tab complete"""

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
_DEBUG = typer.Option(
    "--debug", help="Show where a mistake happened (anywhere in a command).", show_default=False
)

_COMPLETING = "_METALEARN_TUT_COMPLETE"  # set by a shell that asks what could follow


@app.callback()
def about(debug: Annotated[bool, _DEBUG] = False) -> None:
    """Few-shot learning of compact models: get data, train a learner, evaluate it.

    \b
    A first look:
      metalearn-tut demo
      metalearn-tut learn five_pictures new.png

    \b
    A first learner, from data that comes with the package:
      metalearn-tut train --data glyphs --algorithm maml --ways 5 --shots 1 --out runs/maml
      metalearn-tut evaluate runs/maml

    Every command explains itself: metalearn-tut train --help. A mistake is answered in one
    line; METALEARN_TUT_DEBUG=1 does what --debug does.
    """


for options in COMMANDS:
    add_command(app, options)


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; every mistake is one line on stderr.

    Returns
    -------
    int
        The exit code: 0; 2 for a mistake in the arguments, the data or the files; 130 after
        Ctrl-C; 1 for what should not happen.
    """
    given = [a for a in arguments if a != "--debug"]
    keep_memory()
    try:
        _check_empty(given)
        if not given and _COMPLETING not in os.environ:
            print(OVERVIEW)
            return 0
        return app(given, "metalearn-tut", standalone_mode=False, obj=arguments) or 0
    except Exception as error:
        if given != list(arguments) or os.environ.get("METALEARN_TUT_DEBUG"):
            traceback.print_exc()
        code, message = _explained(error)
    print(f"metalearn-tut: {' '.join(message.split())}", file=sys.stderr)
    return code


def _check_empty(given: Sequence[str]) -> None:
    """Refuse an empty word: as a folder it would be the present one, and a run that is in it."""
    for before, word in zip(["metalearn-tut", *given], given, strict=False):
        if not word or (word.startswith("--") and word.endswith("=")):
            raise ValueError(
                f"an argument is empty, after {word if word else before}: perhaps a variable "
                "of the shell that has no value"
            )


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, Stopped):
        return 130, str(error)
    if isinstance(error, (ValueError, OSError, FloatingPointError, ImportError)):
        return 2, re.sub(r"^\[Errno \d+\] ", "", str(error))
    if hasattr(error, "format_message"):  # the parser's
        return 2, error.format_message()
    if isinstance(error, MemoryError) or re.search("(allocate|out of) memory", str(error)):
        return 1, f"not enough memory: smaller or fewer would need less ({error})"
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def main() -> None:
    """The console script ``metalearn-tut``."""
    sys.exit(run(sys.argv[1:]))
