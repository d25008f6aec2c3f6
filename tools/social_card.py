"""The picture that is shown where somebody shares the project: ``python tools/social_card.py``.

Made of the last frame of the first picture (``tools/hero.py``). Upload it,
``book/_static/social_card.png``, in the repository's settings, under "Social preview".
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from PIL import Image

STATIC = Path(__file__).parents[1] / "book" / "_static"
TITLE = "Few-shot learning of compact models"
SAID = "A book and a PyTorch package: small networks that learn from five pictures"


def main() -> None:
    """Draw it."""
    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12.8, 6.4), dpi=100)
    figure.text(0.5, 0.9, TITLE, ha="center", va="center", fontsize=36, fontweight="bold")
    figure.text(0.5, 0.8, SAID, ha="center", va="center", fontsize=19)
    ax = figure.add_axes((0.08, 0.02, 0.84, 0.72))
    ax.imshow(Image.open(STATIC / "hero.png"))
    ax.axis("off")
    figure.savefig(STATIC / "social_card.png")
    print(f"{STATIC / 'social_card.png'}: 1280 x 640")


if __name__ == "__main__":
    main()
