"""Tensors and JSON in one safetensors file, with a checksum: the format of all files of weights."""

from __future__ import annotations

import json
import os
import textwrap
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metalearn_tut.files.cache import atomic_write


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a file whole or not at all.

    Parameters
    ----------
    path : path
        The file; it is replaced at once, or stays as it is if writing fails.
    tensors : mapping of name to Tensor
        Of any shape, dtype, layout and device.
    state : mapping
        What else is to be kept, as JSON.

    Raises
    ------
    OSError
        If the file cannot be written (full disk, no permission).
    """
    from safetensors.torch import save as to_bytes

    plain = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
    crc = _crc(plain, _text(plain, state))
    # one entry, since safetensors writes several in an order that changes from time to time
    data = to_bytes(plain, {"state": json.dumps({**state, "crc32": crc})})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _text(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Everything in a file but the numbers."""
    return json.dumps([{n: [str(t.dtype), t.shape] for n, t in sorted(tensors.items())}, state])


def _crc(tensors: Mapping[str, Tensor], text: str = "") -> int:
    """A checksum; safetensors has none, and a flipped bit is still a number."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy(), crc)
    return zlib.crc32(text.encode(), crc)


def read_tensors(
    path: str | os.PathLike[str], kind: str = "checkpoint"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a file, on the CPU, and its JSON.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message calls it by its ``kind``.
    ValueError
        If the file is damaged, or was not written by :func:`write_tensors`.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        with safe_open(str(path), "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # files of the first versions have a checksum of the numbers alone
        if state.pop("crc32") not in (_crc(tensors, _text(tensors, state)), _crc(tensors)):
            raise ValueError("the checksum does not fit")
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(path, kind) from error
    return tensors, state


def damaged(path: str | os.PathLike[str], kind: str) -> ValueError:
    """The error for a file that cannot be what it should be."""
    return ValueError(f"{path} is damaged, or not a {kind} of this package")


def copy_tensors(
    path: str | os.PathLike[str],
    saved: Mapping[str, Tensor],
    into: Mapping[str, Tensor],
    kind: str = "checkpoint",
) -> None:
    """Copy the tensors of a file into those of a learner or network, all or none.

    Raises
    ------
    ValueError
        If names or shapes differ: the message names the first tensor that does.
    """
    for name in sorted(saved.keys() | into.keys()):
        here, there = (list(t[name].shape) if name in t else "absent" for t in (into, saved))
        if here != there:
            raise ValueError(
                f"{path} is a {kind} of another architecture: {name} is {there} in the file "
                f"and {here} in the learner"
            )
    with torch.no_grad():
        for name, p in into.items():
            p.copy_(saved[name])


def check_same_run(path: str | os.PathLike[str], before: Any, now: Any) -> None:
    """Refuse to go on with another run, by what its file says of it and what it should.

    Raises
    ------
    ValueError
        If ``before``, from the file, is not ``now``: the message names what differs.
    """
    if found := _difference("", before, now):
        name, *values = found
        was, is_now = (textwrap.shorten(repr(value), 200) for value in values)
        raise ValueError(f"cannot resume {path}: {name} was {was}, now {is_now}")


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any] | None:
    """The first place, by its dotted name, where two JSON values differ, and what stands there."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return None if before == now else (name, before, now)
    for key in (*sorted(before.keys() & now.keys()), *sorted(before.keys() ^ now.keys())):
        dotted = f"{name}.{key}" if name else key
        if found := _difference(dotted, before.get(key), now.get(key)):
            return found
    return None
