"""HeTRoM on mini-ImageNet at 84×84: half of the training tasks with random labels. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/hetrom.py --device cuda

The ranked range and the mean, three seeds each; network, steps and rates are those of the study at
42×42 (`metalearn_tut/claims/hetrom/claims.py`).
"""

from __future__ import annotations

from at_scale import SEEDS, main, on_device, study_of

from metalearn_tut import claims
from metalearn_tut.claims import Study
from metalearn_tut.claims.hetrom.claims import job

ARMS = ("labels50-mean", "labels50-range")


def study(device: str) -> Study:
    """Its claims and jobs on a device."""

    def jobs(tiny: bool) -> list:
        seeds = SEEDS[:1] if tiny else SEEDS
        made = [job("hetrom_scale", "mini_imagenet_84", a, s, tiny) for s in seeds for a in ARMS]
        return [on_device(each, device) for each in made]

    return study_of(claims.load("hetrom"), jobs, ARMS, "mini-ImageNet at 84×84, 5-way 1-shot")


if __name__ == "__main__":
    main(__doc__, study)
