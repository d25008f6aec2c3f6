"""Pack onnxruntime-web for the page "Teach it five things": ``python tools/teach_it/runtime.py``.

Needs npm; nobody who builds the book runs it. A page opened from disk may not fetch, so the
WebAssembly, gzipped, and the module that drives it are put into a script as base64.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from metalearn_tut.files.cache import atomic_write

PACKAGE = "onnxruntime-web@1.30.0"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
PARTS = {"module": "ort.wasm.bundle.min.mjs", "wasm": "ort-wasm-simd-threaded.wasm"}
SHA256 = {  # of the parts
    "module": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
FILE = Path(__file__).parents[2] / "book/_extra/onnxruntime/onnxruntime.js"
WIDTH = 32_000  # characters of a line: some editors fail on longer ones


def packed(files: dict[str, bytes]) -> str:
    """The script that holds these files, each gzipped, as ``ONNXRUNTIME[name]``."""
    lines = [f"// {PACKAGE} (MIT License, see LICENSE), packed by tools/teach_it/runtime.py"]
    lines.append("window.ONNXRUNTIME = {")
    for name, data in files.items():
        text = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
        lines.append(f"{name}: `")
        lines += [text[i : i + WIDTH] for i in range(0, len(text), WIDTH)]
        lines.append("`,")
    return "\n".join([*lines, "};", ""])


def unpacked(script: str) -> dict[str, bytes]:
    """The files that such a script holds."""
    parts = script.split("`")
    names = [text.strip().strip(",").split("{")[-1].strip().rstrip(":") for text in parts[::2]]
    contents = [gzip.decompress(base64.b64decode(text)) for text in parts[1::2]]
    return dict(zip(names[:-1], contents, strict=True))


def download(folder: Path) -> Path:
    """The package as npm has it, or an error where it is not the one of this checksum."""
    command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
        raise SystemExit(f"{PACKAGE} has another checksum than SHA512 in {__file__}")
    return archive


def main() -> None:
    """Download the package, pack it, and write the script."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(download(Path(folder))) as archive:
        files = {n: archive.extractfile(f"package/dist/{f}").read() for n, f in PARTS.items()}
    with atomic_write(FILE) as temporary:
        temporary.write_text(packed(files), "utf-8")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
