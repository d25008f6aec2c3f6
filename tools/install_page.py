"""What the page "Install" says of the wheel and of versions, by ``book/_ext/results_in_pages.py``.

``make book`` builds the wheel into the folder that the pages are made from.
"""

from __future__ import annotations

import re

import own_wheel
from benchmarks_text import table
from packaging.requirements import Requirement

FOLDER = own_wheel.ROOT / "build/book/_extra/wheel"
TESTED = "3.11"
SHOWN = ("torch", "numpy", "higher", "matplotlib", "pillow", "jupyter-book")


def generated() -> dict[str, str]:
    """The parts of the page, by name."""
    return {"wheel": brought(), "versions": versions()}


def brought() -> str:
    """A link to the wheel with its checksum, or how to get one."""
    file = FOLDER / own_wheel.name()
    if not file.is_file():
        return f"These pages were built without the wheel: `make book` puts `{file.name}` here."
    link = f'<a href="wheel/{file.name}" download>{file.name}</a>'
    return f"{link}\n({file.stat().st_size / 1e6:.1f} MB, SHA-256 `{own_wheel.checksum(file)}`)"


def versions() -> str:
    """Which are tested, and which are the lowest that are allowed."""
    tested = pins()
    project = (own_wheel.ROOT / "pyproject.toml").read_text("utf-8")
    rows = [["Python", TESTED, re.search(r'requires-python = ">=(.*)"', project)[1]]]
    for name in SHOWN:
        least, below = re.search(rf'^    "{name}>=([\d.]+)(?:,<(\d+))?"', project, re.M).groups()
        rows.append([name, tested[name], f"{least}, below {below}" if below else least])
    return table(["", "tested", "at least"], rows)


def pins() -> dict[str, str]:
    """The versions in constraints.txt for the Python that is tested."""
    python = {"python_version": TESTED, "python_full_version": f"{TESTED}.9"}
    lines = (own_wheel.ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = (pin for pin in found if pin.marker is None or pin.marker.evaluate(python))
    return {pin.name: next(iter(pin.specifier)).version for pin in here}
