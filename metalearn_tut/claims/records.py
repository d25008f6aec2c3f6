"""What a job leaves in its study's folder when it ends, and where others find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metalearn_tut.claims.study import Job


def record_of(job: Job, folder: Path) -> dict[str, Any] | None:
    """What a job left in ``folder`` when it ended; None if it has not, or was another one.

    A record is a results file (see :func:`metalearn_tut.results.write_result`) whose values are
    the job's ``name``, its ``values``, the ``seconds`` it took, and whether it was ``resumed``,
    in which case these are the seconds of its last part.
    """
    path = folder / f"{job.key}.json"
    try:
        record = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return record if record.get("config") == job.config else None


def beside(job: Job, folder: Path, *studies: str) -> Path:
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
