# Setup: on Colab, install the book's package; elsewhere it is already there.
# Has the project no address yet? Upload its wheel (page "Install") to Colab.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("metalearn_tut") is None:
    address = "git+https://github.com/YOUR_ACCOUNT/metalearn-tut@v0.2.0"
    uploaded = map(str, sorted(Path().glob("metalearn_tut-*.whl")))
    wheel = os.environ.get("METALEARN_TUT_WHEEL") or next(uploaded, None)
    if wheel is None and address.startswith("git+https://github.com/YOUR_"):
        raise ModuleNotFoundError(
            'install the wheel of the page "Install"; on Colab upload it here'
        )
    if wheel is None and "google.colab" not in sys.modules:
        raise ModuleNotFoundError(f"run this first: pip install {address}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    given = wheel or address
    subprocess.run([*pip, "--no-deps", given, "higher"], check=True)
    # Only what is missing; torch, numpy and matplotlib are never touched.
    small = ["pillow", "platformdirs", "pooch", "requests", "safetensors"]
    subprocess.run([*pip, *small, "tqdm", "typer"], check=True)
    importlib.invalidate_caches()
