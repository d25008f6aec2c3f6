"""Flower's deployment engine on one machine: a SuperLink, SuperNodes, loopback, time limits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from metalearn_tut.federated.flower.guard import Guard

HOST = "127.0.0.1"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
_APP = """\
[project]
name = "metalearn-tut-federation"
version = "1.0.0"
license = "MIT"
dependencies = []

[tool.flwr.app]
publisher = "metalearn-tut"

[tool.flwr.app.components]
serverapp = "metalearn_tut.federated.flower.app:server_app"
clientapp = "metalearn_tut.federated.flower.app:client_app"

[tool.flwr.app.config]
"""


class LocalFlower:
    """A federation of processes on this machine; a context manager.

    It starts one ``flower-superlink`` and a ``flower-supernode`` for each client, on 127.0.0.1
    only, and ends them on leaving. Nothing outside is contacted.

    Parameters
    ----------
    folder : path
        For the app, Flower's state, and a log file of each process.
    clients : int
        Number of SuperNodes.
    config : mapping
        Of :mod:`metalearn_tut.federated.flower.app`: ``experiment`` at least.
    start_limit : float, default 60
        Seconds that the SuperLink may take to start.
    guard : Guard, optional
        Certificates and keys: TLS, and no node whose key is not registered. Without it nothing
        is encrypted and nobody is asked who they are.

    Raises
    ------
    ValueError
        If there is no client.
    ImportError
        If Flower is not installed, or older than 1.41, whose programs took other arguments.
    TimeoutError
        If the SuperLink does not answer in time.

    Notes
    -----
    Every message is handled in a process of its own, which imports PyTorch anew: on one machine
    this takes seconds a round, and :func:`~metalearn_tut.federated.in_process` is faster. Flower
    gives each process 30 seconds to start: where the machine is too busy for that, its log says
    "task-token authentication failed", and no run gets anywhere.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        clients: int,
        config: Mapping[str, str | float],
        *,
        start_limit: float = 60,
        guard: Guard | None = None,
    ) -> None:
        if clients < 1:
            raise ValueError(f"clients must be at least 1, got {clients}")
        check_flower()
        self.folder, self.clients = Path(folder).expanduser().absolute(), clients
        self.config, self.start_limit, self.guard = dict(config), start_limit, guard
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.programs = Path(sys.executable).parent
        path = os.pathsep.join([str(self.programs), os.environ.get("PATH", "")])
        self.env = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "home"), "PATH": path}

    def __enter__(self) -> LocalFlower:
        self._write()
        try:
            self._start_link()
            for client in range(self.clients):
                if self.guard:
                    self.register(self.guard.public_key(client))
                self.start_node(client)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def register(self, public_key: Path) -> None:
        """Let the node with this key take part."""
        answer = self._flwr("supernode", "register", str(public_key), "local", limit=60)
        if not answer.get("success"):
            raise RuntimeError(f"Flower did not register {public_key}: {answer}")

    def start_node(self, client: int, *, guard: Guard | None = None, name: str = "") -> None:
        """Start the SuperNode of a client, with this guard or that of all."""
        config = f"partition-id={client} num-partitions={self.clients}"
        guard = guard or self.guard
        self._start(
            name or f"node-{client}",
            *("flower-supernode", "--superlink", f"{HOST}:{self.port}", "--max-retries", "5"),
            *(guard.node(client) if guard else ("--insecure",)),
            *("--host", HOST, "--port", free_port(), "--node-config", config),
        )

    def stop_node(self, client: int, hard: bool = False) -> None:
        """End the SuperNode of a client; ``hard`` gives it no chance to say goodbye."""
        end(self.processes.pop(f"node-{client}"), hard)

    def run(self, limit: float = 600) -> None:
        """Train: submit the app, and wait until it has ended.

        Parameters
        ----------
        limit : float, default 600
            Seconds.

        Raises
        ------
        RuntimeError
            If the run fails; the message has the end of the SuperLink's log.
        TimeoutError
            If it has not ended in time.
        """
        deadline = time.monotonic() + limit
        self.wait(self.submit(limit), deadline - time.monotonic())

    def submit(self, limit: float = 60) -> str:
        """Start a run; returns its number."""
        answer = self._flwr("run", str(self.folder / "app"), "local", limit=limit)
        if not answer.get("success"):
            raise RuntimeError(f"Flower did not start the run: {answer}")
        return str(answer["run-id"])

    def wait(self, run: str, limit: float = 600) -> None:
        """Wait until a run has ended; raises as :meth:`run`."""
        deadline = time.monotonic() + limit
        try:  # it ends with the run, and costs less than asking again and again
            self._call("log", run, "local", "--stream", limit=limit)
        except TimeoutError:
            raise TimeoutError(f"the run has not ended in time\n{self.log('superlink')}") from None
        left = max(60.0, deadline - time.monotonic())
        answer = self._flwr("list", "local", "--run-id", run, limit=left)
        if (status := answer["runs"][0]["status"]) != "finished:completed":
            raise RuntimeError(f"the run ended with {status}\n{self.log('superlink')}")

    def log(self, process: str, characters: int = 3000) -> str:
        """The end of what a process has written: ``"superlink"`` or ``"node-0"``, ..."""
        return (self.folder / f"{process}.log").read_text("utf-8", "replace")[-characters:]

    def close(self) -> None:
        """End all processes: politely, and after five seconds not."""
        for process in reversed(list(self.processes.values())):
            end(process)
        self.processes.clear()

    def _write(self) -> None:
        """The app and Flower's configuration."""
        app, home = self.folder / "app", self.folder / "home"
        app.mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)
        # a JSON string or number is one of TOML, too
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in self.config.items()]
        (app / "pyproject.toml").write_text(_APP + "".join(lines), "utf-8")
        trusted = self.guard.connection() if self.guard else "insecure = true"
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
            f'address = "{HOST}:{self.port}"\n{trusted}\n',
            "utf-8",
        )

    def _start(self, name: str, program: str, *arguments: str | int) -> None:
        """A process in a group of its own, so that those it starts can be ended with it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(self.programs / program), *map(str, arguments)],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _start_link(self) -> None:
        """Start the SuperLink, and wait until it listens."""
        own = self.guard.link() if self.guard else ("--insecure",)
        self._start("superlink", "flower-superlink", *own, "--host", HOST, "--port", self.port)
        deadline = time.monotonic() + self.start_limit
        while True:
            with suppress(OSError), socket.create_connection((HOST, self.port), timeout=2):
                return
            if self.processes["superlink"].poll() is not None:
                raise RuntimeError(f"the SuperLink has ended\n{self.log('superlink')}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the SuperLink has not started\n{self.log('superlink')}")
            time.sleep(0.5)

    def _flwr(self, *arguments: str, limit: float) -> dict[str, Any]:
        """What a command of ``flwr`` answers."""
        said = self._call(*arguments, "--format", "json", limit=limit)
        if "{" not in said:
            raise RuntimeError(f"flwr {arguments[0]} failed: {said}")
        return json.JSONDecoder().raw_decode(said, said.index("{"))[0]

    def _call(self, *arguments: str, limit: float) -> str:
        """Run a command of ``flwr`` in the app's surroundings; what it prints."""
        command, limit = [str(self.programs / "flwr"), *arguments], max(limit, 0.1)
        own = {"env": self.env, "cwd": self.folder, "capture_output": True, "text": True}
        try:
            done = subprocess.run(command, **own, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"flwr {arguments[0]} took more than {limit:g} s") from None
        return done.stdout + done.stderr


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


def end(process: subprocess.Popen[bytes], hard: bool = False) -> None:
    """End a process and those it has started: after a while also those that do not listen."""
    for sign in (signal.SIGKILL,) if hard else (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
