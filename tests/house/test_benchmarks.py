"""The benchmarks compare equal work, and lose nothing of what they measured."""

import json
import sys
from pathlib import Path

import accuracy
import benchmarks_page
import benchmarks_text
import installation
import limits
import many_tasks
import memory
import meta_training
import one_task
import pytest
import rounds
import sides
import torch
from cases import Case
from meta_training import SIDES, differences, gradient_of, seconds_per_step

ROOT = Path(__file__).parents[2]
TINY = Case(4, 28, 1, 2)
HERE = sides.versions()
peers = pytest.mark.parametrize(
    "peer",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=f"{name} is not here"))
        for name in sides.PEERS
    ],
)


@pytest.fixture(autouse=True)
def nothing_changes(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(rounds, "UNFINISHED", tmp_path / "unfinished")


# Equal work


def test_the_ordinary_network_computes_the_same_function():
    net = Case(4, 84, 1, 1).network().double()
    ordinary = sides.OrdinaryConv4(net)
    x = torch.randn(6, 3, 84, 84, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ordinary(x), net(x), rtol=1e-10, atol=1e-10)
    assert set(dict(ordinary.named_parameters())) == set(dict(net.named_parameters()))


@pytest.mark.slow(quick=2)
@peers
@pytest.mark.parametrize("our_network", [False, True])
def test_each_peer_computes_the_gradient_of_the_package(peer, our_network):
    side = f"{peer}, our network" if our_network else peer
    gaps = differences([side], TINY)[side]
    assert gaps["float64"] < 1e-10 and gaps["float32"] < 1e-3


@pytest.mark.slow
def test_each_engine_computes_the_gradient_of_the_package():
    own = [name for name, side in SIDES.items() if side.peer is None]
    assert len(own) == 6
    assert max(gaps["float64"] for gaps in differences(own, TINY).values()) < 1e-10


@peers
def test_a_peer_begins_every_task_and_every_step_at_the_trained_weights(peer):
    batch = TINY.sampler().batch(0, 2)
    net = SIDES[peer].network(TINY, torch.float64)
    gradient = gradient_of(SIDES[peer], net, TINY)
    for _ in range(2):
        found = {name: g.clone() for name, g in gradient(batch).items()}
        own = TINY.network().double()
        own.load_state_dict(net.state_dict())
        for name, g in gradient_of(SIDES["package"], own, TINY)(batch).items():
            torch.testing.assert_close(found[name], g, rtol=1e-8, atol=1e-12)
        with torch.no_grad():
            for name, p in net.named_parameters():
                p -= 0.1 * found[name]


def test_a_side_with_another_gradient_ends_the_run(monkeypatch, tmp_path):
    class Wrong(sides.Higher):
        def __init__(self, net, inner_lr, inner_steps):
            super().__init__(net, 1.01 * inner_lr, inner_steps)

    monkeypatch.setitem(sides.PEERS, "higher", Wrong)
    monkeypatch.setattr(meta_training, "present", lambda: ["package", "higher"])
    monkeypatch.setattr(
        meta_training, "fresh", lambda *_: [{str(TINY): differences(["higher"], TINY)}]
    )
    with pytest.raises(SystemExit, match=r"higher computes another gradient: .* 2 inner steps"):
        meta_training.compared(rounds.Log(tmp_path / "x.json"), TINY)


@peers
def test_each_peer_adapts_as_the_package_does(peer):
    task = TINY.sampler()[0]
    ours, theirs = (one_task.predictor(side, TINY)(task) for side in ("package", peer))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    again = one_task.predictor(peer, TINY)
    assert torch.equal(again(task), again(task))


# Turns and ratios


def test_every_round_begins_with_another_side_and_gives_each_a_turn(tmp_path):
    asked = []
    log = rounds.Log(tmp_path / "x.json")
    found = rounds.in_turns(log, "abc", 4, lambda side: asked.append(side) or len(asked))
    assert "".join(asked) == "abcbcacababc"
    assert found == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}


def test_a_ratio_is_that_of_the_medians_with_the_spread_over_rounds():
    times = {"ours": [1.0, 2.0, 4.0], "slow": [4.0, 5.0, 6.0], "fast": [3.0, 3.0, 9.0]}
    found = rounds.beside(times, "ours", ["slow", "fast", "absent"])
    assert found["fastest_peer"] == "fast"
    assert found["times_faster_than"] == {
        "slow": {"of_medians": 2.5, "least": 1.5, "most": 4.0},
        "fast": {"of_medians": 1.5, "least": 1.5, "most": 3.0},
    }
    assert rounds.beside(times, "ours", [])["fastest_peer"] is None


def test_a_step_is_timed_after_half_of_one_for_as_long_as_asked(monkeypatch):
    clock, taken = [0.0], []

    def train(steps, tasks):
        taken.append((steps, tasks))
        clock[0] += 0.25 * steps * tasks + (10 if len(taken) % 2 else 0)  # a slow start

    monkeypatch.setattr(meta_training.time, "perf_counter", lambda: clock[0])
    assert seconds_per_step(train, 84.0) == 1.0
    assert taken == [(1, 2), (4, 4)]
    assert seconds_per_step(train, 0.0) == 1.0 and taken[2:] == [(1, 2), (1, 4)]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    def run(settings, cut=False):
        asked = []
        log = rounds.Log(tmp_path / "x.json", **settings)
        for key in "abc":
            if cut and key == "c":
                break
            log.get(key, lambda k=key: asked.append(k) or {"value": len(asked)})
        return log, asked

    assert run({"seconds": 1}, cut=True)[1] == ["a", "b"]
    log, asked = run({"seconds": 1})
    assert asked == ["c"] and log.known["b"] == {"value": 2}
    log.path.write_text(log.path.read_text()[:-5])  # killed while it wrote
    assert run({"seconds": 1})[1] == ["c"]
    assert run({"seconds": 2})[1] == ["a", "b", "c"]
    log, asked = run({"seconds": 2})
    assert asked == []
    log.finish({"all": log.known})
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["config"] == {"seconds": 2, "equal": rounds.EQUAL, "peers": HERE}
    assert written["values"]["all"]["a"] == {"value": 1} and "torch" in written["versions"]
    assert run({"seconds": 2})[1] == ["a", "b", "c"]


def test_other_code_is_measured_anew(tmp_path, monkeypatch):
    rounds.Log(tmp_path / "x.json").get("a", lambda: 1)
    assert rounds.Log(tmp_path / "x.json").known == {"a": 1}
    monkeypatch.setattr(rounds, "digest", lambda: "another")
    assert rounds.Log(tmp_path / "x.json").known == {}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A script beside the others, which tells what it was told."""
    monkeypatch.setattr(rounds, "__file__", str(tmp_path / "rounds.py"))
    names = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
    (tmp_path / "says.py").write_text(
        "import json, os, sys\nprint('first a line for people')\n"
        f"print(json.dumps([sys.argv[1:], *map(os.environ.get, {names})]))\n"
        "sys.exit(sys.argv[1] == 'fail' and os.environ['RANK'] == '1')"
    )


def test_a_single_process_has_the_environment_of_a_users_shell(script, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert rounds.fresh("says.py", ["x"], 1, 2) == [[["x"], "0", None, "2", None]]


def test_several_processes_have_that_of_the_command_line(script):
    first, second = rounds.fresh("says.py", ["x"], 2)
    assert first == [["x"], "0", "2", "1", None] and second[1] == "1"
    with pytest.raises(SystemExit, match=r"says\.py fail failed"):
        rounds.fresh("says.py", ["fail"], 2)


def test_memory_of_two_processes_counts_their_libraries_once():
    status = "VmPeak:\t 9 kB\nVmHWM:\t  409600 kB\nVmRSS:\t  307200 kB\nRssFile:\t  102400 kB\n"
    assert memory.held(status) == {"now": 300, "most": 400, "libraries": 100}
    other = {"now": 200, "most": 250, "libraries": 90}
    assert memory.together([memory.held(status)], "most") == 400
    assert memory.together([memory.held(status), other], "most") == 400 + 250 - 90


def test_the_reason_for_a_failed_installation_is_the_compilers():
    log = (
        "  error: subprocess-exited-with-error\n"
        "  learn2learn/data/x.c:210:12: fatal error: longintrepr.h: No such file\n"
        "  error: command '/usr/bin/gcc' failed with exit code 1\nERROR: no wheels\n"
    )
    assert installation.reason(log) == log.splitlines()[1].strip()
    assert installation.reason("a\n  error: /tmp/pip-1/b.c failed\n") == "error: b.c failed"
    assert installation.reason("a\nb\n") == "a" and installation.reason("") == "no reason given"


@pytest.mark.slow
def test_training_ends_with_the_goal_and_the_peer_follows_the_package():
    few = {"most_steps": 4, "validate_every": 1, "validation_tasks": 3}
    ours = accuracy.train_package(False, 1.01, **few)
    theirs = accuracy.train_peer("higher", 1.01, **few)
    assert [each["step"] for each in ours] == [each["step"] for each in theirs] == [1, 2, 3, 4]
    for a, b in zip(ours, theirs, strict=True):
        assert a["mean"] == pytest.approx(b["mean"], abs=0.03)
    for reached in (
        accuracy.train_package(False, ours[0]["mean"], **few),
        accuracy.train_package(True, 0.0, **few),
        accuracy.train_peer("higher", 0.0, **few),
    ):
        assert len(reached) == 1
    assert accuracy.loop.History is accuracy.History


# From the scripts to the page


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a script, and what it would do in other processes, in this one."""

    def main(module, *given):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, given)])
        module.main()
        return capsys.readouterr().out

    def script(module, *given):
        def fresh(script, arguments, processes=1, threads=2):
            return [json.loads(main(module, *arguments).splitlines()[-1])] * processes

        monkeypatch.setattr(module, "fresh", fresh, raising=False)
        out = tmp_path / "results" / "benchmarks" / f"{module.__name__}.json"
        main(module, *given, "--out", out, "--rounds", 2)
        return json.loads(out.read_text())["values"]

    return script


@pytest.mark.slow
def test_the_page_shows_what_the_scripts_write(run, monkeypatch, tmp_path):
    tiny = ["--cases", json.dumps([Case(4, 28, 1, 1)])]
    name = str(Case(4, 28, 1, 1))
    some = ["package", "package, one worker", "package, one thread", "package, two processes"]
    some += ["higher", "higher, as its README shows"]
    monkeypatch.setattr(meta_training, "present", lambda: some)
    monkeypatch.setattr(memory, "present", lambda: some)
    monkeypatch.setattr(one_task, "CASES", (Case(4, 28, 1, 1),))
    monkeypatch.setattr(one_task, "FIRST", Case(4, 28, 1, 1))
    monkeypatch.setattr(one_task, "EVALUATED", 3)
    for module in (rounds, one_task, accuracy):
        monkeypatch.setattr(module, "versions", lambda: {"higher": "0.2.1"})
    found = run(meta_training, *tiny, "--budget", 0)
    assert found["cases"][name]["fastest_peer"] == "higher" and found["gradient_difference"] < 1e-10
    assert {len(each) for each in found["cases"][name]["seconds"].values()} == {2}
    run(memory, *tiny)
    few = {"goal": 0.0, "validate_every": 1, "validation_tasks": 2}
    found = run(accuracy, "--settings", json.dumps(few))
    assert set(found["seconds"]) == {"package", "package, recipe", "higher"}
    assert run(one_task, "--repeats", 2)["evaluation"]["fastest_peer"] == "higher"
    assert run(limits, *tiny)["cases"][name]["share"] < 1
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "tried.json").write_text("[]")
    parts = benchmarks_page.generated(tmp_path)
    rows = [line.split("|")[1].strip() for line in parts["table"].splitlines()[2:]]
    case = benchmarks_text.short(name)
    assert rows[:4] == [case, "**its memory**", case, "**adaptation**"]
    assert rows[4:] == [case, "**evaluation of 600 tasks**", "**90 % accuracy**"]
    assert [part.count("|") for part in parts["more"].splitlines()] == [8, 8, 8]
    assert "of the peak" in parts["limits"]
    assert parts["answer"].count("not measured yet") == 1  # on a GPU
    assert f"Engines and networks: {name}" in parts["rest"]


@pytest.mark.slow
def test_many_tasks_are_measured_on_any_device(run):
    tiny = ["--cases", json.dumps([TINY]), "--device", "cpu", "--tasks", "[1, 3]", "--repeats", 1]
    found = run(many_tasks, *tiny)[str(TINY)]
    assert list(found["tasks"]) == ["1", "3"]
    for each in found["tasks"].values():
        assert set(each["seconds"]) == set(many_tasks.ASKED) and each["fastest_peer"] == "higher"
    assert max(gaps["float64"] for gaps in found["differences"].values()) < 1e-10


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_many_tasks_say_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["many_tasks.py"])
    with pytest.raises(SystemExit, match="there is no GPU here: --device cpu"):
        many_tasks.main()
