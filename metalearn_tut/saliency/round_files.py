"""Files of a pruning run: the learner after each round, from which the run goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_tut.files.resume import Resume
from metalearn_tut.files.tensor_file import read_tensors
from metalearn_tut.learners.maml import MAML
from metalearn_tut.learners.state import load_state, state_of
from metalearn_tut.saliency.masks import Masks

_KIND = "pruning round"


class Pruned(NamedTuple):
    """``masks`` by parameter name (True = kept), and ``history``, one mapping per round."""

    masks: Masks
    history: list[dict[str, Any]]


def load_round(path: str | os.PathLike[str], learner: MAML) -> Pruned:
    """Put a round's whole state, masks included, into a learner of the same architecture.

    Parameters
    ----------
    path : path
        A file that :func:`anp_prune` wrote; ``round_00.safetensors`` is the learner as it came.
    learner : MAML
        Changed in place, unless something is wrong.

    Returns
    -------
    Pruned
        All the masks that the learner has now, and the history up to this round.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, or of another architecture.
    """
    tensors, state = read_tensors(path, _KIND)
    load_state(path, tensors, learner)
    metas = learner.meta_parameters()
    masks = {n: mask.to(metas[n].device) for n, mask in learner.masks.items()}
    return Pruned(masks, state["history"])


class RoundFolder:
    """Where a run keeps its rounds; without a path it keeps nothing.

    Parameters
    ----------
    path : path or None
        The folder.
    learner : MAML
        What is pruned.
    config : dict
        What two runs must have in common to be one, as JSON; of its ``schedule`` only the
        rounds that are done.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, learner: MAML, config: dict[str, Any]
    ) -> None:
        self.path = None if path is None else Path(path).expanduser()
        self.learner, self.config = learner, config

    def file(self, number: int) -> Path:
        """The file of a round, 0 for the start."""
        return self.path / f"round_{number:02d}.safetensors"

    def begin(self, resume: bool) -> tuple[int, list[dict[str, Any]]]:
        """Rounds done, and their history; the learner is then as it was after the last one."""
        if self.path is None or not self.path.exists():
            return 0, []
        found = sorted(file.name for file in self.path.glob("round_*.safetensors"))
        done = 0
        while self.file(done + 1).exists():
            done += 1
        kept = self._at(done, beside=[*found, self.file(done + 1).name]).begin(resume)
        if kept is None and found:
            raise FileNotFoundError(f"no {_KIND} at {self.file(done)}, and later ones are there")
        if kept is None:
            return 0, []
        load_state(self.file(done), kept.tensors, self.learner)
        return done, kept.state["history"]

    def keep(self, number: int, history: list[dict[str, Any]]) -> None:
        """Write the learner as it is after a round."""
        self._at(number).keep(number, state_of(self.learner), {"history": history})

    def _at(self, done: int, beside: Sequence[str] = ()) -> Resume:
        """The file after so many rounds, of whose schedule only these count."""
        run = self.config | {"schedule": self.config["schedule"][:done]}
        file = None if self.path is None else self.file(done)
        return Resume(file, run, kind=_KIND, unit="round", beside=beside)
