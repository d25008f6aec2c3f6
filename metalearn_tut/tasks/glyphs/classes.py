"""Which characters are classes: letters of whole scripts, and no two that look the same."""

from __future__ import annotations

import unicodedata

import numpy as np

from metalearn_tut.tasks.glyphs.rendering import ASPECT, EM, SIZE, faces, faces_with, ink, render

# The start of a character's Unicode name tells its script.
SCRIPTS = {
    "train": {
        "Latin": "LATIN",
        "Greek": "GREEK",
        "Cyrillic": "CYRILLIC",
        "Canadian syllabics": "CANADIAN SYLLABICS",
        "Arabic": "ARABIC",
    },
    "validation": {
        "Tifinagh": "TIFINAGH",
        "N'Ko": "NKO",
        "Lisu": "LISU",
        "Ogham": "OGHAM",
        "Old Italic": "OLD ITALIC",
        "Coptic": "COPTIC",
    },
    "test": {
        "Georgian": "GEORGIAN",
        "Armenian": "ARMENIAN",
        "Hebrew": "HEBREW",
        "Lao": "LAO",
    },
}
# Capital, small, title-case and caseless letters; modifier letters are small copies.
_LETTERS = ("Lu", "Ll", "Lt", "Lo")
_SMALLEST = 0.4  # of an em: smaller ones are marks and half rings, blots when enlarged
_SAME = 2.0  # pixels of ink that the other character leaves uncovered
# Stretches that the aspect jitter of two renderings can undo, in units of that jitter.
_ASPECTS = tuple((1.06**step - 1) / ASPECT for step in (-4, -3, -2, -1, 0, 1, 2, 3, 4))


def script_of(codepoint: int) -> tuple[str, str] | None:
    """The split and the script of a character, or None where no split has it.

    Examples
    --------
    >>> script_of(ord("A")), script_of(0x531), script_of(ord("7"))
    (('train', 'Latin'), ('test', 'Armenian'), None)
    """
    name = unicodedata.name(chr(codepoint), "")
    for split, scripts in SCRIPTS.items():
        for script, start in scripts.items():
            if name.startswith(f"{start} "):
                return split, script
    return None


def letters() -> list[int]:
    """The letters of the scripts, at least 0.4 em high or wide: script by script, by code point."""
    order = [(split, script) for split, scripts in SCRIPTS.items() for script in scripts]
    known = frozenset().union(*(face.codepoints for face in faces()))
    scripts = {c: script_of(c) for c in known if _is_letter(c)}
    chosen = [c for c, script in scripts.items() if script and _longest_side(c) >= _SMALLEST * EM]
    return sorted(chosen, key=lambda c: (order.index(scripts[c]), c))


def _is_letter(codepoint: int) -> bool:
    character = chr(codepoint)
    carrier = unicodedata.normalize("NFKD", character)[0]  # a space, for a mark of its own
    return all(unicodedata.category(c) in _LETTERS for c in (character, carrier))


def _longest_side(codepoint: int) -> int:
    return max(ink(codepoint, faces_with(codepoint)[0]).size)


def choose_classes() -> list[int]:
    """The code points that are classes, in the order train, validation, test.

    Going through :func:`letters`, a character is left out when it looks the same as one
    that was kept before it, so a held-out script loses what a training script has. Two
    characters look the same when, upright and of equal size in the first face that has
    both, each covers the other but for less than 2 pixels of ink, strokes being
    widened by a pixel, for some stretch within what the renderings' jitter can undo.
    """
    candidates = letters()
    same = _look_the_same(candidates)
    kept: list[int] = []
    for i in range(len(candidates)):
        if not same[i, kept].any():
            kept.append(i)
    return [candidates[i] for i in kept]


def _look_the_same(codepoints: list[int]) -> np.ndarray:
    """A symmetric boolean matrix ``[n, n]``."""
    n = len(codepoints)
    same, compared = np.zeros((2, n, n), dtype=bool)
    for face in faces():
        has = np.array([c in face.codepoints for c in codepoints])
        new = np.outer(has, has) & ~compared
        if not new.any():
            continue
        masks = [ink(c, face) if c in face.codepoints else None for c in codepoints]
        upright = np.zeros((len(_ASPECTS), n, SIZE, SIZE), dtype=np.uint8)
        for a, aspect in enumerate(_ASPECTS):
            for i in np.flatnonzero(has):
                upright[a, i] = render(masks[i], [0, 0, aspect, 0, 0, 0, 0])
        for stretched in upright:
            same |= new & _cover_each_other(upright[_ASPECTS.index(0.0)], stretched)
        compared |= new
    return same | same.T


def _cover_each_other(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether ``x[i]`` and ``y[j]`` cover each other, for images ``[n, 28, 28]``."""
    wide_x, wide_y = _flat(_widened(x)), _flat(_widened(y))
    x, y = _flat(x), _flat(y)
    result = _unit(x) @ _unit(y).T > 0.5  # others are far apart: spares most of the work
    for i in range(len(x)):
        j = np.flatnonzero(result[i])
        bare = np.maximum(x[i] - wide_y[j], 0).sum(axis=1)
        bare = np.maximum(bare, np.maximum(y[j] - wide_x[i], 0).sum(axis=1))
        result[i, j] = bare < _SAME * 255
    return result


def _flat(images: np.ndarray) -> np.ndarray:
    """Images as vectors ``[n, 784]`` whose differences fit."""
    return images.reshape(len(images), -1).astype(np.int16)


def _unit(x: np.ndarray) -> np.ndarray:
    """Vectors ``[n, 784]`` at length 1, or 0."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1)


def _widened(images: np.ndarray) -> np.ndarray:
    """Each pixel the largest of its 3 x 3 neighborhood."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.max(axis=(-2, -1))
