"""ABP on CIFAR-10: the study `abp_cifar10`, its trainings taking turns on one GPU.

    METALEARN_TUT_DATA=folder python tools/paper_scale/abp.py --pilot
    METALEARN_TUT_DATA=folder python tools/paper_scale/abp.py

Eight minutes of an H200 in all. `metalearn-tut reproduce abp_cifar10` does the same jobs in
processes, which share a GPU less well. What is done is kept, one file a job in
`results/claims/abp_cifar10`, and the same command goes on. With `--tiny` all of it takes minutes on
a processor, measures nothing, and is kept in `runs/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from metalearn_tut import claims
from metalearn_tut.claims.abp.design import needs
from metalearn_tut.claims.report import Report, jobs_folder, table
from metalearn_tut.claims.turns import run_in_turns

RESULTS = Path(__file__).parents[2] / "results" / "claims"


def main() -> None:
    """Run what is missing, and print what it says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pilot", action="store_true", help="what chooses the rates, first")
    parser.add_argument("--at-once", type=int, default=4, help="trainings at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true", help="try everything out in minutes")
    given = parser.parse_args()
    study = claims.load("abp_cifar10")
    jobs = study.pilots() if given.pilot else study.jobs(given.tiny)
    results = given.out / "quick" if given.tiny else given.results
    records = jobs_folder(results, study, "pilots" if given.pilot else "jobs")
    options = {"at_once": given.at_once, "clean": not given.tiny}
    failed = run_in_turns(jobs, given.out / study.name, records, needs, **options)
    if not given.pilot:
        print(table(Report.of(study, results, given.tiny)))
    if failed:
        raise SystemExit("\n".join(f"failed: {name}: {why}" for name, why in failed.items()))


if __name__ == "__main__":
    main()
