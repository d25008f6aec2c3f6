"""The peers' adapters and reports, as far as the peers are here."""

import json
import os
import runpy
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import by_higher
import by_torch_func
import conformance_sides
import pytest
from conformance_cases import BY_NAME

from metalearn_tut.conformance import CASES, GROUPS, judge

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "conformance_peers"
RESULTS = ROOT / "results" / "conformance"
REPORTS = sorted((PEERS / "reports").glob("*.py"))
RECORDED = {p.stem: json.loads(p.read_text("utf-8")) for p in sorted(RESULTS.glob("*.json"))}
SMALL = ("forward hook", "layer norm", "LSTM", "embedding", "a frozen layer", "float32")


def packages_of(report: str) -> str | None:
    """The folder of ``build/conformance`` that a report needs beside what is installed."""
    names = ("learn2learn", "torchopt", "parallel_metalearn", "iteryne")
    return next((name for name in names if report.startswith(name)), None)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "side, learner",
    [
        ("higher", by_higher.meta_gradient),
        ("torch_func_loop", by_torch_func.loop),
        ("torch_func_vmap", by_torch_func.vmapped),
    ],
)
def test_the_verdicts_on_record_come_out_again(side, learner, name):
    recorded = RECORDED[side]
    if any(version(p) != v for p, v in recorded["config"]["packages"].items()):
        pytest.skip("recorded with another version")
    verdict = judge(BY_NAME[name], learner)
    assert verdict.kind == recorded["values"][name]["kind"]
    if verdict.kind == "wrong":
        assert verdict.error == pytest.approx(recorded["values"][name]["error"], rel=1e-3)


@pytest.mark.parametrize("report", REPORTS, ids=lambda path: path.stem)
def test_a_report_shows_what_it_says(report, capsys):
    folder = packages_of(report.stem)
    if folder is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(report), run_name="__main__")
        said = capsys.readouterr().out
    else:
        said = in_a_process_of_its_own(report, ROOT / "build" / "conformance" / folder)
    assert said.splitlines()[-1].startswith("wrong: "), "mended upstream? judge it again"


def in_a_process_of_its_own(report: Path, folder: Path) -> str:
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not here: python conformance_peers install")
    path = os.pathsep.join(map(str, [PEERS, folder, ROOT]))
    command = [sys.executable, "-W", "ignore", str(report)]
    environment = {**os.environ, "PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def test_a_report_is_short_and_says_first_what_is_wrong():
    for path in REPORTS:
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 30 and lines[0].startswith('"""') and lines[0].endswith('."""'), path


def test_every_side_is_on_record_with_every_case_from_one_commit():
    assert set(RECORDED) == set(conformance_sides.SIDES)
    for side, result in RECORDED.items():
        assert list(result["values"]) == [case.name for case in CASES], side
        assert result["config"]["packages"] or side.startswith("ours"), side
    assert len({result["commit"] for result in RECORDED.values()}) == 1


def test_every_silent_error_on_record_has_its_report():
    scripts = {path.stem for path in REPORTS}
    assert set(conformance_sides.REPORTS) <= scripts
    for side, result in RECORDED.items():
        wrong = [case for case, v in result["values"].items() if v["kind"] == "wrong"]
        assert not (wrong and side.startswith("ours")), side
        for case in wrong:
            assert conformance_sides.report_of(side, case) in scripts, (side, case)


def test_the_groups_hold_every_case_once():
    names = [case.name for cases in GROUPS.values() for case in cases]
    assert names == [case.name for case in CASES]
