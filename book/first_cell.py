# Setup: on Colab, install the book's package; elsewhere it is already there.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("metalearn_tut") is None:
    address = "git+https://github.com/metalearn-tut/metalearn-tut@v0.1.0"
    package = os.environ.get("METALEARN_TUT_WHEEL", address)  # a built wheel
    if package == address and "google.colab" not in sys.modules:
        raise ModuleNotFoundError(f"run this first: pip install {address}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", package, "higher"], check=True)
    # Only what is missing; torch, numpy and matplotlib are never touched.
    small = ["pillow", "platformdirs", "pooch", "requests", "safetensors"]
    subprocess.run([*pip, *small, "tqdm", "typer"], check=True)
    importlib.invalidate_caches()
