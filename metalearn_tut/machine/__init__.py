"""Floor 1: the machine that work is done on: its memory is kept, its cores share the tasks."""

from metalearn_tut.machine.memory import keep_memory

__all__ = ["keep_memory"]
