"""The page about speed says what the benchmarks measured, and what is not measured yet."""

import base64
import json
import re
import shutil
from pathlib import Path

import benchmarks_figure
import pytest
from benchmarks_page import generated
from contract_text import spelling

ROOT = Path(__file__).parents[2]
PEERS = ("higher", "learn2learn", "torchopt")


def beside(seconds):
    """Ratios to three peers; learn2learn is the fastest."""
    found = {
        peer: {"of_medians": factor, "least": factor - 0.1, "most": factor + 0.2}
        for peer, factor in zip(PEERS, (2.5, seconds, 3.5), strict=True)
    }
    return {"fastest_peer": "learn2learn", "times_faster_than": found}


MORE = {"one worker": 0.12, "two processes": 0.07, "one thread": 0.15}


def step(factor):
    times = {"package": [0.1, 0.08, 0.09], "higher": [0.3], "learn2learn": [0.2], "torchopt": [0.4]}
    gaps = {side: {"float64": 2e-13, "float32": 3e-6} for side in (*times, "package, one thread")}
    seconds = times | {f"package, {how}": [time] for how, time in MORE.items()}
    as_shown = beside(factor + 0.5)
    return {"seconds": seconds, "differences": gaps, "as_shown": as_shown, **beside(factor)}


VALUES = {
    "meta_training": {"cases": {"Conv4-32, small": step(2.04), "Conv4-64, large": step(1.6)}},
    "memory": {
        "Conv4-32, small": {
            "megabytes": {
                "package": [{"peak": 600, "before": 1}, {"peak": 660, "before": 1}],
                "package, one worker": [{"peak": 500, "before": 1}],
                "higher": [{"peak": 400, "before": 1}],
                "torchopt": [{"peak": 440, "before": 1}],
            }
        }
    },
    "accuracy": {
        "seconds": {"package": [31.0, 33.0, 32.0], "higher": [62.0] * 3, "torchopt": [None, 1, 1]},
        "fastest_peer": "higher",
        "times_faster_than": {"higher": {"of_medians": 1.94, "least": 1.94, "most": 1.94}},
    },
    "one_task": {
        "adaptation": {"Conv4-32, one": step(1.2)},
        "evaluation": {"seconds": {"package": [3.0], "learn2learn": [9.0]}, **beside(3.0)},
        "sampling": {"5-way 1-shot": [4000.0, 4100.0, 4200.0]},
    },
    "limits": {
        "machine": {
            "product, operations a second": 9e10,
            "convolution, operations a second": 7e10,
            "copy, bytes a second": 1.2e10,
        },
        "cases": {"Conv4-32, small": {"operations": 4.2e9, "seconds": 0.1, "share": 0.47}},
    },
    "gated": {"one image, 50 %": {"macs": 0.5, "time": 0.8}},
    "on_device": {"glyphs": {"milliseconds": {"1": {"onnxruntime": 4.0, "torch": 9.0}}}},
    "start_up": {"seconds": {"import torch": [1.5], "metalearn-tut --help": [0.25]}},
    "where_time_goes": {"Conv4-32, small": {"convolution": 0.4, "rest": 0.6}},
    "installation": {
        "higher": {"version": "0.2.1", "error": None},
        "learn2learn": {"version": None, "error": "x.c: fatal error: y.h: No such file"},
        "torchopt": {"version": "0.7.3", "error": None},
    },
    "many_tasks_cuda": {"Conv4-32": {"tasks": {"64": step(2.0), "256": step(2.0)}}},
}


def plant(root, **values):
    """A folder with these results, and what the page needs besides."""
    folder = root / "results" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "benchmarks").mkdir(exist_ok=True)
    shutil.copy(ROOT / "benchmarks" / "tried.json", root / "benchmarks")
    around = {"date": "2026-12-24", "commit": "0123456789abcdef", "device": "A processor"}
    around |= {
        "config": {"equal": True, "peers": {"torchopt": "0.7.3"}},
        "versions": {"torch": "2.13.0"},
    }
    for name, found in values.items():
        (folder / f"{name}.json").write_text(json.dumps({**around, "values": found}))
    return root


@pytest.fixture
def full(tmp_path):
    return plant(tmp_path, **VALUES)


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [
        cell.strip().replace("\u00a0", " ").replace("\u2060", "") for cell in line.split("|")[2:-1]
    ]


def test_without_results_every_part_says_so(tmp_path):
    parts = generated(plant(tmp_path))
    assert parts["answer"].count("not measured yet") == 3
    assert parts["goals"].count("**not measured yet**") == 3
    for name in ("table", "more", "figure", "peers", "limits"):
        assert "not measured yet" in parts[name]


def test_results_of_unequal_means_count_for_nothing(tmp_path):
    root = plant(tmp_path, **{name: VALUES[name] for name in ("meta_training", "memory")})
    for path in (root / "results" / "benchmarks").glob("*.json"):
        path.write_text(path.read_text().replace('"equal": true, ', ""))
    parts = generated(root)
    for name in ("answer", "table", "more", "figure"):
        assert "not measured yet" in parts[name]


def test_the_answer_is_three_sentences_with_the_numbers_on_file(full):
    said = generated(full)["answer"]
    assert re.findall(r"[a-z`]\.(?= |$)", said) != [] and said.count(". ") == 2
    assert "1.60 to 2.04 times as fast as with the fastest" in said
    assert "2.10 to 2.54 times as READMEs show it" in said and "with 1.65 times the memory" in said
    assert "it takes 32 seconds; with the fastest peer 62." in said
    assert "up to 2.5 times as fast as `higher`" in said


def test_the_goals_are_judged_by_the_numbers(full):
    speed, accuracy, gpu = generated(full)["goals"].splitlines()
    assert speed.endswith(
        "**not met: of 2 cases 2 with equal means and 2 as READMEs show; 0 of 1 in memory**"
    )
    assert accuracy.endswith("**met: 32 seconds**")
    assert gpu.endswith("**not met: 2.5 times at most**")


@pytest.mark.parametrize(
    ("size", "factor", "peak", "verdict"),
    [
        ("28x28", 1.5, 480, "met"),
        ("28x28", 1.49, 480, "not met"),
        ("28x28", 1.5, 481, "not met"),
        ("84x84", 1.5, 600, "met"),
        ("84x84", 1.5, 601, "not met"),
    ],
)
def test_the_first_goal_needs_speed_and_memory(tmp_path, size, factor, peak, verdict):
    held = {side: [{"peak": p, "before": 1}] for side, p in (("package", peak), ("higher", 400))}
    memory = {size: {"megabytes": held}}
    root = plant(tmp_path, meta_training={"cases": {size: step(factor)}}, memory=memory)
    assert f"**{verdict}: " in generated(root)["goals"].splitlines()[0]


@pytest.mark.parametrize(("seconds", "verdict"), [(60.0, "met"), (61.0, "not met")])
def test_the_second_goal_is_a_minute(tmp_path, seconds, verdict):
    root = plant(tmp_path, accuracy={"seconds": {"package": [seconds]}})
    assert f"**{verdict}: {seconds:.0f} seconds**" in generated(root)["goals"].splitlines()[1]


def test_the_table_has_a_row_for_everything_that_was_measured(full):
    case = "Conv4\u201132, small"
    rows = {}
    for line in generated(full)["table"].splitlines()[2:]:
        name, *found = (cell.strip().replace("\u00a0", " ") for cell in line.strip("|").split("|"))
        rows.setdefault(name, []).append([cell.replace("\u2060", "") for cell in found])
    step, peak = rows[case]
    spreads = ["2.04 (1.94–2.24)", "2.54 (2.44–2.74)"]
    assert step == ["90.0 ms", "300 ms", "200 ms", "400 ms", *spreads]
    assert peak == ["660 MB", "400 MB", "", "440 MB", "", ""]
    (evaluated,) = rows["**evaluation of 600 tasks**"]
    assert evaluated == ["3.0 s", "", "9.0 s", "", "3.00 (2.90–3.20)", ""]
    assert rows["**90 % accuracy**"] == [["32 s", "62 s", "", "", "1.94", ""]]
    assert rows["Conv4\u201132, one"][0][-2:] == ["1.20 (1.10–1.40)", "1.70 (1.60–1.90)"]
    names = list(rows)
    assert names.index(case) < names.index("**its memory**") < names.index("**adaptation**")
    assert names[-2:] == ["**evaluation of 600 tasks**", "**90 % accuracy**"]


def test_what_workers_and_processes_add_is_told_with_its_memory(full):
    small, large = (f"Conv4\u2011{width}" for width in ("32, small", "64, large"))
    times = ["120 ms", "90.0 ms", "70.0 ms"]
    assert row(generated(full)["more"], small) == [*times, "500 MB", "660 MB", ""]
    assert row(generated(full)["more"], large) == [*times, "", "", ""]


def test_a_peer_that_does_not_install_is_named_with_the_error(full):
    text = generated(full)["peers"]
    assert row(text, "TorchOpt") == ["installs: 0.7.3"]
    assert row(text, "learn2learn") == ["does not install: `x.c: fatal error: y.h: No such file`"]


def test_the_rest_is_there(full):
    parts = generated(full)
    shares, far = parts["limits"].split("The machine does 90 billion operations a second")
    assert row(shares, "Conv4‑32, small") == ["40 %", "60 %"]
    assert "moves 12 GB a second" in far and row(far, "Conv4‑32, small") == [
        "4.2",
        "100 ms",
        "47 %",
    ]
    assert row(parts["rest"], "one image, 50 %") == ["0.50", "0.80"]
    assert row(parts["rest"], "`glyphs`") == ["1", "4.0 ms", "9.0 ms"]
    engines = parts["rest"].split("Conv4-64, large")[0]
    assert row(engines, "package, one thread") == ["150 ms", "2e-13, 3e-06"]
    assert row(parts["rest"].split("Memory")[1], "package") == ["1 MB", "660 MB"]
    assert row(parts["rest"], "`metalearn-tut --help`") == ["0.25 s"]
    assert row(parts["rest"], "5-way 1-shot") == ["4100"]
    assert (
        "* `memory.json`: 2026-12-24, A processor, commit `01234567`; torch 2.13.0"
        in (parts["rest"])
    )


def test_what_was_tried_is_shown(full):
    tried = [{"change": "a_b", "prediction": "faster", "outcome": "slower", "kept": "no"}]
    (full / "benchmarks" / "tried.json").write_text(json.dumps(tried))
    assert row(generated(full)["limits"], r"a\_b") == ["faster", "slower", "no"]


def test_every_change_that_was_tried_says_what_was_expected():
    for each in json.loads((ROOT / "benchmarks" / "tried.json").read_text()):
        assert list(each) == ["change", "prediction", "outcome", "kept"] and all(each.values())


def test_the_bars_are_as_long_as_the_ratios(full):
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    cases = {
        name: case["times_faster_than"] for name, case in VALUES["meta_training"]["cases"].items()
    }
    del cases["Conv4-64, large"]["higher"]
    benchmarks_figure.draw(ax, cases, 2.0)
    lengths = [round(bar.get_width(), 3) for bar in ax.patches]
    assert lengths == [2.5, 2.04, 1.6, 3.5, 3.5]
    spread = ax.collections[1].get_segments()[0]
    assert spread[:, 0].tolist() == pytest.approx([1.94, 2.24])
    assert [text.get_text() for text in ax.get_yticklabels()] == list(cases)
    plt.close(fig)


def test_the_figure_is_part_of_the_page_and_told_in_words(full):
    text = generated(full)["figure"]
    (encoded,) = re.findall(r"\{figure\} data:image/png;base64,(\S+)$", text, re.M)
    assert base64.b64decode(encoded).startswith(b"\x89PNG")
    (alt,) = re.findall(r"^:alt: (.*)$", text, re.M)
    assert "2 cases" in alt and "1.60 to 2.04" in alt and "the goal is 1.5." in alt
    assert generated(full)["figure"] == text  # the same bytes


def test_the_generated_text_is_spelled_as_the_book_is(full):
    assert list(spelling("\n\n".join(generated(full).values()))) == []
    assert list(spelling("\n\n".join(generated().values()))) == []
