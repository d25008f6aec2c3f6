"""The reader's own arrays as a source of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from metalearn_tut.tasks.source import ClassSource


def from_arrays(
    x: ArrayLike | torch.Tensor,
    y: ArrayLike | torch.Tensor,
    *,
    groups: Sequence[str] | None = None,
    name: str = "arrays",
    min_images: int = 1,
) -> ClassSource:
    """Your own data as a source of tasks: images, features, token ids, anything with a label.

    The examples are copied, whatever they are: what becomes of ``x`` later changes no task, and
    the copy is read-only. (A file that is larger than memory is not for this function: give
    the mapped array to :class:`ClassSource` itself.)

    Parameters
    ----------
    x : array or tensor [M, ...]
        Examples. What tasks hold depends on the type alone:

        ====================================  ================================================
        ``uint8``                             ``uint8``: images ``[M, C, H, W]``, whose 0..255
                                              becomes 0..1 when a network reads them
        other integers                        ``int64``: numbers that count or name, such as
                                              token ids; they are never scaled
        ``float64``                           ``float64``
        other floats (half, bfloat16), bool   ``float32``, as they are
        ====================================  ================================================
    y : array or tensor [M]
        One label per example, of any type that can be sorted.
    groups : sequence of str, optional
        One group per class, in the order of the sorted labels.
    name : str, default "arrays"
        What messages call this source.
    min_images : int, default 1
        Leave out classes with fewer examples; a warning names them.

    Raises
    ------
    ValueError
        If lengths differ, ``x`` is empty, ``x`` holds NaN, infinite numbers or integers beyond
        64 bits, or ``y`` NaN or NaT, or
        either is masked.
    TypeError
        If ``x`` is not of numbers, or the labels cannot be sorted.

    Examples
    --------
    >>> import numpy as np
    >>> source = from_arrays(np.random.rand(40, 3, 8, 8), ["cat", "dog"] * 20)
    >>> source
    ClassSource(arrays: 2 classes, 3x8x8 float64)
    >>> source.sampler(ways=2, shots=1, queries=5)[0].query_x.shape
    torch.Size([10, 3, 8, 8])
    """
    given, labels = as_array(x, "x"), as_array(y, "y")
    if labels.ndim != 1 or not given.size or given.shape[:1] != labels.shape:
        raise ValueError(
            "from_arrays needs x [M, ...] and y [M] with M >= 1, "
            f"got shapes {given.shape} and {labels.shape}"
        )
    examples = stored(given, "x")
    missing = {"f": np.isnan, "c": np.isnan, "m": np.isnat, "M": np.isnat}.get(labels.dtype.kind)
    if missing and missing(labels).any():
        raise ValueError("y must not be NaN or NaT")
    try:
        values, inverse = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise TypeError(f"y must be of labels that can be sorted: {error}") from error
    rows = tuple(np.flatnonzero(inverse == c) for c in range(len(values)))
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"groups must name one group per class ({len(values)}), got {len(groups)}")
    source = ClassSource(examples, rows, tuple(map(str, values)), tuple(groups or ()), name)
    return source.with_at_least(min_images)


def stored(given: np.ndarray, name: str, first_row: int = 0) -> np.ndarray:
    """A copy in the type that tasks hold (the table of :func:`from_arrays`), read-only."""
    kind = given.dtype.kind
    if kind not in "buif":
        raise TypeError(f"{name} must be of numbers, got {given.dtype}")
    if kind == "u" and given.size and given.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit in 64 bits with a sign, got {given.max()}")
    examples = np.array(given, _dtype(given.dtype), order="C")  # always a copy
    if examples.dtype.kind == "f":
        finite = np.isfinite(examples).reshape(len(examples), -1).all(axis=1)
        if not finite.all():
            row = first_row + int(finite.argmin())
            raise ValueError(
                f"{name} must be finite in {examples.dtype}, but row {row} has NaN or inf"
            )
    examples.flags.writeable = False
    return examples


def _dtype(given: np.dtype) -> type[np.generic]:
    if given.kind in "iu":
        return np.uint8 if given == np.uint8 else np.int64
    return np.float64 if given.kind == "f" and given.itemsize == 8 else np.float32


def as_array(values: Any, name: str) -> np.ndarray:
    """A tensor, an array or nested lists as an array, or an error that names the argument."""
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
            return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        if np.ma.is_masked(values):
            raise ValueError("it is masked, and what is masked has no value: fill or drop it")
        return np.asarray(values)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be an array: {error}") from error
    except TypeError as error:  # of tensors that are sparse, quantized, or of 8-bit floats
        raise TypeError(f"{name} must be an array: {error}") from error
