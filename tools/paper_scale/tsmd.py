"""TSMD on mini-ImageNet at 84×84: a Conv4-8 guided by a Conv4-32. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/tsmd.py --device cuda

The student alone, guided by a fixed teacher and by a meta-trained one, three seeds each; networks
(the paper's teacher is a ResNet-50), steps and rates are those of the study at 42×42
(`metalearn_tut/claims/tsmd/claims.py`).
"""

from __future__ import annotations

from at_scale import SEEDS, main, on_device, study_of

from metalearn_tut import claims
from metalearn_tut.claims import Study
from metalearn_tut.claims.tsmd.claims import job

ARMS = ("student", "fixed", "tsmd")


def study(device: str) -> Study:
    """Its claims and jobs on a device."""

    def jobs(tiny: bool) -> list:
        seeds = SEEDS[:1] if tiny else SEEDS
        made = [job("tsmd_scale", "mini_imagenet_84", a, s, tiny) for s in seeds for a in ARMS]
        return [on_device(each, device) for each in made]

    return study_of(claims.load("tsmd"), jobs, ARMS, "mini-ImageNet at 84×84, 5-way 1-shot")


if __name__ == "__main__":
    main(__doc__, study)
