"""CIFAR-10: 60,000 colour images of ten classes, for pruning and federated learning.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009);
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metalearn_tut.files.download import download as fetch
from metalearn_tut.tasks import files
from metalearn_tut.tasks.source import LabelledImages, check_split

CLASSES = tuple(
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
)
_ARCHIVE, _FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
_OFFICIAL = (
    _ARCHIVE,
    _FOLDER,
    f"{_FOLDER}.tar.gz",
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin",
)
_RECORD = 1 + 3 * 32 * 32  # bytes of a label and its image
_URL = f"https://www.cs.toronto.edu/~kriz/{_ARCHIVE}"
_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def cifar10(
    split: str, root: str | os.PathLike[str] | None = None, download: bool = False
) -> LabelledImages:
    """CIFAR-10 as plain arrays: ``images uint8 [M, 3, 32, 32]``, ``labels int64 [M]``.

    Images come in rounds of one per class, in file order within a class, whatever the
    files look like; so the first k·10 images are k of each class. "validation" is the last
    tenth of the training rounds (500 images per class), "train" the first nine tenths
    (45,000 images), "test" the official test set. What was decoded is kept in the cache
    folder.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    root : path, optional
        Folder of ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, of what is unpacked
        from it (``cifar-10-batches-py``, as torchvision leaves it, or ``cifar-10-batches-bin``;
        also this folder itself), or of ``train`` and ``test`` with a zip, tar or folder of images
        for each class, called by its name or number, such as ``train/cat.zip`` or ``train/3``.
        Of the official pickles nothing is run: what is more than an array is refused. Default:
        the folder (or its subfolder ``cifar10``) that ``METALEARN_TUT_DATA`` names, then the
        cache folder.
    download : bool, default False
        Fetch a missing archive (170 MB) into ``root``, or the cache folder.

    Raises
    ------
    FileNotFoundError
        If the files are absent; the message says where they were looked for.
    ValueError
        If a file is damaged or not what it should be.
    """
    check_split(split)
    part = "test" if split == "test" else "train"
    paths = _locate(part, root, download)
    build = _from_batches if len(paths) == 1 else _from_classes
    name = f"cifar10-{part}-{files.fingerprint(paths)}"
    arrays = files.cached_arrays(name, lambda: build(paths, part))
    images, labels = arrays["images"], arrays["labels"]
    if part == "train":
        rounds = len(labels) // len(CLASSES)
        cut = (rounds - rounds // 10) * len(CLASSES)
        chosen = slice(cut) if split == "train" else slice(cut, None)
        images, labels = images[chosen], labels[chosen]
    return LabelledImages(images, labels, CLASSES)


def _locate(part: str, root: str | os.PathLike[str] | None, download: bool) -> list[Path]:
    """The official archive or folder, or ten archives or folders of images."""
    folders = files.data_folders("cifar10", root)
    for folder in folders:
        if official := files.find(_OFFICIAL, [folder]):
            return [official]
        if files.find([_BATCHES[part][0] + end for end in ("", ".bin")], [folder]):
            return [folder]
        for names in (CLASSES, map(str, range(len(CLASSES)))):
            found = [files.find_images(name, [folder / part]) for name in names]
            if all(found):
                return found
    if download:
        return [fetch(_URL, _SHA256, files.download_folder("cifar10", root))]
    raise files.absent(
        "cifar10",
        f"{_ARCHIVE}, {_FOLDER} or an archive of images per class such as {part}/cat.zip",
        folders,
        "Get it with `metalearn-tut data cifar10 --download`, or name its folder as root.",
    )


def _in_rounds(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Ordered by place within the class first, by class second."""
    place = np.empty(len(labels), np.int64)
    for c in range(len(CLASSES)):
        mine = labels == c
        place[mine] = np.arange(mine.sum())
    order = np.lexsort((labels, place))
    return {"images": images[order], "labels": labels[order]}


def _from_classes(paths: Sequence[Path], part: str) -> dict[str, np.ndarray]:
    """Images of ten archives or folders, one per class."""
    from tqdm import tqdm

    images: list[np.ndarray] = []
    labels: list[int] = []
    for c, path in enumerate(tqdm(paths, desc=f"decoding cifar10 {part}", unit="class")):
        with files.opened(path) as (names, read):
            chosen = files.image_names(names)
            images += [files.decode_rgb(read(name), f"{name} in {path}", 32) for name in chosen]
            labels += [c] * len(chosen)
    files.check_complete({str(path): labels.count(c) for c, path in enumerate(paths)})
    return _in_rounds(np.stack(images), np.array(labels, np.int64))


def _from_batches(paths: Sequence[Path], part: str) -> dict[str, np.ndarray]:
    """Images of the official batches."""
    (path,) = paths
    batches = []
    with files.opened(path) as (names, read):
        members = {PurePosixPath(name).name: name for name in names}
        for batch in _BATCHES[part]:
            name = members.get(batch) or members.get(f"{batch}.bin")
            if name is None:
                raise ValueError(f"{path} is incomplete: it lacks {batch}")
            load = _binary if name.endswith(".bin") else _batch
            batches.append(load(read(name), f"{name} in {path}"))
    images, labels = map(np.concatenate, zip(*batches, strict=True))
    counts = np.bincount(labels, minlength=len(CLASSES)).tolist()
    files.check_complete({f"class {c} in {path}": n for c, n in zip(CLASSES, counts, strict=True)})
    return _in_rounds(images.reshape(-1, 3, 32, 32), labels)


def _batch(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        content = {k.decode() if isinstance(k, bytes) else k: v for k, v in content.items()}
        images, labels = np.asarray(content["data"]), np.asarray(content["labels"])
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"cannot read {where}: {error}; fetch the file again") from error
    return _checked(images, labels, where)


def _binary(data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    if len(data) % _RECORD:
        raise ValueError(f"{where} must hold records of {_RECORD} bytes, got {len(data)} bytes")
    records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)
    return _checked(records[:, 1:], records[:, 0].astype(np.int64), where)


def _checked(images: np.ndarray, labels: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    rightly = images.dtype == np.uint8 and images.shape == (len(labels), _RECORD - 1)
    rightly &= labels.dtype.kind in "iu"
    if not rightly or not ((labels >= 0) & (labels < len(CLASSES))).all():
        raise ValueError(
            f"{where} must hold data uint8 [M, 3072] and labels in 0..9, got "
            f"{images.dtype} {images.shape} and {labels.dtype} labels {labels.shape}"
        )
    return images, labels.astype(np.int64)


def _dtype(code: str | bytes, align: int = 0, copy: int = 1) -> np.dtype:
    # the official files give these flags as 0 and 1, of which NumPy 2.4.0 to 2.4.4 warn
    return np.dtype(code.decode() if isinstance(code, bytes) else code, bool(align), bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_CALLABLE = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays, lists, strings and numbers; a pickle that calls anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call: only what builds an array or bytes."""
        try:
            return _CALLABLE[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it calls {module}.{name}") from None
