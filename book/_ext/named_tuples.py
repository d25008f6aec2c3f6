"""Leaves the fields of named tuples out of the pages of the package.

Their class says what they are; Python only says "Alias for field number 0".
"""

from __future__ import annotations

from typing import Any


def without_fields(
    app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """True for a field of a named tuple; otherwise Sphinx decides."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx."""
    app.connect("autodoc-skip-member", without_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
