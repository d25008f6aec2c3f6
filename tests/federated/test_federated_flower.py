"""The rounds on Flower: in this process, in a simulation, and as processes on loopback."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import background
import federated_cases
import federated_grid
import pytest
from bilevel_cases import assert_same
from federated_cases import gater_federation, maml_federation
from federated_grid import FakeGrid

from metalearn_tut.federated import in_process, run_rounds, state_of
from metalearn_tut.federated.flower import app as flower_app
from metalearn_tut.federated.flower import guard as flower_guard
from metalearn_tut.federated.flower import local as flower_local
from metalearn_tut.federated.flower.app import apps, make_federation
from metalearn_tut.federated.flower.local import LocalFlower
from metalearn_tut.files.tensor_file import read_tensors

for name, value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
):
    os.environ[name] = value

GATER = {"experiment": "federated_cases:gater_federation", "arguments": '{"rounds": 2}'}
MAML = {"experiment": "federated_cases:maml_federation", "arguments": '{"n": 3, "rounds": 4}'}
slow = pytest.mark.skipif(
    os.environ.get("METALEARN_TUT_SLOW") != "1",
    reason="starts some dozens of processes: set METALEARN_TUT_SLOW=1",
)


def saved(folder):
    """The server's state and records."""
    tensors, rest = read_tensors(folder / "server.safetensors")
    return tensors, rest["records"]


# What needs no Flower


def test_experiments_that_cannot_be_made_are_named():
    federation = make_federation("federated_cases:maml_federation", '{"rounds": 7}')
    assert federation.rounds == 7
    for experiment in ("nothing:at_all", "federated_cases:nothing", "federated_cases", ""):
        with pytest.raises(ValueError, match="experiment must be 'module:function', and import"):
            make_federation(experiment)
    with pytest.raises(ValueError, match=r"arguments must be a JSON object, got '\[1\]'"):
        make_federation("federated_cases:maml_federation", "[1]")
    with pytest.raises(ValueError, match="federated_cases:vectors returned ClassSource, not a"):
        make_federation("federated_cases:vectors")


def test_what_the_client_app_calls_can_be_sent_to_rays_workers():
    for function in (flower_app._own_federation, make_federation):
        assert pickle.loads(pickle.dumps(function)) is function


def test_without_flower_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.setitem(sys.modules, "flwr.app", None)
    with pytest.raises(ImportError, match=r"pip install 'metalearn-tut\[federated\]'"):
        apps()


def test_a_federation_of_nobody_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flower_local, "version", lambda name: "1.41.0")
    with pytest.raises(ValueError, match="clients must be at least 1, got 0"):
        LocalFlower(tmp_path, 0, GATER)


def test_an_old_flower_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flower_local, "version", lambda name: "1.30.0")
    with pytest.raises(ImportError, match=r"needs flwr 1.41 or newer .*, found 1.30.0"):
        LocalFlower(tmp_path, 2, GATER)


# Flower's messages in one process


@pytest.fixture
def flower(monkeypatch):
    federated_grid.identify(monkeypatch)
    return federated_grid.run


def test_flower_and_in_process_runs_are_the_same(flower, tmp_path):
    grid = flower(**GATER, out=str(tmp_path))
    federation = gater_federation(rounds=2)
    records = run_rounds(federation)
    state, found = saved(tmp_path)
    assert found == records
    assert_same(state, state_of(federation.learner), rtol=1e-6)
    clients = range(len(federation.nodes))
    assert grid.pushed == [(kind, c) for kind in ("query", "train", "train") for c in clients]


def test_the_runs_own_configuration_comes_first(flower, tmp_path):
    config = {**MAML, "out": str(tmp_path / "a")}
    flower(run_config={"arguments": '{"n": 3, "rounds": 1}', "timeout": 9.0}, **config)
    assert len(saved(tmp_path / "a")[1]) == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "error 0: out of memory"),
        ("late", "no answer within 0.5 s"),
        ("unsent", "no answer within 0.5 s"),
        ("gone", "not connected"),
        ("empty", "KeyError: 'told'"),
    ],
)
def test_a_bad_node_is_left_out_and_the_round_goes_on(flower, tmp_path, how, reason):
    config = {**MAML, "arguments": '{"n": 3, "rounds": 2}', "timeout": 0.5, "wait": 0.6}
    flower({1: how}, **config, out=str(tmp_path))
    state, records = saved(tmp_path)
    assert [list(r["left_out"].values()) for r in records] == [[reason]] * 2
    without = maml_federation(n=3, rounds=2)
    honest = in_process(without)
    run_rounds(without, lambda chosen, s, r: honest([c for c in chosen if c != 1], s, r))
    assert_same(state, state_of(without.learner), rtol=1e-12)


def test_a_node_that_is_no_client_is_asked_nothing(flower, tmp_path):
    grid = flower(**{**MAML, "arguments": '{"n": 3, "rounds": 1}'}, clients=5, out=str(tmp_path))
    assert saved(tmp_path)[1][0]["left_out"] == {}
    assert ("train", 3) not in grid.pushed


def test_a_node_that_cannot_say_who_it_is_is_asked_once(flower, tmp_path, caplog):
    config = {**MAML, "arguments": '{"n": 3, "rounds": 2}', "wait": 0.7}
    grid = flower({1: "nobody"}, **config, out=str(tmp_path))
    assert [r["left_out"] for r in saved(tmp_path)[1]] == [{"node 1": "not connected"}] * 2
    assert grid.pushed.count(("query", 1)) == 1
    assert "node 1001 is not asked: partition-id of a node must be" in caplog.text


def test_without_any_node_the_server_gives_up_in_time(flower):
    with pytest.raises(RuntimeError, match=r"no node has connected within 0.3 s"):
        flower(dict.fromkeys(range(3), "gone"), **MAML, wait=0.3)


def test_a_killed_server_goes_on_from_its_checkpoint(flower, tmp_path):
    federation = maml_federation(n=3, rounds=4)

    def until(chosen, state, number):
        if number == 2:
            raise KeyboardInterrupt
        return in_process(federation)(chosen, state, number)

    with pytest.raises(KeyboardInterrupt):
        run_rounds(federation, until, out=tmp_path)
    grid = flower(**MAML, out=str(tmp_path))
    assert grid.pushed.count(("train", 0)) == 2
    whole = maml_federation(n=3, rounds=4)
    assert saved(tmp_path)[1] == run_rounds(whole)
    assert_same(saved(tmp_path)[0], state_of(whole.learner), rtol=1e-12)


def test_bad_settings_of_a_run_are_named(flower):
    with pytest.raises(ValueError, match="unknown setting 'rounds'; there are experiment, argum"):
        apps(rounds=3)
    with pytest.raises(ValueError, match="timeout must be positive, got 0"):
        flower(**MAML, timeout=0.0)
    with pytest.raises(ValueError, match="wait must be positive, got -1"):
        flower(**MAML, wait=-1.0)
    _, client_app = apps(**MAML)
    grid = FakeGrid(client_app, 3)
    context = grid.context(0)
    context.node_config = {}
    from flwr.app import Message, RecordDict

    with pytest.raises(ValueError, match="partition-id of a node must be an integer >= 0, got No"):
        client_app(Message(RecordDict(), 1000, "query"), context)


# Flower's engines


SIMULATION = """
import json, sys
from flwr.simulation import run_simulation
from metalearn_tut.federated.flower.app import apps
server_app, client_app = apps(**json.loads(sys.argv[1]))
resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
run_simulation(server_app, client_app, num_supernodes=3, backend_config=resources)
"""


def importable(monkeypatch):
    """For the processes to come: the tests' own modules, and one thread each."""
    paths = [str(Path(federated_cases.__file__).parent), str(Path(__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_flowers_simulation_engine_gives_the_same_parameters(tmp_path, monkeypatch):
    """The engine with its queues and threads, and a worker of this process in place of Ray's."""
    pytest.importorskip("flwr")
    from flwr.simulation import run_simulation

    engine = "flwr.server.superlink.fleet.vce.backend"
    backends = pytest.importorskip(engine)

    class Here(backends.Backend):
        num_workers = 1

        def build(self, app_fn):
            self.app = app_fn()

        def is_worker_idle(self):
            return True

        def terminate(self):
            pass

        def process_message(self, message, context):
            return self.app(message, context), context

    ray = types.ModuleType(f"{engine}.raybackend")
    ray.RayBackend = Here
    monkeypatch.setitem(sys.modules, ray.__name__, ray)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # Flower sets its own
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    server_app, client_app = apps(**GATER, out=str(tmp_path), timeout=120.0)
    run_simulation(server_app, client_app, num_supernodes=3, backend_name="here")
    federation = gater_federation(rounds=2)
    state, records = saved(tmp_path)
    assert records == run_rounds(federation)
    assert_same(state, state_of(federation.learner), rtol=1e-6)


@slow
def test_a_simulation_gives_the_same_parameters(tmp_path, monkeypatch):
    pytest.importorskip("flwr")
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'flwr[simulation]'")
    importable(monkeypatch)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")
    config = json.dumps({**GATER, "out": str(tmp_path), "timeout": 300.0})
    command = [sys.executable, "-c", SIMULATION, config]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=background.HANG, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    federation = gater_federation(rounds=2)
    records = run_rounds(federation)
    state, found = saved(tmp_path)
    assert [r["left_out"] for r in found] == [{}] * 2 == [r["left_out"] for r in records]
    assert_same(state, state_of(federation.learner), rtol=1e-6)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def skip_where_flower_gives_up():
    """Flower ends a process that has not reported within 30 seconds of its start."""
    program, before = Path(sys.executable).parent / "flwr-serverapp", time.monotonic()
    subprocess.run([program, "--help"], capture_output=True, check=True)
    if (took := time.monotonic() - before) > 15:
        pytest.skip(f"too busy: Flower gives a process 30 s to start, and here it takes {took:.0f}")


@slow
def test_processes_on_loopback_survive_a_node_that_is_killed(tmp_path, monkeypatch):
    pytest.importorskip("flwr", minversion="1.41", reason="its programs take other arguments")
    importable(monkeypatch)
    skip_where_flower_gives_up()
    limit = float(background.HANG)
    config = {**MAML, "out": str(tmp_path / "out"), "timeout": 150.0, "wait": limit}
    with LocalFlower(tmp_path, 3, config, start_limit=limit) as flower:
        groups = [process.pid for process in flower.processes.values()]
        run = flower.submit(limit)
        deadline = time.monotonic() + limit
        while not (tmp_path / "out" / "server.safetensors").exists():
            assert time.monotonic() < deadline, flower.log("superlink")
            time.sleep(0.5)
        flower.stop_node(2, hard=True)
        flower.wait(run, 3 * limit)
    deadline = time.monotonic() + background.HANG
    while any(map(alive, groups)):
        assert time.monotonic() < deadline, "processes were left running"
        time.sleep(0.2)
    state, records = saved(tmp_path / "out")
    missing = [sorted(r["left_out"]) for r in records]
    assert missing[0] == [] and "node 2" in missing[-1] and len(records) == 4
    assert records[-1]["clients"] != missing[-1]
    federation = maml_federation(n=3, rounds=4)  # the same, with the same node missing
    present = in_process(federation)

    def ask(chosen, s, r):
        return present([c for c in chosen if f"node {c}" not in missing[r]], s, r)

    run_rounds(federation, ask)
    assert_same(state, state_of(federation.learner), rtol=1e-6)


def documented(folder, nodes):
    """Run the commands by which the documentation makes certificates and nodes' keys."""
    lines = flower_guard.__doc__.replace("\\\n", " ").splitlines()
    commands = [line.strip() for line in lines if line.startswith("    ")]
    made = [c for c in commands if c.split()[0] in ("openssl", "echo", "ssh-keygen")]
    assert len(made) == 5
    others = [made[-1].replace("node-0", f"node-{i}") for i in range(1, nodes)]
    folder.mkdir()
    for line in [*made, *others]:
        subprocess.run(["bash", "-c", line], cwd=folder, check=True, capture_output=True)
    return flower_guard.Guard(folder)


guarded = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("openssl", "ssh-keygen", "bash")),
    reason="certificates and keys are made by openssl and ssh-keygen",
)


@slow
@guarded
def test_a_node_without_a_registered_key_and_another_server_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("flwr", minversion="1.41", reason="its programs take other arguments")
    importable(monkeypatch)
    skip_where_flower_gives_up()
    limit = float(background.HANG)
    guard, strange = documented(tmp_path / "keys", 1), documented(tmp_path / "strange", 1)
    unknown = tmp_path / "unknown"  # the right authority, and a key that nobody registered
    shutil.copytree(strange.folder, unknown)
    shutil.copy(guard.folder / "ca.crt", unknown)
    others = {"key": flower_guard.Guard(unknown), "server": strange, "plain": None}
    said = {
        "key": "No SuperNode found with the given public key",
        "server": "CERTIFICATE_VERIFY_FAILED",
    }
    with LocalFlower(tmp_path, 1, GATER, start_limit=limit, guard=guard) as flower:
        link = flower.processes["superlink"]
        for name, other in others.items():
            flower.guard = other
            flower.start_node(0, name=name)
        deadline = time.monotonic() + limit
        while any(flower.processes[name].poll() is None for name in others):
            assert time.monotonic() < deadline, [flower.log(name) for name in others]
            assert link.poll() is None
            time.sleep(0.5)
        assert all(flower.processes[name].poll() != 0 for name in others)
        while "Activated node_id" not in flower.log("superlink", 10**6):  # the one that may
            assert time.monotonic() < deadline, flower.log("superlink")
            time.sleep(0.5)
        assert flower.processes["node-0"].poll() is None
        whole = flower.log("superlink", 10**6)
        assert whole.count("Activated node_id") == 1 and said["key"] in whole
        assert said["server"] in flower.log("server", 10**6)
        flower.guard = strange  # flwr itself, with another authority
        flower._write()
        with pytest.raises(RuntimeError, match=r"flwr run failed|did not start the run"):
            flower.submit(limit)
        assert "StartRun" not in flower.log("superlink", 10**6)


@slow
@guarded
def test_processes_with_keys_and_sums_give_the_same_parameters(tmp_path, monkeypatch):
    """TLS, registered nodes and SecAgg+ over loopback, against plain rounds in this process."""
    pytest.importorskip("flwr", minversion="1.41", reason="its programs take other arguments")
    importable(monkeypatch)
    skip_where_flower_gives_up()
    limit, arguments = 200.0, '{"n": 2, "rounds": 1}'
    config = {**MAML, "arguments": arguments, "secure": True, "out": str(tmp_path / "out")}
    config |= {"timeout": 2 * limit, "wait": limit}
    guard = documented(tmp_path / "keys", 2)
    with LocalFlower(tmp_path, 2, config, start_limit=limit, guard=guard) as flower:
        try:
            flower.run(5 * limit)
        except RuntimeError as error:
            if "timed out" in str(error) or "task-token authentication failed" in str(error):
                pytest.skip("too busy: Flower's own time limits have passed")
            raise
    state, (record,) = saved(tmp_path / "out")
    assert record["left_out"] == {}
    federation = maml_federation(n=2, rounds=1)
    run_rounds(federation)
    for name, p in state_of(federation.learner).items():
        assert (state[name] - p).abs().max() < 1e-7, name
