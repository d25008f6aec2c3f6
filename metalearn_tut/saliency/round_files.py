"""Files of a pruning run: the learner after each round, from which the run goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from metalearn_tut.files.tensor_file import check_same_run, read_tensors, write_tensors
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
        if self.path is None:
            return 0, []
        for left in self.path.glob(".round_*.safetensors"):  # half written by a killed process
            left.unlink(missing_ok=True)
        found = sorted(self.path.glob("round_*.safetensors"))
        if not found:
            return 0, []
        if not resume:
            raise FileExistsError(
                f"{self.path} holds a pruning run: go on with it (resume=True) or name another "
                "folder"
            )
        done = 0
        while self.file(done + 1).exists():
            done += 1
        before = read_tensors(self.file(done), _KIND)[1]["config"]
        check_same_run(self.file(done), before, self._config(done))
        return done, load_round(self.file(done), self.learner).history

    def keep(self, number: int, history: list[dict[str, Any]]) -> None:
        """Write the learner as it is after a round."""
        if self.path is None:
            return
        state = {"history": history, "config": self._config(number)}
        write_tensors(self.file(number), state_of(self.learner), state)

    def _config(self, done: int) -> dict[str, Any]:
        return self.config | {"schedule": self.config["schedule"][:done]}
