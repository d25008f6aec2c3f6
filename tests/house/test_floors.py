"""The package is built as its picture shows: imports go down, and rooms stay small."""

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


PACKAGE = ROOT / floors.PACKAGE
EDGES = floors.import_edges(PACKAGE)


def test_no_module_of_the_package_imports_a_floor_above_it():
    assert floors.climbs(EDGES) == []


def test_no_two_rooms_of_the_package_import_each_other():
    assert floors.circles(EDGES) == []


def test_no_folder_of_the_package_is_a_hallway():
    assert floors.full_folders(PACKAGE) == []


def test_no_file_of_the_package_is_too_long():
    assert floors.long_files(PACKAGE) == []


def test_the_page_shows_what_the_imports_are():
    page = floors.PAGE.read_text("utf-8")
    assert floors.drawn(page, EDGES, PACKAGE) == page, "python tools/floors.py --page"
    assert floors.drawn(page, {**EDGES, "nb": {"files"}}, PACKAGE) != page


def test_every_room_says_on_which_floor_it_stands():
    rooms = {path.parent.name: path for path in PACKAGE.glob("*/__init__.py")}
    rooms |= {path.stem: path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    assert len(rooms) > 20
    for room, path in rooms.items():
        start = f'"""Floor {floors.FLOOR_OF[room]}: '
        assert path.read_text("utf-8").startswith(start), f"{room} begins with {start}"


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


@pytest.mark.parametrize(
    ("imports", "found"),
    [
        ({"gating": {"saliency"}, "saliency": {"bilevel"}}, []),
        ({"gating": {"saliency"}, "saliency": {"gating"}}, ["gating and saliency"]),
        (
            {"gating": {"saliency"}, "saliency": {"distillation"}, "distillation": {"gating"}},
            ["distillation and gating", "distillation and saliency", "gating and saliency"],
        ),
    ],
)
def test_a_circle_of_imports_is_found(imports, found):
    assert floors.circles(imports) == [f"{pair} import each other" for pair in found]


def test_what_is_too_large_is_named(tmp_path):
    files = {f"tasks/file_{i:02}.py": "" for i in range(12)}
    files |= {"__init__.py": "", "__main__.py": "", "py.typed": "", "tasks/__init__.py": ""}
    files |= {f"{name}.py": "" for name in "abcd"} | {"a.py": "pass\n" * 301}
    root = write(tmp_path, files)
    assert floors.long_files(root) == ["a.py has 301 lines, more than 300"]
    assert floors.full_folders(root) == [
        "tasks has 13 files, more than 12",
        "4 modules at the root, more than 3: a.py, b.py, c.py, d.py",
    ]
    (root / "a.py").write_text("pass\n" * 300)
    (root / "b.py").unlink()
    (root / "tasks/__init__.py").unlink()
    assert floors.long_files(root) == floors.full_folders(root) == []


def test_a_room_is_described_by_its_own_first_sentence(tmp_path):
    root = write(
        tmp_path,
        {
            "tasks/__init__.py": '"""Floor 2: ``Task``\nand :class:`Pool`.\n\nMore."""',
            "checks.py": '"""What is asked."""',
        },
    )
    edges = {"tasks": {"checks"}, "checks": set()}
    assert floors.table(edges, root).splitlines()[2:] == [
        "| 2 | [tasks](api/tasks.md) | `Task` and `Pool` | checks |",
        "| 1 | [checks](api/checks.md) | what is asked | nothing of ours |",
    ]
