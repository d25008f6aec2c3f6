"""The one way in which a run is stopped at any moment and gone on with to the same bits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from metalearn_tut.files.cache import remove_partial
from metalearn_tut.files.tensor_file import check_same_run, damaged, read_tensors, write_tensors


class Kept(NamedTuple):
    """What a run left: all its tensors by name, and its JSON with ``step`` and ``run``."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Resume:
    """The file that a run goes on from, in a folder that holds no other run.

    Parameters
    ----------
    file : path or None
        Replaced whole or not at all; without a path nothing is kept.
    run : mapping
        What two runs must have in common to be one, as JSON.
    kind : str, default "checkpoint"
        What messages call the file.
    unit : str, default "step"
        What the run counts.
    beside : sequence of str, default ()
        Names of the run's other files in the folder.
    writes : bool, default True
        False in all processes of a run but one.

    Attributes
    ----------
    step : int or None
        How much is done and kept; None if nothing is.

    Examples
    --------
    >>> import tempfile, torch
    >>> file = Path(tempfile.mkdtemp()) / "last.safetensors"
    >>> Resume(file, {"seed": 0}).begin(resume=True) is None
    True
    >>> Resume(file, {"seed": 0}).keep(5, {"w": torch.ones(2)}, {"loss": [0.5]})
    >>> resumed = Resume(file, {"seed": 0})
    >>> tensors, state = resumed.begin(resume=True)
    >>> resumed.step, tensors["w"].tolist(), state["loss"]
    (5, [1.0, 1.0], [0.5])
    >>> Resume(file, {"seed": 1}).begin(resume=True)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: cannot resume ...last.safetensors: seed was 0, now 1
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None,
        run: Mapping[str, Any],
        *,
        kind: str = "checkpoint",
        unit: str = "step",
        beside: Sequence[str] = (),
        writes: bool = True,
    ) -> None:
        self.file = None if file is None else Path(file).expanduser()
        self.run = json.loads(json.dumps(run))
        self.kind, self.unit, self.beside, self.writes = kind, unit, beside, writes
        self.step: int | None = None

    def begin(self, resume: bool) -> Kept | None:
        """What was kept, or None if the run is new.

        Half-written files of a process that was killed are removed.

        Raises
        ------
        FileExistsError
            If the folder holds a run and ``resume`` is False.
        ValueError
            If the file is damaged, or of another run: names what differs.
        OSError
            If the folder cannot be written to.
        """
        if self.file is None:
            return None
        files = [self.file, *(self.file.with_name(name) for name in self.beside)]
        if not resume and any(file.exists() for file in files):
            raise holds_a_run(self.file.parent)
        if self.writes:
            _make_ready(self.file.parent, files)
        if not self.file.exists():
            return None
        kept = Kept(*read_tensors(self.file, self.kind))
        if not {"step", "run"} <= kept.state.keys():
            raise damaged(self.file, self.kind)
        check_same_run(self.file, kept.state["run"], self.run)
        self.step = kept.state["step"]
        return kept

    def keep(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write what the next step depends on.

        Raises
        ------
        OSError
            If the file cannot be written; the one before is still there.
        """
        if self.file is None:
            return
        if self.writes:
            write_tensors(self.file, tensors, {**state, "step": step, "run": self.run})
        self.step = step

    def left(self) -> str:
        """What a run that stops now can be gone on from, in words."""
        if self.step is None:
            return "no checkpoint was saved"
        return f"last good checkpoint: {self.file} ({self.unit} {self.step})"

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say of a run that stops inside what it can be gone on from."""
        try:
            yield
        except FloatingPointError as error:
            raise type(error)(f"{error}; {self.left()}") from None
        except KeyboardInterrupt:
            how = "; resume=True (--resume) goes on from it" if self.step else ""
            raise KeyboardInterrupt(f"training was stopped; {self.left()}{how}") from None


def holds_a_run(folder: str | os.PathLike[str]) -> FileExistsError:
    """The error for a folder whose run was not to be gone on with."""
    return FileExistsError(
        f"{folder} holds a run: go on with it (resume=True, on the command line --resume) or "
        "name another folder"
    )


def _make_ready(folder: Path, files: Sequence[Path]) -> None:
    """A folder that can be written to, without what a killed process left half written."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"cannot write to {folder}: permission denied")
    for file in files:
        remove_partial(file)
