"""MetaGater on CIFAR-10 with more nodes and rounds than the study has. Not run yet.

    METALEARN_TUT_DATA=folder python tools/paper_scale/metagater.py --device cuda

Four ways to train, three seeds each, four times as many rounds as in the study on CIFAR-10
(`metalearn_tut/claims/metagater/claims.py`), whose rates it has.
"""

from __future__ import annotations

from dataclasses import replace

from at_scale import SEEDS, main, on_device, study_of

from metalearn_tut import claims
from metalearn_tut.claims import Job, Study
from metalearn_tut.claims.metagater.claims import ARMS, ROUNDS, job, training

NAME = "metagater_cifar10_scale"


def longer(short: Job, arm: str, seed: int, tiny: bool) -> Job:
    """The same job with more rounds."""
    rounds = 8 if tiny else 4 * ROUNDS
    whole = {**short.config, "training": training("cifar10", arm, seed, rounds=rounds)}
    return replace(short, config=whole)


def study(device: str) -> Study:
    """Its claims and jobs on a device."""

    def jobs(tiny: bool) -> list[Job]:
        seeds = SEEDS[:1] if tiny else SEEDS
        made = [
            longer(job(NAME, "cifar10", arm, seed, tiny), arm, seed, tiny)
            for seed in seeds
            for arm in ARMS
        ]
        return [on_device(each, device) for each in made]

    return study_of(claims.load("metagater_cifar10"), jobs, tuple(ARMS), "CIFAR-10, four times")


if __name__ == "__main__":
    main(__doc__, study)
