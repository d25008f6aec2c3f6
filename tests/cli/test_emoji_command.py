"""Emoji on the command line: what is there, whose it is, and that it can be learned from."""

import pytest
from command_line import command

from metalearn_tut import cli, tasks
from metalearn_tut.cli.commands.shared import queries_for
from metalearn_tut.tasks.emoji.index import notices
from metalearn_tut.tasks.source import SPLITS


def test_data_emoji_lists_the_splits_and_the_artists(capsys):
    assert cli.run(["data", "emoji"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, split in zip(lines, SPLITS, strict=False):
        assert line.startswith(f"{split}: {tasks.emoji(split)!r}, ")
    assert lines[3:] == notices()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--root", "."], "--root .: emoji come with the package and have no files: leave it out"),
        (["--download"], "--download: emoji cannot be downloaded"),
    ],
)
def test_data_emoji_has_no_files(capsys, option, message):
    assert cli.run(["data", "emoji", *option]) != 0
    assert message in capsys.readouterr().err


SHORT = ("--steps", "1", "--validation-tasks", "2", "--width", "2", "--tasks-per-step", "1")


def test_emoji_can_be_learned_and_evaluated_without_another_word(tmp_path, capsys):
    """A class has five to seven drawings: the usual fifteen queries would be too many."""
    code, out, said = command(capsys, "train", "--data", "emoji", "--out", tmp_path, *SHORT)
    assert code == 0 and not said and "5-way 1-shot, 4 queries per class" in out
    code, out, _ = command(capsys, "evaluate", tmp_path, "--tasks", "2")
    assert code == 0 and "emoji (test), 5-way 1-shot, 4 queries per class" in out
    code, out, _ = command(capsys, "evaluate", tmp_path, "--tasks", "2", "--shots", "2")
    assert code == 0 and "5-way 2-shot, 3 queries per class" in out


@pytest.mark.parametrize("asked", [["--queries", "9"], ["--shots", "5"]])
def test_more_drawings_than_there_are_cannot_be_asked_for(tmp_path, capsys, asked):
    code, _, said = command(capsys, "train", "--data", "emoji", "--out", tmp_path / "run", *asked)
    assert (
        code == 2 and "images per class, but class" in said[0] and not (tmp_path / "run").exists()
    )


def test_queries_are_fifteen_but_of_emoji_all_that_every_class_has_left():
    many, few = tasks.glyphs("test"), tasks.emoji("test")
    assert queries_for(None, 1, "glyphs", many) == queries_for(None, 8, "image_folder", few) == 15
    assert [queries_for(None, shots, "emoji", few) for shots in (1, 3, 5)] == [4, 2, 1]
    assert queries_for(7, 1, "emoji", few) == 7
