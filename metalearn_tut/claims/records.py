"""What a job leaves when it has ended: one file, which is committed and never made again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metalearn_tut.claims.study import Job, Values
from metalearn_tut.files import provenance
from metalearn_tut.files.cache import remove_partial

_PARTS = {"name", "values", "seconds", "resumed"}


class NoProvenance(RuntimeError):
    """A result would not say what code it came from."""


def check_clean() -> None:
    """Refuse to make results by code that no commit holds.

    Raises
    ------
    NoProvenance
        If the source tree differs from its commit, or is in no repository.
    """
    found = provenance.commit()
    if found == "unknown" or found.endswith("+changes"):
        raise NoProvenance(
            f"the code's commit is {found}: a result must say which code made it. Commit your "
            "changes and run in the clone, or try it out with --quick"
        )


def write_record(
    job: Job, folder: Path, values: Values, *, seconds: float, resumed: bool = False
) -> None:
    """Keep what a job that has ended found; see :func:`record_of`."""
    done = {"name": job.name, "values": values, "seconds": round(seconds, 1), "resumed": resumed}
    provenance.write_result(_path(job, folder), config=job.config, values=done)


def record_of(job: Job, folder: Path) -> dict[str, Any] | None:
    """What a job left in ``folder`` when it ended; None if it has not, or not all of it is there.

    A record is a results file (see :func:`metalearn_tut.files.provenance.write_result`) whose
    values are the job's ``name``, its ``values``, the ``seconds`` it took, and whether it was
    ``resumed``, in which case these are the seconds of its last part. One of another
    configuration is none.
    """
    try:
        record = json.loads(_path(job, folder).read_text("utf-8"))
        whole = record["values"].keys() >= _PARTS and record["config"] == job.config
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None  # not there, or damaged: the job is done again
    return record if whole else None


def records_of(jobs: Iterable[Job], folder: Path) -> dict[str, dict[str, Any]]:
    """The records of all jobs that have one, by name."""
    found = {job.name: record_of(job, folder) for job in jobs}
    return {name: record for name, record in found.items() if record}


def clear_partial(job: Job, folder: Path) -> None:
    """Remove a record that was half written when its process was killed."""
    remove_partial(_path(job, folder))


def _path(job: Job, folder: Path) -> Path:
    return folder / f"{job.name}.json"
