"""Start the command line in several processes that train together on this machine.

They are told what ``torchrun`` would tell them, and ``torchrun -m metalearn_tut train …`` works,
too. It is not what ``--processes`` starts, since it sends Ctrl-C to all processes at once, so that
the first may find the others gone before it has said how to go on; ends all others a tenth of a
second after the first failure, so that a mistake that each of them finds is told by one, several
or none; and turns every exit code into 1, with a traceback of its own.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

_GRACE = 60.0  # seconds that the others have to end by themselves when one has failed
_EXPLAINED = (2, 128 + signal.SIGINT)  # exit codes of a command that has said why


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``metalearn-tut arguments`` N times with what ``torchrun`` would tell them.

    Each has one thread. The first one speaks; what the others said is shown only if one of
    them fails and the first cannot know why. Ctrl-C reaches the first, which says how to go
    on. However this process stops (but for ``kill -9``), none of the others is left running.

    Returns
    -------
    int
        The exit code: 0 if all went well, else that of the first if it failed, else 1.
    """
    command = [sys.executable, "-m", "metalearn_tut", *arguments]
    environment = worker_environment(processes)
    workers: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        stack.callback(signal.signal, signal.SIGTERM, previous)
        stack.callback(_end, workers)
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, processes)]
        for rank, log in enumerate([None, *logs]):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            workers.append(subprocess.Popen(command, env=own, stderr=log, start_new_session=True))
        try:
            _wait(workers)
        except KeyboardInterrupt:
            workers[0].send_signal(signal.SIGINT)
            _wait(workers)
        return _verdict([worker.poll() for worker in workers], logs)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
        worker.wait()


def worker_environment(processes: int) -> dict[str, str]:
    """What all workers of one run are told; each also needs its RANK and LOCAL_RANK."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    if sys.platform == "linux":  # a machine's own name need not lead to itself
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended, or one has failed and the others had their time."""
    deadline = math.inf
    while None in (codes := [worker.poll() for worker in workers]) and time.monotonic() < deadline:
        if any(codes):
            deadline = min(deadline, time.monotonic() + _GRACE)
        time.sleep(0.05)


def _verdict(codes: Sequence[int | None], logs: Sequence[IO[bytes]]) -> int:
    """The exit code of the whole; shows why another process failed if the first could not."""
    first = codes[0]
    if not any(codes):
        return 0
    if first not in _EXPLAINED:
        for rank, (code, log) in enumerate(zip(codes[1:], logs, strict=True), start=1):
            if code:
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()
                print(f"process {rank} ended with {code}: {' '.join(said[-1:])}", file=sys.stderr)
    return 1 if not first else 128 - first if first < 0 else first
