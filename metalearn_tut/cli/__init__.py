"""Floor 9: the command ``metalearn-tut``."""

from metalearn_tut.cli.program import app, main, run

__all__ = ["app", "main", "run"]
