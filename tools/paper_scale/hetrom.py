"""HeTRoM on mini-ImageNet at 84×84: half of the training tasks with random labels. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/hetrom.py --device cuda

The ranked range and the mean, three seeds each; network, steps and rates are those of the study at
42×42 (`metalearn_tut/claims/hetrom/claims.py`).
"""

from __future__ import annotations

from functools import partial

from at_scale import at_84, main

from metalearn_tut.claims.hetrom.claims import job

ARMS = ("labels50-mean", "labels50-range")
study = partial(at_84, "hetrom", job, ARMS)

if __name__ == "__main__":
    main(__doc__, study)
