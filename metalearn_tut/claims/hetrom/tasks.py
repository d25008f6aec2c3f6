"""The tasks of the HeTRoM studies: noisy ones, those of other sources, easy and hard ones."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import torch

from metalearn_tut import runs, tasks
from metalearn_tut.claims.study import Config
from metalearn_tut.tasks import ClassSource, TaskSampler

FAMILIES = {"train": "aAuU", "validation": "inrRsh", "test": "eEoO"}

TAGS = {"labels": "noisy", "outliers": "outlier", "bags": "outlier"}


def training_tasks(config: Config, seed: int) -> TaskSampler:
    """The tasks of one seed, by ``kind``.

    That is ``"clean"``, ``"labels"``, ``"outliers"``, ``"bags"`` or ``"easy"``.
    """
    shape = {"ways": 5, "shots": config["shots"], "queries": config["queries"], "seed": seed}
    if config["kind"] == "easy":
        letters = config.get("letters", FAMILIES["train"])
        easy, hard = easy_characters().sampler(**shape), accents(letters).sampler(**shape)
        return tasks.Mixture([easy, hard], [1 - config["rate"], config["rate"]], seed)
    clean = runs.build_source(config["data"], "train").sampler(**shape)
    if config["kind"] == "labels":
        return tasks.NoisyTasks(clean, config["rate"], kind="random", seed=seed)
    if config["kind"] in OUTLIERS:
        outliers = OUTLIERS[config["kind"]]().sampler(**shape)
        return tasks.WithOutliers(clean, outliers, config["rate"], seed)
    return clean


def test_tasks(config: Config, split: str, wanted: Config) -> TaskSampler:
    """Tasks to measure on: as in training, without noise; of an easy-hard mixture the hard ones.

    ``split`` is ``"test"`` or ``"validation"``; with ``"easy"`` the test scripts' own.
    """
    hard = config["kind"] == "easy" and split in FAMILIES
    whole = "test" if split == "easy" else split
    source = accents(FAMILIES[split]) if hard else runs.build_source(config["data"], whole)
    return source.sampler(5, config["shots"], wanted["queries"], wanted["seed"])


def patterns(n_classes: int = 200, flips: float = 0.4) -> ClassSource:
    """Another source: each class a fixed random black-and-white image, its pixels flipped often."""
    rng = np.random.default_rng(0)
    means = rng.random((n_classes, 1, 1, 28, 28)) < 0.5
    pixels = means ^ (rng.random((n_classes, 20, 1, 28, 28)) < flips)
    labels = torch.arange(n_classes).repeat_interleave(20)
    images = pixels.reshape(-1, 1, 28, 28).astype(np.uint8) * 255
    return tasks.from_arrays(images, labels, name="random patterns")


def bags(n_classes: int = 200) -> ClassSource:
    """Another source: each class a bag of 20 images of any training characters, all different.

    Nothing that a support image shows says anything about the query images of its class.
    """
    source, rng = tasks.glyphs("train"), np.random.default_rng(0)
    rows = rng.permutation(len(source.images))[: 20 * n_classes]
    labels = torch.arange(n_classes).repeat_interleave(20)
    return tasks.from_arrays(source.images[rows], labels, name="bags of characters")


OUTLIERS = {"outliers": patterns, "bags": bags}


def accents(chosen_letters: str) -> ClassSource:
    """Hard tasks: five forms of one of these Latin letters, told apart by their marks."""
    source = tasks.glyphs("train")
    letters = [letter_of(name) for name in source.class_names]
    chosen = [c for c, letter in enumerate(letters) if letter and letter in chosen_letters]
    forms = source.select(chosen, f"glyphs (forms of {', '.join(chosen_letters)})")
    return replace(forms, groups=tuple(letters[c] for c in chosen), within_group=True)


def easy_characters() -> ClassSource:
    """All training characters of all scripts but the forms kept for validation and test."""
    source, held_out = tasks.glyphs("train"), FAMILIES["validation"] + FAMILIES["test"]
    letters = [letter_of(name) for name in source.class_names]
    kept = [c for c, letter in enumerate(letters) if not letter or letter not in held_out]
    return source.select(kept, "glyphs (train, without held-out forms)")


def letter_of(class_name: str) -> str | None:
    """The Latin letter that a character is, with or without marks; None for all others.

    Examples
    --------
    >>> letter_of("U+00E9 LATIN SMALL LETTER E WITH ACUTE"), letter_of("U+0416 CYRILLIC ...")
    ('e', None)
    """
    character = chr(int(class_name.split()[0][2:], 16))
    letter = unicodedata.normalize("NFD", character)[0]
    return letter if letter.isascii() and letter.isalpha() else None
