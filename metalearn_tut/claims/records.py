"""What a job leaves in its study's folder when it ends, and where others find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalearn_tut.claims.study import Job
from metalearn_tut.files.cache import remove_partial
from metalearn_tut.files.provenance import write_result

_PARTS = {"name", "values", "seconds", "resumed"}


def write_record(
    job: Job, folder: Path, values: dict[str, Any], *, seconds: float, resumed: bool = False
) -> None:
    """Keep what a job that has ended found; see :func:`record_of`."""
    done = {"name": job.name, "values": values, "seconds": round(seconds, 3), "resumed": resumed}
    write_result(_path(job, folder), config=job.config, values=done)


def record_of(job: Job, folder: Path) -> dict[str, Any] | None:
    """What a job left in ``folder`` when it ended; None if it has not, or not all of it is there.

    A record is a results file (see :func:`metalearn_tut.files.provenance.write_result`) whose
    values are the job's ``name``, its ``values``, the ``seconds`` it took, and whether it was
    ``resumed``, in which case these are the seconds of its last part.
    """
    try:
        record = json.loads(_path(job, folder).read_text("utf-8"))
        whole = record["values"].keys() >= _PARTS and record["config"] == job.config
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return None  # not there, or damaged: the job is done again
    return record if whole else None


def clear_partial(job: Job, folder: Path) -> None:
    """Remove a record that was half written when its process was killed."""
    remove_partial(_path(job, folder))


def _path(job: Job, folder: Path) -> Path:
    return folder / f"{job.key}.json"


def folder_of_job(job: Job, folder: Path, *studies: str) -> Path:
    """Where a job finds what another one left, if that is done; else where it makes it itself.

    Parameters
    ----------
    job : Job
        The other one.
    folder : Path
        The job's own folder, among those of its study.
    *studies : str
        Names of other studies that may have done it, looked at after its own.

    Returns
    -------
    Path
        The other job's folder, or one of its name in ``folder``.
    """
    for study in (folder.parent, *(folder.parents[1] / name for name in studies)):
        if record_of(job, study) and (study / job.key).is_dir():
            return study / job.key
    return folder / job.name
