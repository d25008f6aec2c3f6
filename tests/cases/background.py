"""Processes that tests start, watch and stop (no tests here)."""

import os
import signal
import subprocess
import sys

HANG = 1800  # seconds: what takes longer hangs, however busy the machine is


def start(*arguments, **options):
    """Python with these arguments, one thread, outputs kept; Ctrl-C reaches it.

    Where a shell put pytest into the background, children would ignore Ctrl-C too.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,
    )
