"""Tasks of emoji: what is held out, who drew support and query set, what is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from metalearn_tut import tasks
from metalearn_tut.tasks.emoji.augmentation import Jittered
from metalearn_tut.tasks.emoji.index import houses
from metalearn_tut.tasks.emoji.splits import KINDS, read_splits
from metalearn_tut.tasks.sampler import EpisodeSampler
from metalearn_tut.tasks.source import SPLITS
from metalearn_tut.tasks.task import tasks_hash

HOUSES = read_splits()["houses"]


@pytest.fixture(scope="module")
def test_source():
    return tasks.emoji("test")


def names_of(source) -> set[str]:
    return {houses()[h] for h in np.unique(source.houses)}


@pytest.mark.parametrize("split_by", KINDS)
def test_images_are_colored_drawings_and_every_class_has_two(split_by):
    for split in SPLITS:
        source = tasks.emoji(split, split_by=split_by)
        assert source.images.dtype == np.uint8 and source.images.shape[1:] == (3, 32, 32)
        assert len(source.houses) == len(source.images) == sum(map(len, source.rows))
        assert min(map(len, source.rows)) >= (5 if split_by == "class" else 2)
    assert (source.images[:, 0] != source.images[:, 2]).any()


@pytest.mark.parametrize("split_by", ["class", "both"])
def test_splits_by_class_share_no_class(split_by):
    found = [set(tasks.emoji(split, split_by=split_by).class_names) for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found))


@pytest.mark.parametrize("split_by", ["artist", "both"])
def test_splits_by_artist_share_no_house(split_by):
    for split in SPLITS:
        assert names_of(tasks.emoji(split, split_by=split_by)) == set(HOUSES[split])


def test_splits_share_no_image():
    rows = [{i.tobytes() for i in tasks.emoji(split).images} for split in SPLITS]
    assert len(set.union(*rows)) == sum(map(len, rows))


def test_split_by_both_is_where_the_other_two_meet():
    both, artist, by_class = (tasks.emoji("test", split_by=k) for k in ("both", "artist", "class"))
    assert set(both.class_names) == set(artist.class_names) & set(by_class.class_names)


def test_chosen_artists_are_the_only_ones(test_source):
    source = tasks.emoji("test", artists=["twemoji", "fxemoji"])
    assert names_of(source) == {"twemoji", "fxemoji"}
    assert {len(rows) for rows in source.rows} == {2}
    assert set(source.class_names) < set(test_source.class_names)
    two_sets = tasks.emoji("validation", artists=["noto"])
    assert names_of(two_sets) == {"noto"} and max(map(len, two_sets.rows)) == 2
    one = tasks.emoji("test", split_by="artist", artists=["fluent", "streamline"])
    assert len(one.images) == len(tasks.emoji("test", split_by="artist").images)


def test_smaller_images_are_of_the_same_tasks(test_source):
    small = tasks.emoji("test", size=16)
    a, b = (s.sampler(5, 1, 4, seed=2)[7] for s in (test_source, small))
    assert a.tags == b.tags and b.support_x.shape == (5, 3, 16, 16)
    means = a.query_x.double().mean((2, 3)) - b.query_x.double().mean((2, 3))
    assert means.abs().max() < 1


@pytest.mark.parametrize("shots", [1, 2])
def test_with_cross_artist_support_and_query_are_by_different_houses(shots):
    source = tasks.emoji("test", cross_artist=True)
    by_image = {i.tobytes(): h for i, h in zip(source.images, source.houses, strict=True)}
    queries = 3 if shots == 1 else 2
    sampler = source.sampler(5, shots, queries, seed=4)
    seen = set()
    for i in range(300):
        task = sampler[i]
        for label in range(5):
            drawn = [
                [by_image[x.numpy().tobytes()] for x in images[labels == label]]
                for images, labels in (
                    (task.support_x, task.support_y),
                    (task.query_x, task.query_y),
                )
            ]
            assert not set(drawn[0]) & set(drawn[1])
            images = torch.cat(
                [task.support_x[task.support_y == label], task.query_x[task.query_y == label]]
            )
            assert len(images.flatten(1).unique(dim=0)) == shots + queries
            seen |= {(a, b) for a in drawn[0] for b in drawn[1]}
    assert len(seen) == 30  # every house learned from, every other tested on


def test_without_cross_artist_one_house_may_have_drawn_both(test_source):
    by_image = {i.tobytes(): h for i, h in zip(test_source.images, test_source.houses, strict=True)}
    sampler = test_source.sampler(5, 1, 4, seed=4)
    first = [by_image[x.numpy().tobytes()] for i in range(40) for x in sampler[i].support_x]
    rest = [by_image[x.numpy().tobytes()] for i in range(40) for x in sampler[i].query_x]
    assert any(h in rest[4 * n : 4 * n + 4] for n, h in enumerate(first))


def test_training_tasks_are_augmented_and_others_are_not():
    assert isinstance(tasks.emoji("train").sampler(5, 1), Jittered)
    assert isinstance(tasks.emoji("train", augment=False).sampler(5, 1), EpisodeSampler)
    assert isinstance(tasks.emoji("test").sampler(5, 1), EpisodeSampler)
    assert isinstance(tasks.emoji("test", augment=True).sampler(5, 1), Jittered)


def test_tasks_are_the_same_in_another_process_and_in_any_order():
    code = (
        "from metalearn_tut import tasks; from metalearn_tut.tasks.task import tasks_hash; "
        "s = tasks.emoji('train', cross_artist=True).sampler(5, 1, 3, seed=9); "
        "print(tasks_hash(s[i] for i in (5, 0, 3)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sampler = tasks.emoji("train", cross_artist=True).sampler(5, 1, 3, seed=9)
    found = {i: sampler[i] for i in (3, 5, 0)}
    assert run.stdout.strip() == tasks_hash(found[i] for i in (5, 0, 3))


def test_golden_tasks():
    """They change when the sheet, the splits or the order of drawing does."""
    plain = tasks.emoji("test").sampler(5, 1, 4, seed=1)
    assert plain[0].tags["classes"] == GOLDEN_CLASSES
    augmented = tasks.emoji("train").sampler(5, 1, 4, seed=1)
    assert tasks_hash([plain[0], plain[999]]) == GOLDEN_PLAIN
    assert tasks_hash([augmented[0], augmented[999]]) == GOLDEN_AUGMENTED


GOLDEN_CLASSES = ("airplane", "eyes", "fountain", "sunrise", "om")
GOLDEN_PLAIN = "6cdf79b516a21d402212c18a15a87624"
GOLDEN_AUGMENTED = "6b65d4105e52889ffafd2e7b67057c12"


def test_settings_tell_what_the_tasks_are_made_of():
    def settings(**options):
        return tasks.emoji("validation", **options).sampler(5, 1, 1).settings()

    assert settings() == settings()
    others = [{"cross_artist": True}, {"augment": True}, {"size": 16}, {"artists": ["noto"]}]
    assert all(settings(**other) != settings() for other in others)


def test_selections_keep_who_drew_what(test_source):
    source = tasks.emoji("test", cross_artist=True)
    few = source.select([3, 5, 8, 13, 21]).rotated()
    assert few.n_classes == 20 and few.cross_artist
    assert few.sampler(5, 1, 3)[0].support_x.shape == (5, 3, 32, 32)
    with pytest.warns(UserWarning, match="left out"):
        many = test_source.with_at_least(7)
    assert many.sampler(5, 1, 6)[0].query_x.shape == (30, 3, 32, 32)


def test_within_group_draws_one_subgroup():
    from dataclasses import replace

    source = replace(tasks.emoji("train"), within_group=True)
    for i in range(20):
        assert len(set(source.sampler(5, 1, 4)[i].tags["groups"])) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split must be one of 'train', 'validation', 'test', got 'dev'"),
        ({"split_by": "house"}, "split_by must be one of 'class', 'artist', 'both', got 'house'"),
        ({"artists": ["apple"]}, "artists must be one of 'noto', 'fluent', .*, got 'apple'"),
        ({"artists": "noto"}, "artists must be a list of noto, fluent, .*, got 'noto'"),
        ({"artists": []}, r"artists must be a list of noto, fluent, .*, got \[\]"),
        (
            {"split_by": "artist", "artists": ["noto"]},
            "artists: split_by='artist' shows fluent and streamline in 'test', not 'noto'",
        ),
        ({"artists": ["twemoji"]}, "artists: no class of 'test' has two drawings by twemoji"),
        ({"size": 33}, r"size must be an integer in 8\.\.32 .* got 33"),
        ({"size": 7}, r"size must be an integer in 8\.\.32 .* got 7"),
        ({"size": 16.0}, r"size must be an integer in 8\.\.32 .* got 16\.0"),
    ],
)
def test_what_emoji_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        tasks.emoji(**{"split": "test", **arguments})


def test_more_than_a_split_has_is_refused(test_source):
    with pytest.raises(ValueError, match=r"ways=300 needs 300 classes, but emoji \(test\) has 211"):
        test_source.sampler(300, 1, 1)
    with pytest.raises(ValueError, match=r"shots \+ queries = 6 images per class, but class '.*5;"):
        test_source.sampler(5, 1, 5)
    crossed = tasks.emoji("test", cross_artist=True)
    message = r"cross_artist=True with shots=1 can leave 3 drawings of '.*' by other artists, fewer"
    with pytest.raises(ValueError, match=message):
        crossed.sampler(5, 1, 4)
    one = tasks.emoji("validation", artists=["noto"], cross_artist=True)
    with pytest.raises(
        ValueError, match=r"can leave 0 drawings of '.*' by other artists, fewer than queries=1"
    ):
        one.sampler(5, 1, 1)
