"""Nothing that decides whether a test passes is a time: neither an assertion nor a limit."""

import ast
import itertools
import json
import re
from functools import cache
from pathlib import Path

import contract_clock
import hypothesis
import notebooks
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parents[2]
LEAST = 600  # seconds: a shorter limit ends what is slow, and not only what hangs
SECONDS = "def seconds(f):\n    start = perf_counter()\n    f()\n    return perf_counter() - start"
TAKEN = "found = {}\nfor name in 'ab':\n    found[name] = []\n    found[name].append(seconds(f))"


def asserted(*cells):
    """Numbers of the cells that assert a time."""
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    return [int(said.split()[2]) for said in contract_clock.clock(notebook)]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        # as chapters did
        (["before, after = cost.latency(a, s), cost.latency(b, s)\nassert after < before"], [1]),
        ([SECONDS, "times = {n: seconds(n) for n in 'ab'}\nassert min(times) == 'a'"], [2]),
        ([SECONDS, TAKEN, "print(found)", "assert found['a'] < found['b']"], [4]),
        ([SECONDS, TAKEN, "for name, times in found.items():\n    assert max(times) < 9"], [3]),
        # and as they might
        (["assert cost.latency(network, shape) < 0.01"], [1]),
        (["start = time.time()", "f()", "took = time.time() - start", "assert took < 90"], [4]),
        (["a = timeit(f, number=3)\nb = [a / 3]\nc = sum(b)\nassert c < 1"], [1]),
        (
            ["done = export_network(net, path, shape)\nassert done.latency < done.torch_latency"],
            [1],
        ),
        ([SECONDS, "def twice(f):\n    return 2 * seconds(f)", "assert twice(f) > 0"], [3]),
        # which is something else
        ([SECONDS, TAKEN, "print(found)\nassert cost.macs(a, s) < cost.macs(b, s)"], []),
        ([SECONDS, "took = seconds(f)", "took = 3\nassert took == 3"], []),
        ([SECONDS, TAKEN, "name, right = 'a', 1\nassert right and name == 'a'"], []),
        (["row = recorded.side_by_side()['a']\nassert row['latency'] < row['adapt']"], []),
        (["done = export_network(net, path, shape)\nassert done.difference < 1e-5"], []),
    ],
)
def test_a_chapter_that_asserts_a_time_is_told(cells, numbers):
    assert asserted(*cells) == numbers


CLOCK = re.compile(r"\b(perf_counter|monotonic|process_time|time\.time)\(")


@cache
def nodes(source):
    return list(ast.walk(ast.parse(source)))


def limits(source):
    """Lines with a limit in seconds that is too short, for a process or a thread to end."""
    if not re.search(r"timeout|\.(wait|join)\(\s*[\d.]", source):
        return  # nothing to parse
    for node in nodes(source):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = [k.value for k in node.keywords if k.arg == "timeout"]
        if node.func.attr in ("wait", "join") and not given:
            given = [a for a in node.args if isinstance(a, ast.Constant)]
        if node.func.attr in ("run", "communicate", "check_output", "wait", "join", "execute"):
            numbers = [v.value for v in given if isinstance(v, ast.Constant)]
            if any(isinstance(n, (int, float)) and 1 <= n < LEAST for n in numbers):
                yield node.lineno  # less than a second is a look, and looks are repeated


def asserted_clocks(source):
    """Lines that assert something of a clock they ask, but for a deadline that ends a hang."""
    if not CLOCK.search(source):
        return
    for node in nodes(source):
        if isinstance(node, ast.Assert):
            said = ast.unparse(node.test)
            if CLOCK.search(said) and not re.search(r"time\.monotonic\(\) < deadline", said):
                yield node.lineno


def test_what_is_looked_for_is_found():
    assert list(limits("run.communicate(timeout=30)\nthread.join(2.0)\np.wait(timeout=600)")) == [
        1,
        2,
    ]
    assert list(limits("', '.join(words)\nsubprocess.run(c, timeout=HANG)")) == []
    took = "assert time.monotonic() - start < 5\nassert time.monotonic() < deadline"
    assert list(asserted_clocks(took)) == [1]


@pytest.mark.parametrize("looks", [limits, asserted_clocks])
def test_no_test_has_a_limit_that_a_busy_machine_breaks(looks):
    files = itertools.chain((ROOT / "tests").rglob("*.py"), (ROOT / "tools").glob("*.py"))
    found = {f"{p.relative_to(ROOT)}:{n}" for p in files for n in looks(p.read_text("utf-8"))}
    found = {place for place in found if "__pycache__" not in place}
    assert not {place for place in found if "test_edges_clock" not in place}


def test_cells_have_all_the_time_they_need():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    install = (ROOT / "book" / "install.md").read_text("utf-8")
    runs = (ROOT / "tools" / "run_notebook.py").read_text("utf-8")
    said = [
        *re.findall(r"--nbval-cell-timeout=(\d+)", makefile + install),
        *re.findall(r"^SECONDS_PER_CELL = (\d+)", runs, re.M),
        yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))["execute"]["timeout"],
    ]
    assert len(said) == 4 and all(int(seconds) >= LEAST for seconds in said)


# What a notebook may cost


@pytest.fixture
def machine(monkeypatch):
    """``machine(speeds)``: a machine that is so fast at one time after another; 30 per notebook."""

    def slow(*speeds):
        now, left = [0.0], list(speeds)

        def spend(work):
            now[0] += work / (left.pop(0) if len(left) > 1 else left[0])

        monkeypatch.setattr(notebooks.time, "perf_counter", lambda: now[0])
        monkeypatch.setattr(notebooks, "piece_of_work", lambda: spend(1.0))
        monkeypatch.setattr(notebooks, "execute", lambda name: spend(30.0))

    return slow


@pytest.mark.parametrize("speed", [0.1, 1.0, 7.0])
def test_what_a_notebook_costs_is_the_same_on_every_machine(machine, speed):
    machine(speed)
    cost = notebooks.cost_of("a", rounds=2)
    assert cost["ratio"] == pytest.approx(30) and len(cost["seconds"]) == 2
    assert cost["seconds"] == pytest.approx([30 / speed] * 2)


def test_a_machine_that_became_busy_is_seen_on_both_sides(machine):
    machine(1.0, 0.5, 0.25)  # a piece before, the notebook, a piece after
    assert notebooks.cost_of("a", rounds=1)["ratio"] == pytest.approx(60 / ((1 + 4) / 2))


def test_a_notebook_beyond_its_budget_is_named_and_other_results_are_kept(
    machine, monkeypatch, tmp_path, capsys
):
    machine(1.0)
    out = tmp_path / "notebooks.json"
    names = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
    monkeypatch.setattr("sys.argv", ["notebooks.py", names[0], names[1], "--out", str(out)])
    notebooks.main()
    monkeypatch.setattr(notebooks, "execute", lambda name: None)
    monkeypatch.setattr(notebooks, "BUDGET", 20.0)
    monkeypatch.setattr("sys.argv", ["notebooks.py", names[1], "--out", str(out)])
    with pytest.raises(SystemExit, match=f"more than 20 pieces of work: {names[0]}$"):
        notebooks.main()
    kept = json.loads(out.read_text("utf-8"))["values"]["notebooks"]
    assert {name: cost["ratio"] for name, cost in kept.items()} == {names[0]: 30.0, names[1]: 0.0}


def test_the_piece_of_work_is_always_the_same_and_leaves_nothing_behind():
    before = torch.get_rng_state()
    first, second = (notebooks.piece_of_work(2, 9) for _ in range(2))
    assert first == second > notebooks.piece_of_work(4, 9) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_random_examples_have_no_deadline():
    assert hypothesis.settings.default.deadline is None
    too_slow = hypothesis.HealthCheck.too_slow
    assert too_slow in hypothesis.settings.default.suppress_health_check
