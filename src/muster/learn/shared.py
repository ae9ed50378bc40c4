"""Arrays that a parent puts into shared memory for its workers: each once, by name."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

Described = list[Any]
"""A shared array: the memory's name, the kind of its numbers, its shape."""


class Shelf:
    """What is up at present."""

    def __init__(self) -> None:
        self._up: dict[str, tuple[SharedMemory, Described]] = {}

    def put(self, name: str, array: Any) -> None:
        """Puts an array up, if none of that name is."""
        if name not in self._up:
            array = np.asarray(array)
            memory = SharedMemory(create=True, size=max(array.nbytes, 1))
            np.ndarray(array.shape, array.dtype, memory.buf)[...] = array
            self._up[name] = memory, [memory.name, array.dtype.str, list(array.shape)]

    def told(self, wanted: Callable[[str], bool]) -> dict[str, Described]:
        """Those that are wanted, by name: what a worker needs to open them."""
        return {name: told for name, (_, told) in self._up.items() if wanted(name)}

    def take_down(self, gone: Callable[[str], bool] = lambda name: True) -> None:
        """Takes down those that are no longer needed."""
        for name in [name for name in self._up if gone(name)]:
            memory, _ = self._up.pop(name)
            memory.close()
            memory.unlink()
