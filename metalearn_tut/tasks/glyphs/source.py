"""The embedded data set: characters of held-out scripts, drawn once and kept in a cache."""

from __future__ import annotations

import functools
import unicodedata
import warnings
from pathlib import Path

import numpy as np

from metalearn_tut.files.cache import cache_dir
from metalearn_tut.tasks.files import cached_arrays
from metalearn_tut.tasks.glyphs import reference
from metalearn_tut.tasks.glyphs.classes import script_of
from metalearn_tut.tasks.glyphs.rendering import PER_CLASS, SIZE, render_classes
from metalearn_tut.tasks.source import ClassSource, check_split

_VERSION = 1  # of what is drawn: raise it with every change of the rendering
_TOLERANCE = 0.5  # gray levels of 255, on average over the sample


def glyphs(split: str, within_script: bool = False) -> ClassSource:
    """Characters drawn with the DejaVu fonts that matplotlib ships; nothing to download.

    One class per character, 20 images per class, ``uint8 [1, 28, 28]`` with ink 255 on
    background 0. The images go round the faces (of 12) that contain the character, each
    with its own rotation, shear, aspect, size, shift and stroke width. Whole scripts are
    held out:

    ==========  =======  ==================================================================
    split       classes  scripts
    ==========  =======  ==================================================================
    train       1,311    Latin 529, Canadian syllabics 318, Arabic 231, Greek 118,
                         Cyrillic 115
    validation  101      Tifinagh 36, Ogham 21, N'Ko 18, Old Italic 16, Lisu 6, Coptic 4
    test        243      Georgian 99, Hebrew 57, Armenian 54, Lao 33
    ==========  =======  ==================================================================

    Of characters that look the same at this size (Latin A, Greek Alpha and Cyrillic A;
    c and C, once both fill the image; an Arabic letter and its isolated form) only the
    first is a class, within and across splits; marks and modifier letters are none (see
    ``choose_classes`` in ``tasks/glyphs/classes.py``). Accented letters that can
    be told apart stay, and make hard tasks.

    The first use draws all 33,100 images (less than half a minute, with a progress bar)
    and keeps them in the cache folder (:func:`metalearn_tut.files.cache.cache_dir`).

    Parameters
    ----------
    split : {"train", "validation", "test"}
        Which scripts.
    within_script : bool, default False
        Draw the classes of a task from one script (harder tasks).

    Returns
    -------
    ClassSource
        ``class_names`` like ``"U+0531 ARMENIAN CAPITAL LETTER AYB"``; ``groups`` are
        the scripts.

    Raises
    ------
    ValueError
        If there is no such split.
    OSError
        If the cache file cannot be written; ``METALEARN_TUT_CACHE`` names another folder.

    Warns
    -----
    UserWarning
        If the installed Pillow or matplotlib draws visibly differently from the versions
        that made the reference, so that results may differ slightly.

    Examples
    --------
    >>> glyphs("test")
    ClassSource(glyphs (test): 243 classes, 1x28x28 uint8)
    >>> glyphs("test", within_script=True).sampler(ways=3, shots=1)[0].tags["groups"]
    ('Lao', 'Lao', 'Lao')
    """
    check_split(split)
    codepoints = reference.read().codepoints.tolist()
    scripts = [script_of(c) or ("", "") for c in codepoints]
    chosen = [i for i, (where, _) in enumerate(scripts) if where == split]
    images = _all_images(cache_dir()).reshape(-1, PER_CLASS, 1, SIZE, SIZE)[chosen]
    return ClassSource(
        images.reshape(-1, 1, SIZE, SIZE),
        tuple(np.arange(len(chosen) * PER_CLASS).reshape(-1, PER_CLASS)),
        tuple(f"U+{codepoints[i]:04X} {unicodedata.name(chr(codepoints[i]))}" for i in chosen),
        tuple(scripts[i][1] for i in chosen),
        name=f"glyphs ({split}{', within script' if within_script else ''})",
        within_group=within_script,
    )


@functools.lru_cache(maxsize=1)
def _all_images(folder: Path) -> np.ndarray:
    """All images ``uint8 [20·n, 28, 28]``, drawn on first use, kept in the cache ``folder``."""
    expected = reference.read()

    def draw() -> dict[str, np.ndarray]:
        return {"images": render_classes(expected.codepoints.tolist())}

    name = f"glyphs-v{_VERSION}-{reference.fingerprint()}"
    images = cached_arrays(name, draw)["images"]
    if (off := reference.difference(images, expected)) > _TOLERANCE:
        warnings.warn(
            f"glyphs drawn with {reference.versions()} differ from those of the reference "
            f"({expected.made_with}) by {off:.1f} gray levels of 255 on average: "
            "results may differ slightly",
            stacklevel=3,
        )
    return images
