"""The files of a release, made from pages by hand: they are tried, and faults are named."""

import tarfile
import zipfile

import dist
import own_wheel
import pytest
import yaml

ROOT = own_wheel.ROOT
NAMED = f"metalearn-tut-{own_wheel.version()}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pages and notebooks, and the wheel and source made once."""
    place = tmp_path_factory.mktemp("release")
    for name in ("index.html", "teach_it.html", "teach/index.html", f"wheel/{own_wheel.name()}"):
        (place / "html" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "html" / name).write_text("hello")
    (place / "html/.checked").touch()
    (place / "notebooks").mkdir()
    (place / "notebooks/01.ipynb").write_text("{}")
    (place / "notebooks/01.compares.jsonl").touch()
    dist.main(place / "html", place / "notebooks", place / "dist")
    return place


def test_a_release_has_five_files_and_their_sums(place):
    files = {path.name for path in (place / "dist").iterdir()}
    source = f"metalearn_tut-{own_wheel.version()}.tar.gz"
    zips = {f"{NAMED}-book.zip", f"{NAMED}-notebooks.zip"}
    assert files == {own_wheel.name(), source, *zips, "SHA256SUMS"}
    for line in (place / "dist/SHA256SUMS").read_text().splitlines():
        checksum, name = line.split("  ")
        assert own_wheel.checksum(place / "dist" / name) == checksum
    with zipfile.ZipFile(place / f"dist/{NAMED}-book.zip") as archive:
        assert f"{NAMED}-book/index.html" in archive.namelist()
        assert not any(".checked" in name for name in archive.namelist())
    with zipfile.ZipFile(place / f"dist/{NAMED}-notebooks.zip") as archive:
        assert archive.namelist() == [f"{NAMED}-notebooks/01.ipynb"]
    with tarfile.open(place / "dist" / source) as archive:
        names = archive.getnames()
    for name in ("LICENSE", "LICENSE-TEXT", "LICENSE-DATA", "metalearn_tut/__main__.py"):
        assert f"metalearn_tut-{own_wheel.version()}/{name}" in names


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("teach/index.html", None, "teach/index.html is missing"),
        (f"wheel/{own_wheel.name()}", None, f"wheel/{own_wheel.name()} is missing"),
        ("index.html", f"<p>{ROOT}/book", f"index.html names the folder {ROOT}"),
    ],
)
def test_a_book_that_is_not_whole_is_refused(place, tmp_path, name, text, sentence):
    files = dist.pages(place / "html", f"{NAMED}-book")
    if text is None:
        del files[f"{NAMED}-book/{name}"]
    else:
        (tmp_path / "page").write_text(text)
        files[f"{NAMED}-book/{name}"] = tmp_path / "page"
    found = list(dist.broken(dist.zipped(tmp_path / f"{NAMED}-book.zip", files)))
    assert len(found) == 1 and found[0].endswith(sentence)


def test_a_wheel_without_its_data_is_refused(place, tmp_path):
    with (
        zipfile.ZipFile(place / "dist" / own_wheel.name()) as whole,
        zipfile.ZipFile(tmp_path / own_wheel.name(), "w") as part,
    ):
        for info in whole.infolist():
            if not info.filename.endswith("emoji/index.json"):
                part.writestr(info, whole.read(info))
    (said,) = dist.unused(tmp_path / own_wheel.name(), tmp_path / "place")
    assert own_wheel.name() in said
    assert list(dist.differing(place / "dist" / own_wheel.name(), tmp_path / own_wheel.name())) == [
        "the source gives another metalearn_tut/tasks/emoji/index.json"
    ]


# What the host's machines do: checked here as far as it can be

WORKFLOWS = {p.stem: yaml.safe_load(p.read_text()) for p in ROOT.glob(".github/workflows/*.yml")}


def test_the_workflows_run_what_a_reader_runs():
    assert set(WORKFLOWS) == {"tests", "book", "release"}
    commands = {
        name: [
            step["run"] for job in flow["jobs"].values() for step in job["steps"] if "run" in step
        ]
        for name, flow in WORKFLOWS.items()
    }
    index = "TORCH_INDEX=https://download.pytorch.org/whl/cpu"
    assert commands["tests"] == [f"make test {index}"]
    assert commands["book"] == [f"make book {index}"]
    assert f"make dist {index}" in commands["release"]
    matrix = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix == {"python": ["3.10", "3.11", "3.12", "3.13"]}


def test_what_may_write_is_only_what_publishes():
    for flow in WORKFLOWS.values():
        assert flow["permissions"] == {"contents": "read"}
    own = {
        n: {j: of.get("permissions") for j, of in f["jobs"].items()} for n, f in WORKFLOWS.items()
    }
    assert own == {
        "tests": {"tests": None},
        "book": {"build": None, "publish": {"pages": "write", "id-token": "write"}},
        "release": {"release": {"contents": "write"}},
    }
