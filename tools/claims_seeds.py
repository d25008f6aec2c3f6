"""List the test seeds of all studies as used: ``python tools/claims_seeds.py``.

Run it when a study is declared, before it is run; a test refuses a seed that is in the list of
another study or of the first round.
"""

from __future__ import annotations

import json
from pathlib import Path

from metalearn_tut import claims
from metalearn_tut.claims import Study, seeds
from metalearn_tut.files.cache import atomic_write

FILE = Path(__file__).parents[1] / "results" / "claims" / "test_seeds.json"


def hashes(study: Study) -> list[str]:
    """Of the seeds of all test tasks of a study, quick runs included."""
    jobs = [*study.jobs(False), *study.jobs(True)]
    return sorted({seeds.hashed(s) for job in jobs for s in seeds.seeds_of_tests(job.config)})


def text(used: dict[str, list[str]]) -> str:
    """The file's content."""
    return json.dumps(used, indent=1) + "\n"


def main() -> None:
    """Write the file; what was used once stays in it."""
    old = seeds.used(FILE) if FILE.exists() else {}
    used = {"first round": sorted(map(seeds.hashed, seeds.FIRST_ROUND)), **old}
    used |= {name: hashes(claims.load(name)) for name in claims.STUDIES}
    with atomic_write(FILE) as path:
        path.write_text(text(used), "utf-8")


if __name__ == "__main__":
    main()
