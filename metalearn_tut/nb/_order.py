"""What to run first, after a cell that needs a name that no cell has made yet."""

from __future__ import annotations

import sys
from typing import Any


def watch() -> None:
    """From now on, print the advice below such cells; outside of IPython, do nothing.

    An event after the cell leaves the error and its traceback as they are.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.events.register("post_run_cell", _after)


def _after(result: Any) -> None:
    if sentence := advice(result.error_in_exec):
        print(sentence)


def advice(error: BaseException | None) -> str | None:
    """One sentence about a name that the notebook lacks, or None for any other error.

    Whether the name is misspelled or made in a cell above is not known here.
    """
    name, place = getattr(error, "name", None), getattr(error, "__traceback__", None)
    if type(error) is not NameError or name is None or place is None:
        return None
    while place.tb_next:
        place = place.tb_next
    if place.tb_frame.f_globals.get("__name__") != "__main__":  # the fault is in a module
        return None
    return (
        f"'{name}' has no value yet. If a cell above makes it, run the cells above first "
        "(JupyterLab: Run > Run All Above Selected Cell; Colab: Runtime > Run before)."
    )
