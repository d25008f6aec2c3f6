"""Which shipped learner is made for some pictures, and how it is shown them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metalearn_tut.files.drawings import color_square, ink_square, is_colored, is_plain
from metalearn_tut.files.pictures import middle_square

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = {
    "ink": "drawings in one color on plain ground",
    "color": "colored drawings on plain ground",
    "photo": "photographs",
}
_EMOJI = ("emoji_5way_1shot", "emoji_protonet", "emoji_5way_1shot_small")
_MADE_FOR = {
    "ink": ("glyphs_5way_1shot", "glyphs_5way_5shot"),
    "color": _EMOJI,
    "photo": ("photos_5way_5shot", *_EMOJI),
}
_SHOTS = 3  # pictures of a thing from which on a learner of five shots is the better one


def kind_of(pictures: Sequence[Image]) -> str:
    """What most of the pictures are, one of ``KINDS``."""
    plain = [picture for picture in pictures if is_plain(picture)]
    if 2 * len(plain) <= len(pictures):
        return "photo"
    colored = sum(is_colored(picture) for picture in plain)
    return "color" if 2 * colored > len(plain) else "ink"


def suited(kind: str, ways: int, shots: float, shipped: Collection[str]) -> str:
    """The learner among those shipped that is made for such pictures.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    ways : int
        How many things: of other than five, prototypes are preferred, which were not trained
        for a number.
    shots : float
        Pictures of each.
    shipped : collection of str
        As :func:`metalearn_tut.pretrained.available` gives them.

    Raises
    ------
    ValueError
        If none is.
    """
    names = [name for name in _MADE_FOR[kind] if name in shipped]
    if not names:
        raise ValueError(
            f"these pictures are {KINDS[kind]}, and no learner for them comes with the package: "
            "name a learner or a run of your own"
        )
    wanted = "protonet" if ways != 5 else "5shot" if shots >= _SHOTS else "1shot"
    best = [name for name in names if wanted in name and name.split("_")[0] in names[0]]
    return (best or names)[0]


def prepared(picture: Image, config: Mapping[str, Any]) -> np.ndarray:
    """A picture as the images are that a learner was trained on, ``uint8 [C, size, size]``.

    For learners of glyphs and of Omniglot ink is laid into the middle of a square, for learners
    of emoji a drawing on plain ground is, with its colors. All others see a picture's middle.

    Parameters
    ----------
    picture : PIL.Image.Image
        As :func:`metalearn_tut.files.pictures.decode` gives it.
    config : mapping
        Of the learner's run.
    """
    source, model = config.get("data", {}).get("name"), config["model"]
    size = model.get("image_size", 84)
    if source in ("glyphs", "omniglot"):
        return ink_square(picture, size)
    if source == "emoji" and is_plain(picture):
        return color_square(picture, size)
    return middle_square(picture, size, model.get("in_channels", 3))
