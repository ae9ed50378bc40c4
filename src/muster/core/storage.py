"""Where large vectors are kept: in memory, or in files that are read and written a block at a time.

A vector on disk is a NumPy array all the same, mapped from a file; what has been read or written of it is
given back as one goes, so it takes no more memory than a block. Whoever goes through a vector with `parts`
works with both kinds.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

WIDTH = 1 << 18
"""Elements of a block: 1 MiB of a model."""
AROUND = 1 << 20
"""Bytes before a part that are given back too: what is first read of it brings in what is around."""
SHARE = 16
"""A model of more than this part of the memory is kept on disk."""


@dataclass(frozen=True)
class Storage:
    """Makes vectors: in memory, or with a folder as files in it, which are gone with the vector.

    A file has no name, so nothing is left of it after a crash either.
    """

    folder: Path | None = None

    @classmethod
    def fitting(cls, folder: Path, num_bytes: int, memory_mb: float | None) -> Storage:
        """For models of so many bytes: on disk if that is more than `memory_mb`, or a share of memory."""
        most = machine_bytes() / SHARE if memory_mb is None else memory_mb * 1e6
        return cls(folder if num_bytes > most else None)

    def empty(self, size: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """A vector of `size` numbers, with anything in it.

        Raises:
            OSError: The disk is full. It is found out now: a write to a map could not say so.
        """
        num_bytes = size * np.dtype(dtype).itemsize
        if self.folder is None or num_bytes == 0:
            return np.empty(size, dtype)
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if sys.platform == "linux":
                os.posix_fallocate(file.fileno(), 0, num_bytes)
            else:
                os.ftruncate(file.fileno(), num_bytes)
            return np.memmap(file, dtype, "r+", shape=(size,))


IN_MEMORY = Storage()


def parts(size: int, *vectors: Array, start: int = 0) -> Iterator[slice]:
    """Consecutive blocks of the elements from `start` to `size`; one is given back before the next comes.

    Args:
        size: Where to end.
        vectors: What is read and written, each of `size` elements at least.
        start: Where to begin.

    """
    for at in range(start, size, WIDTH):
        part = slice(at, min(at + WIDTH, size))
        yield part
        for vector in vectors:
            release(vector[part])


def release(part: Array) -> None:
    """Gives back the memory that a part of a vector on disk takes; nothing is lost. One in memory stays."""
    root: Any = part
    while isinstance(root.base, np.ndarray):
        root = root.base
    if part.nbytes and isinstance(root, np.memmap) and isinstance(root.base, mmap.mmap):
        start = part.ctypes.data - root.ctypes.data + root.offset % mmap.ALLOCATIONGRANULARITY
        stop = start + part.nbytes
        start = max(start - AROUND, 0)
        start -= start % mmap.PAGESIZE
        root.base.madvise(mmap.MADV_DONTNEED, start, stop - start)


def mapped(path: Path, spans: Mapping[str, tuple[int, npt.DTypeLike, tuple[int, ...]]]) -> dict[str, Array]:
    """Arrays of a file by name, mapped read-only: where each begins, its dtype and its shape."""
    whole = np.memmap(path, np.uint8, "r")
    made = {}
    for name, (start, dtype, shape) in spans.items():
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        made[name] = whole[start : start + size].view(dtype).reshape(shape)
    return made


def machine_bytes() -> int:
    """The memory that there is: of the machine, or of the container if that has a limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file; or "max"
            continue
    return total
