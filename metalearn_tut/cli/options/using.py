"""``metalearn-tut demo | learn``: how they are spelled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metalearn_tut.cli.options import shared
from metalearn_tut.runs.options import option


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Draw five things, and watch a network learn them: opens the page in your browser.

    The page is part of the book. It is looked for in a clone of the repository that holds this
    package or the folder you are in, then on the repository's site. It works without a network.

    \b
    Examples:
      metalearn-tut demo
      metalearn-tut demo --book ~/Downloads/metalearn-tut-book
      metalearn-tut demo --port 8000
    """

    book: Path | None = option(None, "Folder of the book's pages, as in the zip of a release.")
    port: int | None = option(
        None, "Serve it at this port of this machine, and open nothing.", min=0, max=65535
    )


@dataclass(frozen=True, kw_only=True)
class Learn:
    """Learn from a few pictures of your own, and name others.

    FOLDER holds one picture or more of each thing, named by what it shows: cat.png, dog.png,
    dog_2.jpg. Or it holds a folder of pictures for each thing. NEW is a picture to name, or
    several. A learner that comes with the package is chosen by what the pictures are, and adapts
    in a moment; what it learned becomes an ONNX file that runs without PyTorch (this needs the
    extra deploy).

    \b
    Examples:
      metalearn-tut learn five_pictures new.png
      metalearn-tut learn five_pictures new.png --out mine.onnx --learner-out learns.onnx
      metalearn-tut learn five_pictures new.png --learner runs/mine --json
    """

    folder: Path = option(positional=True)
    new: list[Path] = option(positional=True)
    learner: str | None = option(
        None,
        "A shipped learner, or a run of yours.  [default: chosen by the pictures]",
        complete=shared.shipped,
    )
    out: Path | None = option(None, "File for what it learned.  [default: learned.onnx]")
    learner_out: Path | None = option(None, "File for the learner itself, which learns again.")
    json: bool = option(False, "Print one JSON object and nothing else.")
