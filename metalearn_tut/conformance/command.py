"""What ``python -m metalearn_tut.conformance`` does."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from metalearn_tut.conformance.case import Case
from metalearn_tut.conformance.cases import CASES, GROUPS
from metalearn_tut.conformance.judge import KINDS, MetaGradient, Verdict, verdicts
from metalearn_tut.files.provenance import write_result

WIDTH = 2 + max(len(case.name) for case in CASES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge one function; 1 if it is wrong in a case, 2 if it cannot be judged.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the command line by default.
    """
    asked = _parser().parse_args(arguments)
    if asked.list:
        for group, cases in GROUPS.items():
            print("\n  ".join([group, *(case.name for case in cases)]))
        return 0
    try:
        learner, cases = found(asked.function), chosen(asked.case)
        torch.set_num_threads(1)
        given = []
        for verdict in verdicts(learner, cases):
            given.append(verdict)
            print(line(verdict), flush=True)
    except (ImportError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {kind: sum(v.kind == kind for v in given) for kind in KINDS}
    print(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
    if asked.save:
        save(asked.save, asked.function, given)
    return int(counts["wrong"] > 0)


def found(function: str) -> MetaGradient:
    """The function that ``module:name`` says, with modules of the working folder.

    Raises
    ------
    ImportError
        If there is no such module, or it fails on import.
    ValueError
        If there is no such function in it, or what is called so cannot be called.
    TypeError
        If it does not take what a learner is given.
    """
    module, colon, name = function.partition(":")
    if not (module and colon and name):
        raise ValueError(f"name a function as module:function, got {function!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"the module {module!r} cannot be imported: {error}") from error
    learner = getattr(home, name, None)
    if not callable(learner):
        said = "is nothing that can be called" if hasattr(home, name) else "is not there"
        raise ValueError(f"{name!r} {said} in the module {module!r}")
    try:
        inspect.signature(learner).bind(None, None, None, inner_lr=0.1, inner_steps=1)
    except TypeError as error:
        form = "meta_gradient(module, loss, tasks, *, inner_lr, inner_steps)"
        raise TypeError(f"{name!r} cannot be called as {form}: {error}") from error
    return learner


def chosen(part: str | None) -> Sequence[Case]:
    """The cases whose names contain ``part``."""
    cases = [case for case in CASES if part is None or part in case.name]
    if not cases:
        raise ValueError(f"no case has {part!r} in its name: --list shows all {len(CASES)}")
    return cases


def line(verdict: Verdict) -> str:
    """A verdict for the terminal.

    Examples
    --------
    >>> " ".join(line(Verdict("layer norm", "wrong", 0.0123)).split())
    'layer norm WRONG by 1.2e-02'
    """
    kind = "WRONG" if verdict.kind == "wrong" else verdict.kind
    off = f" by {verdict.error:.1e}" if kind == "WRONG" else ""
    message = f": {verdict.message}" if verdict.message else ""
    return f"{verdict.case:<{WIDTH}}{kind}{off}{message}"


def save(path: Path, function: str, given: Sequence[Verdict]) -> None:
    """Write the verdicts with what they were found with."""
    packages = getattr(sys.modules[function.partition(":")[0]], "PACKAGES", ())
    config = {
        "command": f"python -m metalearn_tut.conformance {function}",
        "packages": {package: _version(package) for package in packages},
    }
    values = {v.case: _entry(v) for v in given}
    write_result(path, config=config, values=values)


def _entry(verdict: Verdict) -> dict[str, Any]:
    entry = {"kind": verdict.kind, "error": verdict.error, "message": verdict.message}
    return {key: value for key, value in entry.items() if value not in (None, "")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m metalearn_tut.conformance",
        description="Is a meta-gradient right? Judge a function in every case.",
        epilog="The package's own: metalearn_tut.conformance.ours:functional. The function's form: "
        "help(metalearn_tut.conformance).",
    )
    parser.add_argument(
        "function", nargs="?", default="", help="module:function, of the working folder, too"
    )
    parser.add_argument("--case", metavar="PART", help="only cases with this in their names")
    parser.add_argument("--save", type=Path, metavar="FILE.json", help="write the verdicts")
    parser.add_argument("--list", action="store_true", help="show the cases and judge nothing")
    return parser
