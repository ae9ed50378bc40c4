"""Updates that wait until all are there: a file of rows, read back in blocks of coordinates.

A rule such as the median needs every update at once, and 1,000 of 25 MB are no memory's. They lie in a
file, of which the system keeps in memory what there is room for; the rule sees a block of coordinates of
all of them at a time, and their inner products, which are added up in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from muster.core.durable import make_folder
from muster.core.params import Vector

BLOCK_BYTES = 32 << 20
"""Of one block of all updates; what a rule makes of it may take a few times as much."""


class Spill:
    """Rows of f32[size] in a file that several processes write and one reads.

    Args:
        path: The file; it and its folder are made if they are not there.
        size: Length of a row.

    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    @cached_property
    def _file(self) -> int:
        make_folder(self._path.parent)  # the clients' states may come to lie there, too
        return os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def write(self, row: int, vector: Vector) -> None:
        """Puts a row in its place."""
        view, at = memoryview(np.ascontiguousarray(vector).view(np.uint8).data), 4 * self._size * row
        while view:
            written = os.pwrite(self._file, view, at)
            at, view = at + written, view[written:]

    def blocks(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Coordinates and the block f32[len(rows), B] of them, from the first to the last coordinate."""
        width = max(1, BLOCK_BYTES // (4 * max(len(rows), 1)))
        for start in range(0, self._size, width):
            part = slice(start, min(start + width, self._size))
            block = np.empty((len(rows), part.stop - start), np.float32)
            for line, row in zip(block, rows.tolist(), strict=True):
                os.preadv(self._file, [line.view(np.uint8).data], 4 * (self._size * row + start))
            yield part, block

    def products(self, rows: npt.NDArray[np.int64], trained: int) -> npt.NDArray[np.float64]:
        """Inner products of the rows' first `trained` coordinates, f64[K, K]."""
        total = np.zeros((len(rows), len(rows)))
        with ThreadpoolController().limit(limits=1, user_api="blas"):  # the same bits for any number
            for part, block in self.blocks(rows):
                if part.start < trained:
                    wide = block[:, : trained - part.start].astype(np.float64)
                    total += wide @ wide.T
        return total

    def clear(self) -> None:
        """Gives the disk back."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Takes the file away, and its folder if nothing else is in it."""
        os.close(self._file)
        self._path.unlink()
        with suppress(OSError):  # something is
            self._path.parent.rmdir()
