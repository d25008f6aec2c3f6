"""One progress bar for all long work."""

from __future__ import annotations

from typing import Any


def progress_bar(total: int, *, initial: int = 0, unit: str, desc: str, show: bool) -> Any:
    """A tqdm bar over ``total`` units, ``initial`` of them done before; silent unless ``show``."""
    if show:
        from tqdm.auto import tqdm
    else:  # which in a notebook without ipywidgets would warn about a bar nobody asked for
        from tqdm import tqdm

    return tqdm(total=total, initial=initial, unit=unit, desc=desc, disable=not show)
