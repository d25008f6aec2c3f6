"""Move the project: ``python tools/set_repository.py https://github.com/OWNER/NAME``.

The address stands in pyproject.toml ([project.urls] Repository). This command writes a new one
there and into everything made from it: configuration, links to the repository, to Colab and to
the site on GitHub Pages, citation, the notebooks' first cell.

Until somebody hosts the project, the owner is YOUR_ACCOUNT. No account on GitHub can be called so,
since names there have no underscore: nobody can register it, and serve code to those who follow a
link or run a notebook.
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
NOBODY = "YOUR_ACCOUNT"
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


def site(slug: str) -> str:
    """Where GitHub Pages shows the book of a repository."""
    owner, name = slug.split("/")
    return f"https://{owner}.github.io/{name}"


def occurrences(root: Path, slug: str) -> dict[Path, int]:
    """How often each file names the repository ``slug``, or its site."""
    paths = sorted({path for glob in FILES for path in root.glob(glob)})
    counts = {path: _renamed(path.read_text("utf-8"), slug, slug)[1] for path in paths}
    return {path: count for path, count in counts.items() if count}


def move(root: Path, address: str) -> list[Path]:
    """Write ``address`` wherever the present one stands, and return the files changed."""
    old, new = slug_of(current(root)), slug_of(address)
    changed = list(occurrences(root, old))
    for path in changed:
        path.write_text(_renamed(path.read_text("utf-8"), old, new)[0], "utf-8")
    return changed


def _renamed(text: str, old: str, new: str) -> tuple[str, int]:
    """The text with another repository, and how often it named the old one."""
    repository = re.compile(HOSTS + re.escape(old) + r"(?![\w-])")
    text, named = repository.subn(lambda match: match[1] + new, text)
    pages = re.compile(re.escape(site(old)) + r"(?![\w-])")
    text, shown = pages.subn(lambda _: site(new), text)
    return text, named + shown


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/set_repository.py https://github.com/OWNER/NAME")
    for changed in move(Path(__file__).parents[1], sys.argv[1]):
        print(changed)
