"""The notebooks as Colab runs them: alone, but for the package's wheel, which a reader uploaded and
their first cell installs.

METALEARN_TUT_SLOW=1 runs them all, in a minute each, with another seed than the pages have, and
with METALEARN_TUT_RERUN=1 also from the last cell back to the first, as readers may. The
environment is a new one that borrows PyTorch, Matplotlib and Jupyter from this one, because
installing them takes longer than the notebooks do; everything else comes from the package index,
and our package as a built wheel.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import nbformat
import own_wheel
import pytest
import set_repository
from contract_code import code_cells
from nbformat.v4 import new_code_cell, new_notebook
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reruns import changed, there_and_back

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
FIRST_CELL = (ROOT / "book/first_cell.py").read_text("utf-8")
ON_COLAB = ("torch", "numpy", "matplotlib")  # there before us, and not to be touched
RERUN = os.environ.get("METALEARN_TUT_RERUN") == "1"
BORROWED = ("torch", "matplotlib", "ipykernel", "nbclient", "nbformat")

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

path = sys.argv[1]
notebook = nbformat.read(path, as_version=4)
try:
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
finally:
    nbformat.write(notebook, path)
"""
REPORT = f"""
import json
import sys
from importlib.metadata import version
import metalearn_tut
versions = {{name: version(name) for name in {ON_COLAB}}}
print(json.dumps([sys.prefix, metalearn_tut.__file__, versions]))
"""


def closure(names):
    """The distributions of these names, and all that they need here."""
    found, waiting = {}, list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found[name] = distribution(name)
        needs = [Requirement(line) for line in found[name].requires or ()]
        waiting += [r.name for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def borrow(folder):
    """Links to the packages that Colab has; pip cannot remove what lies outside its environment."""
    folder.mkdir()
    for found in closure(BORROWED).values():
        for top in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(found.locate_file(top))
    return folder


@pytest.fixture(scope="session")
def slow():
    if os.environ.get("METALEARN_TUT_SLOW") != "1":
        pytest.skip("takes minutes: set METALEARN_TUT_SLOW=1")


@pytest.fixture(scope="session")
def wheel(slow, tmp_path_factory):
    """Our package as the book brings it along."""
    return own_wheel.build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """Empty for the first notebook; the others find the glyphs that it has drawn, and no more."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def colab(wheel, home, tmp_path):
    """``colab(*arguments)`` runs a new environment's Python beside the uploaded wheel alone."""
    place = tmp_path / "environment"
    venv.create(place, with_pip=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(str(borrow(tmp_path / "borrowed")))
    (tmp_path / "empty").mkdir()
    shutil.copy(wheel, tmp_path / "empty")
    ours = ("METALEARN_TUT_", "PYTHON", "XDG_", "JUPYTER", "IPYTHON", "MPL")
    kept = {k: value for k, value in os.environ.items() if not k.startswith(ours)}
    kept |= {"HOME": str(home), "MPLBACKEND": "agg", "METALEARN_TUT_SEED": "1"}

    def run(*arguments):
        command = [place / "bin/python", *arguments]
        return subprocess.run(
            command, cwd=tmp_path / "empty", env=kept, capture_output=True, text=True
        )

    trial = tmp_path / "trial"
    asked = run("-m", "pip", "download", "--quiet", "--no-deps", "--dest", trial, "higher")
    if asked.returncode:
        pytest.skip(f"no package index: {asked.stderr.strip().splitlines()[-1]}")
    return run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_alone_after_installing_the_package(path, colab, tmp_path):
    assert colab("-c", "import metalearn_tut").returncode == 1
    assert colab("-c", "import higher").returncode == 1
    notebook = nbformat.read(path, as_version=4)
    notebook = there_and_back(notebook) if RERUN else new_notebook(cells=code_cells(notebook))
    notebook.cells.append(new_code_cell(REPORT))
    copy = tmp_path / "empty" / path.name
    nbformat.write(notebook, copy)
    ran = colab("-c", EXECUTE, copy)
    assert ran.returncode == 0, ran.stderr[-3000:]
    notebook = nbformat.read(copy, as_version=4)
    report = notebook.cells.pop()
    prefix, package, versions = json.loads(report.outputs[0].text)
    assert prefix == str(tmp_path / "environment") and package.startswith(prefix)
    assert versions == {name: distribution(name).version for name in ON_COLAB}
    outputs = [
        out for cell in notebook.cells for out in cell.outputs if out.get("name") == "stderr"
    ]
    warned = {out.text.strip() for out in outputs if "drawing glyphs (first use" not in out.text}
    assert warned <= {""}  # a progress bar ends by wiping its line
    assert not RERUN or changed(notebook) == set()


# The first cell alone, with a Python that has no packages at all


HOSTED = FIRST_CELL.replace(set_repository.NOBODY, "somebody")


def first_cell(folder, before="", code=FIRST_CELL, **environment):
    command = [sys.executable, "-S", "-c", f"{before}\n{code}"]
    kept = {k: v for k, v in os.environ.items() if k not in ("METALEARN_TUT_WHEEL", "PYTHONPATH")}
    kept |= environment
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True)


def test_without_the_package_the_first_cell_says_what_to_do(tmp_path):
    last = first_cell(tmp_path, code=HOSTED).stderr.strip().splitlines()[-1]
    address = r"git\+https://github\.com/somebody/metalearn-tut@v[\d.]+"
    assert re.fullmatch(rf"ModuleNotFoundError: run this first: pip install {address}", last)


@pytest.mark.parametrize("on_colab", [False, True])
def test_nothing_is_installed_from_an_address_that_is_nobodys(tmp_path, on_colab):
    """Whoever owned it could run code in every reader's notebook."""
    assert "_" in set_repository.NOBODY  # which no name on GitHub has
    before = f"{RECORDED}sys.modules['google.colab'] = sys" if on_colab else RECORDED
    ran = first_cell(tmp_path, before, code=HOSTED.replace("somebody", set_repository.NOBODY))
    assert ran.stdout == "" and ran.returncode == 1
    assert ran.stderr.strip().splitlines()[-1] == (
        'ModuleNotFoundError: install the wheel of the page "Install"; on Colab upload it here'
    )


RECORDED = """
import subprocess, sys
subprocess.run = lambda command, check: print(*command[4:])
"""


@pytest.mark.parametrize("given", ["address", "variable", "uploaded"])
def test_on_colab_the_first_cell_installs_the_package_and_leaves_torch_alone(given, tmp_path):
    before, environment = f"{RECORDED}sys.modules['google.colab'] = sys", {}
    package = f"git+https://github.com/somebody/metalearn-tut@v{own_wheel.version()}"
    if given == "variable":
        package = environment["METALEARN_TUT_WHEEL"] = "/x/y.whl"
    if given == "uploaded":
        package = own_wheel.name()
        (tmp_path / package).touch()
    lines = first_cell(tmp_path, before, HOSTED, **environment).stdout.splitlines()
    assert lines[0] == f"--quiet --no-deps {package} higher"
    assert not set(" ".join(lines).split()) & set(ON_COLAB)


def test_the_wheel_is_the_same_each_time_and_holds_the_whole_package(tmp_path):
    first, second = (own_wheel.build(tmp_path / name) for name in ("a", "b"))
    assert first.name == second.name == own_wheel.name()
    assert own_wheel.checksum(first) == own_wheel.checksum(second)
    with zipfile.ZipFile(first) as file:
        inside = {name for name in file.namelist() if name.startswith("metalearn_tut/")}
    package = [p for p in (ROOT / "metalearn_tut").rglob("*") if p.is_file()]
    there = {p.relative_to(ROOT).as_posix() for p in package if p.suffix != ".pyc"}
    assert inside == there
