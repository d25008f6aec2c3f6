"""Move the project: ``python tools/set_repository.py https://github.com/OWNER/NAME``.

The address stands in pyproject.toml ([project.urls] Repository). This command writes a new one
there and into everything made from it: configuration, badges, citation, the notebooks' first cell.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FILES = (
    "pyproject.toml",
    "_config.yml",
    "*.md",
    "*.cff",
    "book/**/*.md",
    "book/*.ipynb",
    "book/*.py",
)
HOSTS = r"(github\.com/|githubusercontent\.com/|colab\.research\.google\.com/github/)"
ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+)")
REPOSITORY = re.compile(r'^Repository = "(.*)"$', re.MULTILINE)


def slug_of(address: str) -> str:
    """The OWNER/NAME of an address, or a sentence that says what an address looks like."""
    match = ADDRESS.fullmatch(address.removesuffix("/").removesuffix(".git"))
    if match is None:
        raise SystemExit(f"the address must be https://github.com/OWNER/NAME, got {address!r}")
    return match[1]


def current(root: Path) -> str:
    """The address in pyproject.toml."""
    return REPOSITORY.search((root / "pyproject.toml").read_text("utf-8"))[1]


def occurrences(root: Path, slug: str) -> dict[Path, int]:
    """How often each file names the repository ``slug``."""
    pattern = re.compile(HOSTS + re.escape(slug) + r"(?![\w-])")
    paths = sorted({path for glob in FILES for path in root.glob(glob)})
    counts = {path: len(pattern.findall(path.read_text("utf-8"))) for path in paths}
    return {path: count for path, count in counts.items() if count}


def move(root: Path, address: str) -> list[Path]:
    """Write ``address`` wherever the present one stands, and return the files changed."""
    old, new = slug_of(current(root)), slug_of(address)
    pattern = re.compile(HOSTS + re.escape(old) + r"(?![\w-])")
    changed = list(occurrences(root, old))
    for path in changed:
        text = path.read_text("utf-8")
        path.write_text(pattern.sub(lambda match: match[1] + new, text), "utf-8")
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/set_repository.py https://github.com/OWNER/NAME")
    for changed in move(Path(__file__).parents[1], sys.argv[1]):
        print(changed)
