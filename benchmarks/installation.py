"""Which peers an ordinary user can install, and the source of learn2learn's MAML.

    python benchmarks/installation.py

`pip wheel --no-deps` of the newest version of each, from the package index, with the Python that
runs this. Where it fails, the line of the log that says why is kept. learn2learn does not build on
Python 3.11 or newer; then its source distribution is unpacked into `build/peers`, from where
`sides.py` reads the part that is pure Python. To `results/benchmarks/installation.json`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from sides import PEERS, UNPACKED

from metalearn_tut.files.provenance import write_result

RESULT = Path(__file__).parents[1] / "results" / "benchmarks" / "installation.json"


def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def reason(log: str) -> str:
    """The line that says best what went wrong, without the folders of this machine."""
    lines = [line.strip() for line in log.splitlines()]
    for kind in ("fatal error: ", r"\berror: (?!subprocess)", ""):
        if found := [line for line in lines if re.search(kind, line) and line]:
            return re.sub(r"(?<!\w)(/[\w.+-]+)+/", "", found[0])
    return "no reason given"


def built(name: str) -> dict[str, str | None]:
    """The version that was built, or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        run = pip("wheel", "--no-deps", "--wheel-dir", folder, name)
        wheels = [path.name.split("-")[1] for path in Path(folder).glob("*.whl")]
    if run.returncode or not wheels:
        return {"version": None, "error": reason(run.stdout + run.stderr)}
    return {"version": wheels[0], "error": None}


def unpack(name: str) -> None:
    """Put the source distribution where the other scripts look for it."""
    UNPACKED.mkdir(parents=True, exist_ok=True)
    pip("download", "--no-deps", "--no-binary", name, "--dest", str(UNPACKED), name)
    for path in UNPACKED.glob(f"{name}-*.tar.gz"):
        with tarfile.open(path) as archive:
            archive.extractall(UNPACKED, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    values = {}
    for name in PEERS:
        values[name] = built(name)
        print(f"{name}: {values[name]['version'] or values[name]['error']}", flush=True)
    if values["learn2learn"]["version"] is None:
        unpack("learn2learn")
    config = {"command": "python benchmarks/installation.py"}
    write_result(arguments.out, config=config, values=values)


if __name__ == "__main__":
    main()
