"""Glyphs: letters of many scripts, drawn from the fonts that come with matplotlib."""

from metalearn_tut.tasks.glyphs.source import glyphs

__all__ = ["glyphs"]
