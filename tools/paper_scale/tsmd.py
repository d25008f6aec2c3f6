"""TSMD on mini-ImageNet at 84×84: a Conv4-8 guided by a Conv4-32. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/tsmd.py --device cuda

The student alone, guided by a fixed teacher and by a meta-trained one, three seeds each; networks
(the paper's teacher is a ResNet-50), steps and rates are those of the study at 42×42
(`metalearn_tut/claims/tsmd/claims.py`).
"""

from __future__ import annotations

from functools import partial

from at_scale import at_84, main

from metalearn_tut.claims.tsmd.claims import job

ARMS = ("student", "fixed", "tsmd")
study = partial(at_84, "tsmd", job, ARMS)

if __name__ == "__main__":
    main(__doc__, study)
