"""Execute a notebook on a fresh kernel: ``python tools/run_notebook.py SOURCE RESULT``.

The result is written whole or not at all; a failing cell is shown with its traceback. Beside it,
``<result>.compares.jsonl`` has a line for every comparison that ``nb.compare`` made.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nbformat
from recorded_numbers import refresh

SECONDS_PER_CELL = 1800  # ends a cell that hangs; how long one takes is nobody's fault


def compares_file(result: Path) -> Path:
    """Where the comparisons of an executed notebook are."""
    return result.with_suffix(".compares.jsonl")


def run(source: Path, result: Path) -> float:
    """Execute ``source`` in its own folder, write ``result``, and return the seconds it took."""
    from nbclient import NotebookClient  # of the extra book, which who only reads can do without

    notebook = nbformat.read(source, as_version=4)
    refresh(notebook)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],  # not a warning per kernel about local sockets
        resources={"metadata": {"path": str(source.parent)}},
    )
    result.parent.mkdir(parents=True, exist_ok=True)
    partial, compares = result.with_suffix(".partial"), compares_file(result)
    compares.unlink(missing_ok=True)
    start = time.perf_counter()
    client.execute(env=os.environ | {"METALEARN_TUT_COMPARES": str(compares.resolve())})
    seconds = time.perf_counter() - start
    nbformat.write(notebook, partial)
    os.replace(partial, result)  # noqa: PTH105
    return seconds


if __name__ == "__main__":
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    if len(sys.argv) != 3:
        raise SystemExit("usage: python tools/run_notebook.py SOURCE RESULT")
    source, result = map(Path, sys.argv[1:])
    try:
        print(f"{source}: executed in {run(source, result):.0f} s", flush=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise SystemExit(f"{source}: {error}") from None
