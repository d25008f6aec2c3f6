"""ANP on mini-ImageNet at 84×84: 85 % of the weights of Conv4-32 removed. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/anp.py --device cuda

The dense network, ANP, and scores where adaptation starts, three seeds each; schedule, steps and
rates are those of the study at 42×42 (`metalearn_tut/claims/anp/claims.py`).
"""

from __future__ import annotations

from at_scale import SEEDS, main, on_device, study_of

from metalearn_tut import claims
from metalearn_tut.claims import Study
from metalearn_tut.claims.anp.claims import job

ARMS = ("dense", "anp", "lobs")


def study(device: str) -> Study:
    """Its claims and jobs on a device."""

    def jobs(tiny: bool) -> list:
        seeds = SEEDS[:1] if tiny else SEEDS
        made = [job("anp_scale", "mini_imagenet_84", a, s, tiny) for s in seeds for a in ARMS]
        return [on_device(each, device) for each in made]

    return study_of(claims.load("anp"), jobs, ARMS, "mini-ImageNet at 84×84, 5-way 1-shot")


if __name__ == "__main__":
    main(__doc__, study)
