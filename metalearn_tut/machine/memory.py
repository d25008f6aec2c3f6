"""Memory that this process has had stays with it, for the tensors that come next."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_OPTIONS = (  # of glibc's malloc.h: which, how much, and the variable by which a user says so
    (-3, 2**30, "MALLOC_MMAP_THRESHOLD_"),
    (-1, 2**31 - 1, "MALLOC_TRIM_THRESHOLD_"),
    (-8, 1, "MALLOC_ARENA_MAX"),
)


@cache
def keep_memory() -> bool:
    """Tell the C library of Linux to keep large tensors' memory when they are freed.

    glibc hands the memory of every large tensor back to the system, which fills it with zeros
    page by page when the next one asks for it: of a meta-training step on images of 84 by 84 that
    is half of the time. Blocks of less than 1 GiB then come from memory that the process keeps,
    up to 2 GiB of it unused; all threads share one such store, since those of threads are small.

    It is done where work begins: by :func:`~metalearn_tut.training.meta_train`,
    :func:`~metalearn_tut.evaluation.evaluate`, federated rounds, pruning, every command, and
    ``nb.start`` of a chapter; not by an import. ``METALEARN_TUT_KEEP_MEMORY=0`` in the environment
    leaves all as it is; where ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` or
    ``MALLOC_ARENA_MAX`` are set there, they hold. Threads that are older keep a store of their own.

    Returns
    -------
    bool
        Whether it was done: not off Linux, nor with a C library other than glibc. Later calls
        do nothing, and say the same.

    Examples
    --------
    >>> keep_memory() in (True, False)
    True
    """
    if os.environ.get("METALEARN_TUT_KEEP_MEMORY") == "0":
        return False
    try:
        library = ctypes.CDLL(None)
        told = library.gnu_get_libc_version and library.mallopt
    except (AttributeError, OSError, TypeError):  # another library, or another system
        return False
    own = [(which, size) for which, size, name in _OPTIONS if name not in os.environ]
    return all([told(which, size) == 1 for which, size in own])
