"""Emoji: the same things drawn by different artists, from a sheet that lies in the package."""

from metalearn_tut.tasks.emoji.source import emoji

__all__ = ["emoji"]
