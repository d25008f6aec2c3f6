"""The programs of ``examples/on_device/``: each learns stripes from one file, without PyTorch."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from metalearn_tut import pretrained

PROGRAMS = Path(__file__).parents[2] / "examples" / "on_device"
ALONE = """
import runpy, sys
sys.modules["torch"] = sys.modules["metalearn_tut"] = None  # an import of either fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_programs_are_short():
    assert all(len(file.read_text().splitlines()) <= 60 for file in PROGRAMS.glob("learn.*"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("the extra deploy is not installed")
    from metalearn_tut.deployment import export_learner

    learner = pretrained.load("glyphs_5way_1shot")
    path = tmp_path_factory.mktemp("file") / "learns.onnx"
    return export_learner(learner, path, (1, 28, 28)).paths[0]


def printed(*command):
    run = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def is_right(lines):
    """Five rows: the class, which is that of the stripes, and five logits."""
    rows = [line.split() for line in lines.splitlines()]
    assert [row[0] for row in rows] == list("01234")
    assert all(len(row) == 6 and re.fullmatch(r"-?\d+\.\d{3}", row[1]) for row in rows)


@pytest.mark.slow
def test_the_python_program_needs_no_pytorch(file):
    is_right(printed(sys.executable, "-c", ALONE, PROGRAMS / "learn.py", file))


@pytest.mark.slow
def test_the_python_program_runs_where_pytorch_is_not_installed(file, tmp_path):
    python = tmp_path / "fresh" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "fresh"], check=True)
    install = [python, "-m", "pip", "install", "-q", "onnxruntime"]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip("onnxruntime cannot be installed here")
    bare = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert bare.returncode
    is_right(printed(python, PROGRAMS / "learn.py", file))


@pytest.mark.slow
def test_the_c_program_learns_where_its_headers_are(file, tmp_path):
    """``ONNXRUNTIME_HEADERS`` and ``ONNXRUNTIME_LIBRARY`` say where, if not where g++ looks."""
    headers, library = (os.environ.get(f"ONNXRUNTIME_{n}") for n in ("HEADERS", "LIBRARY"))
    if not headers or not library or shutil.which("g++") is None:
        pytest.skip("ONNXRUNTIME_HEADERS and ONNXRUNTIME_LIBRARY are not set")
    program = tmp_path / "learn"
    linked = [library, f"-Wl,-rpath,{Path(library).parent}", "-o", program]
    printed("g++", "-std=c++17", f"-I{headers}", PROGRAMS / "learn.cpp", *linked)
    is_right(printed(program, file))
