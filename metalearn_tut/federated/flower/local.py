"""Flower's deployment engine on one machine: a SuperLink, SuperNodes, loopback, time limits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from metalearn_tut.federated.flower.guard import Guard
from metalearn_tut.federated.flower.processes import (
    HOST,
    QUIET,
    check_flower,
    check_port,
    end,
    free_port,
)

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
    port : int, optional
        Of the SuperLink; a free one by default.
    start_limit : float, default 60
        Seconds that the SuperLink may take to start.
    guard : Guard, optional
        Certificates and keys: TLS, and no node whose key is not registered. Without it nothing
        is encrypted and nobody is asked who they are.

    Raises
    ------
    OSError
        If ``port`` is in use.
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
        port: int | None = None,
        start_limit: float = 60,
        guard: Guard | None = None,
    ) -> None:
        if clients < 1:
            raise ValueError(f"clients must be at least 1, got {clients}")
        check_flower()
        self.folder, self.clients = Path(folder).expanduser().absolute(), clients
        self.config, self.start_limit, self.guard = dict(config), start_limit, guard
        self.port = free_port() if port is None else check_port(port)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        programs = Path(sys.executable).parent
        path = os.pathsep.join([str(programs), os.environ.get("PATH", "")])
        self.env = {**os.environ, **QUIET, "FLWR_HOME": str(self.folder / "home"), "PATH": path}
        self.programs = programs

    def __enter__(self) -> LocalFlower:
        self._write()
        try:
            how = self.guard.link() if self.guard else ("--insecure",)
            self._start("superlink", "flower-superlink", *how, "--host", HOST, "--port", self.port)
            self._until(self._healthy, self.start_limit, "the SuperLink has not started")
            for client in range(self.clients):
                if self.guard:
                    self.register(self.guard.public_key(client))
                self.start_node(client)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        command = [str(self.programs / "flwr"), "log", run, "local", "--stream"]
        deadline = time.monotonic() + limit
        try:  # it ends with the run, and costs less than asking again and again
            subprocess.run(command, **self._quiet(limit), check=False)
        except subprocess.TimeoutExpired:
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
        how = self.guard.connection() if self.guard else "insecure = true"
        (home / "config.toml").write_text(
            '[superlink]\ndefault = "local"\n\n[superlink.local]\n'
            f'address = "{HOST}:{self.port}"\n{how}\n',
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

    def _healthy(self) -> bool:
        scheme, known = ("https", self.guard.trusted()) if self.guard else ("http", None)
        url = f"{scheme}://{HOST}:{self.port}/health"
        try:
            with urllib.request.urlopen(url, timeout=2, context=known) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def _until(self, done: Callable[[], bool], limit: float, otherwise: str) -> None:
        deadline = time.monotonic() + limit
        while not done():
            if self.processes["superlink"].poll() is not None:
                raise RuntimeError(f"the SuperLink has ended\n{self.log('superlink')}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{otherwise}\n{self.log('superlink')}")
            time.sleep(0.5)

    def _quiet(self, limit: float) -> dict[str, Any]:
        rest = {"capture_output": True, "text": True, "timeout": max(limit, 0.1)}
        return {"env": self.env, "cwd": self.folder, **rest}

    def _flwr(self, *arguments: str, limit: float) -> dict[str, Any]:
        """What a command of ``flwr`` answers."""
        command = [str(self.programs / "flwr"), *arguments, "--format", "json"]
        try:
            done = subprocess.run(command, **self._quiet(limit), check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"flwr {arguments[0]} took more than {limit:g} s") from None
        start = done.stdout.find("{")
        if start < 0:
            raise RuntimeError(f"flwr {arguments[0]} failed: {done.stdout}{done.stderr}")
        return json.loads(done.stdout[start:])
