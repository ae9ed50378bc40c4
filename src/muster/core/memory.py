"""How much memory this process holds, as the system counts it; and giving some of it back."""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

HUGE = 1 << 21
"""Bytes of a large page."""

M_ARENA_MAX = -8
"""Of glibc's malloc.h."""

LEAST_BYTES = 1 << 16
"""Of an array whose pages are worth giving back: less is written sooner than it is asked for again."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""

TRIMMED_BYTES = 4 << 20
"""Of a model for which it pays: to look for free pages takes a few milliseconds."""


def peak_rss_bytes() -> int:
    """The most that was ever resident.

    On Linux of /proc: `getrusage` counts what the parent held when it started this process, too.
    """
    found = _status("VmHWM")
    if found is not None:
        return found
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def own_bytes() -> int:
    """What is resident and nobody else's: no shared memory, no pages of files. Without /proc: the peak."""
    found = _status("RssAnon")
    return peak_rss_bytes() if found is None else found


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def blank(size: int) -> npt.NDArray[np.float32]:
    """Zeros f32[size] that begin at a multiple of 64 bytes; many of them in large pages, if there are any.

    What goes through such a vector from end to end again and again then waits less for addresses.
    """
    if sys.platform != "linux" or 4 * size < 2 * HUGE:
        pages, step = np.zeros(size + 16, np.float32), 64
    else:
        held, step = mmap.mmap(-1, 4 * size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), HUGE
        with suppress(OSError):  # a kernel without them
            held.madvise(mmap.MADV_HUGEPAGE)
        pages = np.frombuffer(held, np.float32)
    start = -pages.ctypes.data % step // 4
    return pages[start : start + size]


def forget(array: npt.NDArray[Any]) -> None:
    """Sets a contiguous array to zero by giving its pages back, to the system and for all who share it.

    They are there again when they are written to. Without Linux the zeros are written.
    """
    at, size = array.ctypes.data, array.nbytes
    start, stop = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE, (at + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform != "linux" or size < LEAST_BYTES or not _given_back(start, stop - start):
        array[...] = 0
        return
    first, last = (start - at) // array.itemsize, (stop - at) // array.itemsize
    array[:first] = 0
    array[last:] = 0


def _given_back(start: int, size: int) -> bool:
    """Whether the system has taken pages, of shared memory (which alone can be removed) or of our own."""
    advise = _libc().madvise
    return any(
        advise(ctypes.c_void_p(start), ctypes.c_size_t(size), how) == 0
        for how in (mmap.MADV_REMOVE, mmap.MADV_DONTNEED)
    )


def trim(model_bytes: int) -> None:
    """Gives back what the C library holds of memory that has been freed, where it is one that can.

    Between two stretches of work with a model of `model_bytes`, of which each needs blocks of other sizes:
    the one would keep what the other has freed. Of a small model nothing is done.
    """
    if model_bytes < TRIMMED_BYTES:
        return
    if sys.platform == "linux" and hasattr(_libc(), "malloc_trim"):
        _libc().malloc_trim(0)


def keep_freed() -> None:
    """Has the C library keep up to 256 MB that is freed, until `trim`.

    By itself it gives back each large array at once, and a training step that makes the same arrays as the
    one before has the system clear thousands of pages again.
    """
    if sys.platform == "linux" and hasattr(_libc(), "mallopt"):
        for option, value in ((M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 256 << 20)):
            _libc().mallopt(option, value)


def share_one_arena() -> bool:
    """Has threads that are yet to come allocate from one arena; False where the C library is not glibc.

    What one thread has freed another can then use. By default each has its own, and a server that takes
    hundreds of uploads at once holds what each of its threads has held at some time.
    """
    return hasattr(_libc(), "mallopt") and _libc().mallopt(M_ARENA_MAX, 1) == 1


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
