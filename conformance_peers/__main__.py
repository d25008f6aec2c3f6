"""The conformance suite on the package's engines and on what one would take instead.

    python conformance_peers install        # the peers, each into its own folder of build/
    python conformance_peers [SIDE ...]     # judge, into results/conformance/

Each side runs in a process of its own that sees PyTorch and this package as they are installed
here, and beside them the peer's folder alone. learn2learn does not build on Python 3.11 or newer;
its source distribution is unpacked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "build" / "conformance"
RESULTS = ROOT / "results" / "conformance"
INSTALLED = {  # without dependencies: PyTorch is here, and theirs would be another one
    "torchopt": ("torchopt", "optree", "graphviz"),
    "parallel_metalearn": ("parallel-metalearn",),
    "iteryne": ("iteryne",),
}
UNPACKED = ("learn2learn",)
OURS = "metalearn_tut.conformance.ours"
SIDES = {  # name of the result -> function, and the folder that it needs
    "ours_functional": (f"{OURS}:functional", None),
    "ours_recomputed": (f"{OURS}:recomputed", None),
    "ours_vectorised": (f"{OURS}:vectorised", None),
    "ours_higher": (f"{OURS}:higher", None),
    "ours_implicit": (f"{OURS}:implicit", None),
    "higher": ("by_higher:meta_gradient", None),
    "learn2learn": ("by_learn2learn:meta_gradient", "learn2learn"),
    "torchopt": ("by_torchopt:meta_gradient", "torchopt"),
    "torch_func_loop": ("by_torch_func:loop", None),
    "torch_func_vmap": ("by_torch_func:vmapped", None),
    "parallel_metalearn_vmap": ("by_parallel_metalearn:vmapped", "parallel_metalearn"),
    "parallel_metalearn_sequential": ("by_parallel_metalearn:sequential", "parallel_metalearn"),
    "iteryne": ("by_iteryne:meta_gradient", "iteryne"),
}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def install() -> None:
    """Every peer into an empty folder of its own, the newest version."""
    shutil.rmtree(FOLDERS, ignore_errors=True)
    for folder, packages in INSTALLED.items():
        pip("install", "--no-deps", "--target", str(FOLDERS / folder), *packages)
    for name in UNPACKED:
        downloaded = FOLDERS / "downloaded"
        pip("download", "--no-deps", "--no-binary", name, "--dest", str(downloaded), name)
        for path in downloaded.glob(f"{name}-*.tar.gz"):
            with tarfile.open(path) as archive:
                archive.extractall(downloaded, filter="data")
            shutil.move(path.with_suffix("").with_suffix(""), FOLDERS / name)


def judge(side: str) -> None:
    function, folder = SIDES[side]
    places = [ROOT, Path(__file__).parent, *([FOLDERS / folder] if folder else [])]
    if folder and not (FOLDERS / folder).is_dir():
        raise SystemExit(f"{folder} is not in {FOLDERS}: python conformance_peers install")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, "-m", "metalearn_tut.conformance", function]
    command += ["--save", str(RESULTS / f"{side}.json")]
    print(f"== {side}", flush=True)
    subprocess.run(command, env=environment, check=False)  # 1 says that something is wrong


def main() -> None:
    asked = sys.argv[1:]
    if asked == ["install"]:
        return install()
    if unknown := sorted(set(asked) - set(SIDES)):
        raise SystemExit(f"no side is called {unknown[0]}: there are install, {', '.join(SIDES)}")
    for side in asked or SIDES:
        judge(side)
    return None


if __name__ == "__main__":
    main()
