"""Omniglot: handwritten letters of fifty alphabets, and the runs of Lake et al."""

from metalearn_tut.tasks.omniglot.runs import omniglot_runs
from metalearn_tut.tasks.omniglot.source import omniglot

__all__ = ["omniglot", "omniglot_runs"]
