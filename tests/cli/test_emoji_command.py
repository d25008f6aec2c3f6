"""``metalearn-tut data emoji`` says what is there and whose it is."""

import pytest

from metalearn_tut import cli, tasks
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
