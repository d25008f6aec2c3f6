# Setup: on Colab this cell installs the book's package; where it is installed, nothing happens.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("metalearn_tut") is None:
    address = "git+https://github.com/metalearn-tut/metalearn-tut@v0.1.0"
    package = os.environ.get("METALEARN_TUT_WHEEL", address)  # or a wheel built from the sources
    if package == address and "google.colab" not in sys.modules:
        raise ModuleNotFoundError(f"Install the book's package first: pip install {address}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    small = ["pillow", "platformdirs", "pooch", "safetensors", "tqdm", "typer"]
    subprocess.run([*pip, "--no-deps", package, "higher"], check=True)  # torch, numpy stay as is
    subprocess.run([*pip, *small], check=True)  # only what is missing
    importlib.invalidate_caches()
