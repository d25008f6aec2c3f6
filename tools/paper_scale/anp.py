"""ANP on mini-ImageNet at 84×84: 85 % of the weights of Conv4-32 removed. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/anp.py --device cuda

The dense network, ANP, and scores where adaptation starts, three seeds each; schedule, steps and
rates are those of the study at 42×42 (`metalearn_tut/claims/anp/claims.py`).
"""

from __future__ import annotations

from functools import partial

from at_scale import at_84, main

from metalearn_tut.claims.anp.claims import job

ARMS = ("dense", "anp", "lobs")
study = partial(at_84, "anp", job, ARMS)

if __name__ == "__main__":
    main(__doc__, study)
