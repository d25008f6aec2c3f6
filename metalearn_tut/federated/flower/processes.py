"""Flower's programs on this machine: which version, on which ports, and how they are ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

HOST = "127.0.0.1"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def check_flower() -> None:
    """Refuse a Flower that is missing, or started in another way."""
    try:
        found = version("flwr")
    except PackageNotFoundError as error:
        raise ImportError(
            "Flower is not installed: pip install 'metalearn-tut[federated]'"
        ) from error
    if tuple(map(int, found.split(".")[:2])) < (1, 41):
        raise ImportError(f"LocalFlower needs flwr 1.41 or newer (Python 3.11), found {found}")


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        return taken.getsockname()[1]


def check_port(port: int) -> int:
    """Refuse a port that is in use."""
    if not 0 < port < 2**16:
        raise ValueError(f"port must be in 1..65535, got {port}")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind((HOST, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} is in use: name another one") from error
    return port


def end(process: subprocess.Popen[bytes], hard: bool = False) -> None:
    """End a process and those it has started: after a while also those that do not listen."""
    for sign in (signal.SIGKILL,) if hard else (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
