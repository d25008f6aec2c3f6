"""Imports go down, never up."""

from pathlib import Path

import floors
import pytest

ROOT = Path(__file__).parents[2]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return root


def test_no_module_of_the_package_imports_a_floor_above_it():
    assert floors.climbs(floors.import_edges(ROOT / floors.PACKAGE)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import metalearn_tut.learners.maml",
        "from metalearn_tut import learners",
        "from metalearn_tut.learners.maml import MAML",
        "from ..learners import MAML",
        "from .. import learners",
        "def later():\n    from metalearn_tut.learners.maml import MAML",
    ],
)
def test_a_climbing_import_is_found_however_it_is_written(tmp_path, source):
    root = write(tmp_path, {"__init__.py": "", "tasks/__init__.py": "", "tasks/task.py": source})
    assert floors.climbs(floors.import_edges(root)) == [
        "tasks (floor 2) imports learners (floor 4)"
    ]


def test_imports_downwards_within_a_floor_and_of_others_are_free(tmp_path):
    source = (
        "import torch\nfrom metalearn_tut import evaluation, tasks\nfrom ..bilevel import adapt"
    )
    root = write(tmp_path, {"training/loop.py": source})
    edges = floors.import_edges(root)
    assert edges == {"training": {"evaluation", "tasks", "bilevel"}}
    assert floors.climbs(edges) == []
    assert floors.picture(edges) == "floor 6  training      imports bilevel, evaluation, tasks"


def test_a_module_without_a_floor_is_named(tmp_path):
    root = write(tmp_path, {"__init__.py": "from metalearn_tut import cli", "attic.py": ""})
    assert floors.climbs(floors.import_edges(root)) == [
        "attic stands on no floor: add it to FLOORS"
    ]
