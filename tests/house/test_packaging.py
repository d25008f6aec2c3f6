"""The files around the package agree with each other."""

import hashlib
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import install_page
import own_wheel
import pytest
import set_repository
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    Requirement(line) for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines
]
CONSTRAINTS = [
    Requirement(line)
    for line in read("constraints.txt").splitlines()
    if line and not line.startswith("#")
]


def pins(name: str, python: str) -> list[str]:
    """The versions that constraints.txt allows for ``name`` on Linux with this Python."""
    setting = {"python_version": python, "python_full_version": f"{python}.9"}
    setting |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    return [
        next(iter(pin.specifier)).version
        for pin in CONSTRAINTS
        if canonicalize_name(pin.name) == canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate(setting))
    ]


def test_the_extras_are_those_the_readme_and_makefile_speak_of():
    assert set(EXTRAS) == {"book", "test", "federated", "bench", "deploy"}
    assert PROJECT["requires-python"] == ">=3.10"


def test_metadata_has_lower_bounds_only():
    for requirement in REQUIREMENTS:
        kinds = sorted(spec.operator for spec in requirement.specifier)
        allowed = ["<", ">="] if requirement.name == "jupyter-book" else [">="]
        assert kinds == allowed, str(requirement)
    book = next(r for r in REQUIREMENTS if r.name == "jupyter-book")
    assert book.specifier.contains("1.9") and not book.specifier.contains("2.0")


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_has_exactly_one_pin_within_its_bounds(python):
    for requirement in REQUIREMENTS:
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        found = pins(requirement.name, python)
        assert len(found) == 1, f"{requirement.name} on Python {python}: {found}"
        assert requirement.specifier.contains(found[0]), f"{requirement}: pinned to {found[0]}"


def test_constraints_are_exact_pins():
    assert CONSTRAINTS
    for pin in CONSTRAINTS:
        assert [spec.operator for spec in pin.specifier] == ["=="], str(pin)
        assert "*" not in str(pin.specifier), str(pin)


def test_the_installed_jupyter_book_reads_our_configuration():
    pytest.importorskip("jupyter_book", reason="the extra book is not installed")
    assert version("jupyter-book").startswith("1.")


def test_the_conda_environment_installs_the_same_pins():
    environment = yaml.safe_load(read("environment.yml"))
    python, pip, section = environment["dependencies"]
    assert python in {f"python={minor}" for minor in PYTHONS}
    assert pip == "pip"
    assert section == {"pip": ["-c constraints.txt", "-e .[book,test,deploy,federated]"]}


def test_the_page_shows_the_versions_that_are_pinned_and_required():
    row = re.compile(r"^\| (\w[\w-]*) \| (\d\S* \| \d[^|]*) \|$", re.MULTILINE)
    rows = dict(row.findall(install_page.versions()))
    assert len(rows) >= 6
    bounds = {r.name: r for r in REQUIREMENTS}
    tested_python, least = rows.pop("Python").split(" | ")
    assert PROJECT["requires-python"] == f">={least}"
    for name, row in rows.items():
        tested, least = row.split(" | ")
        assert [tested] == pins(name, tested_python)
        lower = [s.version for s in bounds[name].specifier if s.operator == ">="]
        assert [least.split(",")[0]] == lower


def test_the_page_links_to_the_wheel_with_its_checksum(tmp_path, monkeypatch):
    monkeypatch.setattr(install_page, "FOLDER", tmp_path)
    assert "`make book` puts" in install_page.brought()
    (tmp_path / own_wheel.name()).write_bytes(b"a wheel")
    said = install_page.brought()
    assert f'href="wheel/{own_wheel.name()}"' in said
    assert hashlib.sha256(b"a wheel").hexdigest() in said


def test_the_version_stands_the_same_everywhere():
    import metalearn_tut

    number = PROJECT["version"]
    assert metalearn_tut.__version__ == number
    assert yaml.safe_load(read("CITATION.cff"))["version"] == number
    assert f"@v{number}" in read("book/first_cell.py")
    assert f"\n## {number}" in read("CHANGELOG.md")


def test_every_data_file_of_the_package_is_packed():
    tool = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]
    package = ROOT / "metalearn_tut"
    packed = {path for glob in tool["package-data"]["metalearn_tut"] for path in package.glob(glob)}
    data = {
        path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert data <= packed


def test_the_first_cell_installs_every_dependency():
    source = read("book/first_cell.py")
    present = {"torch", "numpy", "matplotlib"}  # on Colab, and not to be touched
    for line in PROJECT["dependencies"]:
        name = Requirement(line).name
        assert (f'"{name}"' in source) == (name not in present), name


REPOSITORY_FILES = ["README.md", "_config.yml", "CITATION.cff", "book/first_cell.py"]


def test_one_repository_address():
    address = PROJECT["urls"]["Repository"]
    assert set_repository.current(ROOT) == address
    named = set_repository.occurrences(ROOT, set_repository.slug_of(address))
    notebooks = [path for path in (ROOT / "book").glob("*.ipynb")]
    for path in [ROOT / name for name in REPOSITORY_FILES] + notebooks:
        assert path in named, f"{path} does not name {address}"
    assert yaml.safe_load(read("_config.yml"))["repository"]["url"] == address
    assert yaml.safe_load(read("CITATION.cff"))["repository-code"] == address


def test_the_project_moves_with_one_command(tmp_path):
    for name in ("pyproject.toml", *REPOSITORY_FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    old = set_repository.slug_of(set_repository.current(ROOT))
    before = set_repository.occurrences(tmp_path, old)
    set_repository.move(tmp_path, "https://github.com/someone/else.where")
    after = set_repository.occurrences(tmp_path, "someone/else.where")
    assert set_repository.occurrences(tmp_path, old) == {}
    assert after == before and len(after) == 5
    assert old not in (tmp_path / "README.md").read_text()
    set_repository.move(tmp_path, f"https://github.com/{old}")
    for name in ("pyproject.toml", *REPOSITORY_FILES):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def test_until_somebody_hosts_it_the_address_is_nobodys():
    """No name on GitHub has an underscore, so that nobody can register it and serve code."""
    slug = set_repository.slug_of(set_repository.current(ROOT))
    owner = slug.split("/")[0]
    assert owner == set_repository.NOBODY or re.fullmatch(r"[A-Za-z\d]+(-[A-Za-z\d]+)*", owner)
    assert set_repository.site(slug) in read("README.md")
    said = "Whoever hosts it sets the address once: `python tools/set_repository.py"
    assert owner != set_repository.NOBODY or said in " ".join(read("README.md").split())


def test_no_page_or_program_knows_the_project_by_another_owner():
    """Whoever owns such a name could serve code to those who follow the link."""
    name = set_repository.slug_of(set_repository.current(ROOT)).split("/")[1]
    named = re.compile(rf"{set_repository.HOSTS}([\w-]+/{re.escape(name)})(?![\w-])")
    folders = ("book", "conformance_peers", "examples", "metalearn_tut", "tools")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    texts = [path for path in paths if path.suffix in (".html", ".ipynb", ".js", ".md", ".py")]
    slugs = {slug for path in texts for _, slug in named.findall(path.read_text("utf-8"))}
    assert slugs == {set_repository.slug_of(set_repository.current(ROOT))}


def test_an_address_of_another_form_is_refused():
    with pytest.raises(SystemExit, match=r"https://github.com/OWNER/NAME, got 'someone/else'"):
        set_repository.slug_of("someone/else")
