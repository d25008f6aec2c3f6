"""The scripts of ``examples/`` as they stand: short, of public names, and each does its work."""

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
LINES = 15
ACCURACY = r"(0\.\d+|1\.0+) ± 0\.\d+ \("
# What each prints; a number in brackets is an accuracy, and the least that it has to be.
PRINTED = {
    "distil": (rf"{ACCURACY}.*\n1909 parameters", 0.3),
    "export_onnx": (r"Exported\(five.onnx: 114,\d+ bytes, .*\)\n(0\.\d+|1\.0)", 0.9),
    "federated_gates": (rf"(?:\d+ \d\.\d\d\n){{12}}{ACCURACY}", 0.25),
    "folder_of_pictures": (ACCURACY, 0.65),
    "noisy_tasks": (rf"mean .*\nrank {ACCURACY}", 0.65),
    "prune": (rf"0\.5 \d{{4}} bytes\n{ACCURACY}", 0.7),
    "side_by_side": (
        rf"anil .*\nReptile .*\nProtoNet {ACCURACY}.*\nProtoNet - anil: -?0\.\d+ ± 0\.\d+",
        0.5,
    ),
    "train_maml": (ACCURACY, 0.5),
    "vote_blocks": (r"9 blocks before, 6 after\n(0\.\d+|1\.0)", 0.3),
    "your_own_dataset": (ACCURACY, 0.55),
    "your_own_images": (r"()2 4 6 7 9", None),
    "your_own_loop": (rf"0 \d.*\n20 \d.*\n{ACCURACY}", 0.45),
    "your_own_network": (ACCURACY, 0.55),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_runs_and_does_what_it_says(script, capsys, monkeypatch, tmp_path):
    if script.stem == "export_onnx":
        pytest.importorskip("onnxscript", reason="the extra deploy is not installed")
        pytest.importorskip("onnxruntime", reason="the extra deploy is not installed")
    monkeypatch.chdir(tmp_path)  # where it writes
    monkeypatch.setattr(sys, "argv", [str(script), str(colored_squares(tmp_path / "pictures"))])
    torch.manual_seed(0)
    runpy.run_path(str(script), run_name="__main__")
    pattern, least = PRINTED[script.stem]
    found = re.fullmatch(f"{pattern}.*\n", capsys.readouterr().out)
    assert found and (least is None or float(found[1]) >= least), found


def colored_squares(root):
    """Fifteen classes of eight pictures, each class a color with some noise."""
    random = np.random.default_rng(0)
    for c in range(15):
        (root / f"color {c}").mkdir(parents=True)
        color = random.integers(60, 196, 3)
        for i in range(8):
            pixels = color + random.integers(-20, 21, (40, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"color {c}" / f"{i}.png")
    return root


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_is_short_and_says_what_it_does(script):
    text = script.read_text(encoding="utf-8")
    docstring = ast.parse(text).body[0]
    assert isinstance(docstring.value, ast.Constant) and isinstance(docstring.value.value, str)
    lines = text.splitlines()[docstring.end_lineno :]
    assert len([line for line in lines if line.strip()]) <= LINES


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_imports_public_names_alone(script):
    """From the package itself, or from a room what its ``__all__`` has."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Import) or "metalearn_tut" not in ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("metalearn_tut"):
            assert node.module.count(".") <= 1
            public = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(public)


def test_the_table_names_each_example_once():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\.py\]\(\1\.py\) \|", table, re.M)) == sorted(PRINTED)
    assert [script.stem for script in SCRIPTS] == sorted(PRINTED)
