"""Any PyTorch dataset of (image, label) pairs as a source of tasks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from metalearn_tut.files.pictures import on_white
from metalearn_tut.tasks.arrays import as_array, stored
from metalearn_tut.tasks.source import ClassSource

_HELD = 1 << 30  # bytes up to which images are held in memory
_TRIALS = 4  # how often the first item is read to see whether it stays the same
_NAMED = 10  # labels that an error names


def from_dataset(
    dataset: Dataset[Any] | Sequence[tuple[Any, Hashable]],
    classes: Iterable[Hashable] | None = None,
    *,
    in_memory: bool | None = None,
    name: str | None = None,
    min_images: int = 1,
) -> ClassSource:
    """A dataset of (image, label) pairs as a source of tasks: of torchvision, or your own.

    Labels are taken from the dataset's ``targets``, ``labels`` or ``y`` where there are as many
    as items (of a ``Subset``, from those of what it is a part of), else from the items, all of
    which are then read once. What tasks hold is the table of :func:`from_arrays`: ``uint8`` is
    scaled to 0..1 when a network reads it, floats are not.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset, or a list of pairs
        ``dataset[i]`` is a pair (image, label). The image is a tensor or array of one shape and
        dtype for all items (PyTorch's order is ``[C, H, W]``), or a PIL image, which becomes
        ``uint8 [1, H, W]`` if it is gray, else ``[3, H, W]``, laid on white where it is
        transparent. The label is anything hashable: a number, a string, a tuple.
    classes : iterable of labels, optional
        Which labels become classes, in this order; all by default, sorted if they can be.
        ``dataset.classes`` gives them their names.
    in_memory : bool, optional
        True holds all images as one array, read once (what a random transform made of an image
        is then kept). False reads those of a task when it is drawn, again each time. By default
        they are held if they take no more than 1 GiB.
    name : str, optional
        What messages call this source; the dataset's class by default.
    min_images : int, default 1
        Leave out classes with fewer images; a warning names them.

    Raises
    ------
    TypeError
        If ``dataset`` cannot be read by the number of an item, an item is not a pair, an image
        is none of these, or a label is not hashable.
    ValueError
        If there are no items, two differ in shape or dtype, an image holds NaN or infinite
        numbers, looks like ``[H, W, C]``, or is a PIL image of 16 or 32 bits; a label is NaN, or
        not the one that ``targets`` has; no item has a label of ``classes``, or one occurs twice;
        or, if images are not held, the first item is another one each time that it is read.

    Examples
    --------
    >>> pairs = [(torch.rand(3, 8, 8), "cat" if i % 2 else "dog") for i in range(20)]
    >>> from_dataset(pairs, name="pets")
    ClassSource(pets: 2 classes, 3x8x8 float32)
    >>> from_dataset(pairs).sampler(ways=2, shots=1, queries=5)[0].query_x.shape
    torch.Size([10, 3, 8, 8])
    """
    _check_readable(dataset)
    inner = dataset
    while isinstance(inner, Subset):
        inner = inner.dataset
    name = name or type(inner).__name__
    known = _known_labels(dataset)
    classes = None if classes is None else [_hashable(label, "classes") for label in classes]
    items: Sequence[int] = range(len(dataset))
    if known is not None:
        kept = set(_chosen(known, classes, name))
        items = [i for i in items if known[i] in kept]
    images: Any = DatasetImages(dataset, items, known, name)
    if in_memory is None:
        in_memory = images.nbytes <= _HELD
    if in_memory:
        images, labels = images.read()
    else:
        images.check_repeatable()
        labels = images.labels()
    rows: dict[Hashable, list[int]] = {label: [] for label in _chosen(labels, classes, name)}
    for row, label in enumerate(labels):
        if label in rows:
            rows[label].append(row)
    source = ClassSource(images, tuple(rows.values()), _names(inner, rows), name=name)
    return source.with_at_least(min_images)


class DatasetImages:
    """Images of a dataset's items, read when they are asked for; looks like their array.

    Parameters
    ----------
    dataset : Dataset
        Of pairs (image, label).
    items : sequence of int
        The items whose images these are, at least one.
    known : list of labels, optional
        The label that each item of the dataset should have.
    name : str
        What errors call the dataset.
    """

    def __init__(
        self, dataset: Any, items: Sequence[int], known: list[Hashable] | None, name: str
    ) -> None:
        self.dataset, self.items, self.known, self.name = dataset, items, known, name
        first, _ = _pair(dataset, items[0], name)
        self._like = f"{first.dtype} {list(first.shape)}"
        image = stored(first[None], f"images of {name}", items[0])
        self.shape, self.dtype = (len(items), *first.shape), image.dtype
        self.ndim, self.nbytes = len(self.shape), len(items) * image.nbytes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        images = [self._read(row)[0] for row in rows.flat]
        return np.array(images, self.dtype).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def read(self) -> tuple[np.ndarray, list[Hashable]]:
        """All images as one read-only array, and their labels, each item read once."""
        images, labels = np.empty(self.shape, self.dtype), []
        for row in self._all_rows():
            images[row], label = self._read(row)
            labels.append(label)
        images.flags.writeable = False
        return images, labels

    def labels(self) -> list[Hashable]:
        """The labels of all images: those known, else of the items, each of which is read."""
        if self.known is not None:
            return [self.known[i] for i in self.items]
        return [self._read(row)[1] for row in self._all_rows()]

    def check_repeatable(self) -> None:
        """Refuse images that are others at each reading: task i would not be one task."""
        first = self[0]
        if not all(np.array_equal(first, self[0]) for _ in range(_TRIALS)):
            raise ValueError(
                f"item {self.items[0]} of {self.name} is another one each time that it is read: "
                "take the random transforms away, or hold the images with in_memory=True"
            )

    def _all_rows(self) -> Iterable[int]:
        from tqdm import tqdm

        what = f"reading {self.name}"
        return tqdm(range(len(self)), desc=what, unit="image", delay=1, leave=False)

    def _read(self, row: int) -> tuple[np.ndarray, Hashable]:
        """One image as tasks hold it, and its label."""
        item = self.items[row]
        image, label = _pair(self.dataset, item, self.name)
        if (found := f"{image.dtype} {list(image.shape)}") != self._like:
            raise ValueError(
                f"images of {self.name} must be of one shape and dtype: item {self.items[0]} is "
                f"{self._like}, item {item} {found}; give the dataset a transform that resizes them"
            )
        if self.known is not None and self.known[item] != label:
            raise ValueError(
                f"item {item} of {self.name} has the label {label!r}, but its targets, labels or y "
                f"{self.known[item]!r}: mend them, or take that attribute away"
            )
        return stored(image[None], f"images of {self.name}", item)[0], label


def _check_readable(dataset: Any) -> None:
    """Refuse what has no numbered items, before any is read."""
    numbered = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, (IterableDataset, Mapping)) or not numbered:
        raise TypeError(
            "from_dataset needs a dataset with len(dataset) and dataset[i], or a list of pairs, "
            f"got {type(dataset).__name__}; of what can only be looped over: list(dataset)"
        )
    if not len(dataset):
        raise ValueError(f"{type(dataset).__name__} has no items")


def _known_labels(dataset: Any) -> list[Hashable] | None:
    """The label of every item, where the dataset says them without reading the images."""
    if isinstance(dataset, Subset):
        known = _known_labels(dataset.dataset)
        return known and [known[i] for i in dataset.indices]
    if getattr(dataset, "target_transform", None) is not None:
        return None  # items have others
    for attribute in ("targets", "labels", "y"):
        found = getattr(dataset, attribute, None)
        if hasattr(found, "tolist"):
            column = getattr(found, "shape", ())[1:] == (1,)  # as some keep them
            found = (found.squeeze(1) if column else found).tolist()
        if isinstance(found, (list, tuple)) and len(found) == len(dataset):
            return [_hashable(label, f"dataset.{attribute}") for label in found]
    return None


def _pair(dataset: Any, item: int, name: str) -> tuple[np.ndarray, Hashable]:
    """The image of an item as an array, and its label."""
    pair = dataset[int(item)]
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        what = type(pair).__name__
        if isinstance(pair, (tuple, list)):
            what += f" of {len(pair)}"
        raise TypeError(f"item {item} of {name} must be a pair (image, label), got a {what}")
    where = f"the image of item {item} of {name}"
    return _image(pair[0], where), _hashable(pair[1], f"the label of item {item} of {name}")


def _image(image: Any, where: str) -> np.ndarray:
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{where} must have 8 bits, got PIL mode {image.mode!r}")
        pixels = np.asarray(on_white(image))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if not isinstance(image, (torch.Tensor, np.ndarray)):
        kind = type(image).__name__
        raise TypeError(f"{where} must be a tensor, an array or a PIL image, got {kind}")
    array = as_array(image, where)
    channels_last = array.shape[-1:] in ((1,), (3,), (4,)) and len(array) not in (1, 3, 4)
    if array.ndim == 3 and array.dtype == np.uint8 and channels_last:
        raise ValueError(
            f"{where} looks like [H, W, C], got shape {array.shape}: PyTorch's order is "
            "[C, H, W], array.transpose(2, 0, 1)"
        )
    return array


def _hashable(label: Any, where: str) -> Hashable:
    """A label as Python holds it: a number out of a tensor or array, or what it is."""
    if isinstance(label, (torch.Tensor, np.ndarray, np.generic)) and math.prod(label.shape) == 1:
        label = label.item()
    try:
        hash(label)
    except TypeError as error:
        raise TypeError(f"{where} must be hashable: {error}") from error
    if isinstance(label, torch.Tensor):  # whose hash is that of the object
        raise TypeError(f"{where} must be one label, got a tensor of shape {list(label.shape)}")
    if label != label:
        raise ValueError(f"{where} must not be NaN")
    return label


def _chosen(labels: list[Hashable], classes: list[Hashable] | None, name: str) -> list[Hashable]:
    """The labels that are classes, in their order."""
    found = list(dict.fromkeys(labels))
    with suppress(TypeError):  # of kinds without an order: as the items have them
        found = sorted(found)
    if classes is None:
        return found
    if not classes or len(set(classes)) < len(classes) or set(classes) - set(found):
        shown = ", ".join(map(repr, found[:_NAMED])) + (", ..." if found[_NAMED:] else "")
        raise ValueError(f"classes must be different labels of {name} ({shown}), got {classes}")
    return classes


def _names(dataset: Any, labels: Iterable[Hashable]) -> tuple[str, ...]:
    """What ``dataset.classes`` calls the labels, if these are positions in it."""
    names = getattr(dataset, "classes", None)
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if isinstance(names, (list, tuple)) and set(labels) <= set(range(len(names))):
        return tuple(str(names[int(label)]) for label in labels)  # of 1.0, too
    return tuple(map(str, labels))
