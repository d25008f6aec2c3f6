"""The command line with a reader's own pictures, from the folder to a learner that is measured."""

import json

import numpy as np
import pytest
from PIL import Image

from metalearn_tut.cli.program import run

pytestmark = pytest.mark.usefixtures("own_cache", "no_real_data")

NAMES = ["ash", "birch", "céd", "дуб", "elm", "fir", "γλ", "haw", "ivy", "松"]
LIGHT = {name: 20 * c + 20 for c, name in enumerate(NAMES)}


@pytest.fixture
def root(tmp_path):
    """Ten classes that are told apart by their light, and one that has too few pictures."""
    for name, light in {**LIGHT, "rare": 0}.items():
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(2 if name == "rare" else 8):
            picture = np.full((20 + i, 30), light, np.uint8)
            Image.fromarray(picture).convert("RGBA").save(tmp_path / "mine" / name / f"{i}.png")
    return tmp_path / "mine"


def answered(capsys, *arguments):
    code = run([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.filterwarnings("ignore:mine. left out 1 of 11 classes.*'rare' has 2")
def test_pictures_are_found_trained_on_and_measured(root, tmp_path, capsys):
    code, out, _ = answered(capsys, "data", "image_folder", "--root", root)
    assert code == 0 and out.splitlines()[0].startswith("train: ClassSource(mine (train): 7 cl")
    out = tmp_path / "run"
    training = ["--ways", 2, "--queries", 5, "--steps", 2, "--width", 4, "--validation-tasks", 2]
    data = ["--data", "image_folder", "--root", root, "--size", 16, "--min-images", 6]
    code, said, err = answered(capsys, "train", *data, *training, "--zero-head", "--out", out)
    assert code == 0 and "best.safetensors" in said, err
    result = tmp_path / "result.json"
    measuring = ["--tasks", 4, "--queries", 5, "--norm", "batch", "--json", result]
    code, said, err = answered(capsys, "evaluate", out, "--root", root, *measuring)
    assert code == 0 and "mine (test), 2-way 1-shot" in said, err
    trained = json.loads(result.read_text())["config"]["trained"]
    assert trained["data"] == {"name": "image_folder", "size": 16, "min_images": 6}
    assert trained["model"]["in_channels"] == 3 and trained["model"]["image_size"] == 16


def test_what_is_missing_is_said_in_a_line(root, tmp_path, capsys):
    out = ["--out", tmp_path / "run"]
    for arguments, message in (
        (["data", "image_folder"], "image_folder needs --root: the folder of your pictures"),
        (["train", "--data", "image_folder", *out], "image_folder needs root (--root)"),
        (["train", "--size", 16, *out], "--size 16: only image_folder has it, not glyphs"),
        (["train", "--min-images", 3, *out], "--min-images 3: only image_folder has it"),
        (["data", "image_folder", "--root", tmp_path / "no"], "there is no such folder"),
        (
            ["train", "--data", "image_folder", "--root", root, "--ways", 2, *out],
            "images per class, but class",
        ),
    ):
        code, _, err = answered(capsys, *arguments)
        last = err.splitlines()[-1]  # after the progress of decoding
        assert code == 2 and last.startswith("metalearn-tut: ") and message in last
    assert not (tmp_path / "run").exists()
