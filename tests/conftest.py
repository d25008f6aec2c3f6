"""One thread per process: two workers on two cores, and no thread contention."""

import os
from pathlib import Path
from types import ModuleType

import pytest
import slow
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# A process that a test starts finds the cases where the test does.
CASES = str(Path(__file__).with_name("cases"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [CASES, os.environ.get("PYTHONPATH")]))
# Neither an example nor a strategy has a time limit: what is slow here may be quick elsewhere.
settings.register_profile(
    "no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("no clock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked slow is left to ``make test-all``."""
    if os.environ.get("METALEARN_TUT_SLOW") != "1":
        for item in slow.left_out(items):
            item.add_marker(pytest.mark.skip(reason="slow: make test-all, or METALEARN_TUT_SLOW=1"))


@pytest.fixture
def nbclient() -> ModuleType:
    """What executes notebooks, or skip with the reason."""
    return pytest.importorskip("nbclient", reason="the extra book is not installed")


@pytest.fixture
def data_root() -> Path:
    """The folder of real data sets, or skip with the reason."""
    folder = os.environ.get("METALEARN_TUT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data: set METALEARN_TUT_DATA to the folder that holds it")
    return Path(folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with nothing in it."""
    monkeypatch.setenv("METALEARN_TUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has no real data sets."""
    monkeypatch.delenv("METALEARN_TUT_DATA", raising=False)
