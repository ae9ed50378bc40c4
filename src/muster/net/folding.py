"""Updates that lie on disk, gated one by one and summed a block of coordinates after another.

One block is in memory, however many updates there are and however large the model is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from muster.core.params import Vector
from muster.core.storage import WIDTH, parts
from muster.core.sums import FixedPointSum
from muster.learn.gate import add_squares, extremes

from .wire import Route, Stored


@dataclass(frozen=True)
class Shape:
    """What an update is: vectors of f32[size] by name, of which some spans have travelled."""

    names: tuple[str, ...]
    route: Route
    trained: int
    """Of the first vector, the coordinates whose norm is told."""

    def measured(self, update: Stored) -> tuple[Vector, float]:
        """The largest coordinate, f32[1] (NaN if there is one), and the norm of an update: the gate's bits.

        Raises:
            OSError, WireError: It cannot be read.
        """
        part = np.empty(min(WIDTH, self.route.size), np.float32)
        squares, largest = np.zeros(1), np.zeros(1, np.float32)
        for i, name in enumerate(self.names):
            for start in range(0, self.route.size, WIDTH):
                block = part[: self.route.size - start]
                self.route.fill(partial(update.read, name), start, block)
                largest = np.maximum(largest, extremes(block[None]))
                if i == 0:
                    add_squares(block[None, : max(self.trained - start, 0)], squares)
        return largest, float(np.sqrt(squares[0]))


class LaterSum:
    """A weighted sum that is made when its mean is asked for.

    Args:
        shape: Of the updates.
        scale: Exponent of the fixed-point sums.

    """

    def __init__(self, shape: Shape, scale: int) -> None:
        self._shape, self._scale = shape, scale
        self._updates: list[tuple[Stored, float, float]] = []

    def add(self, update: Stored, weight: float, largest: float) -> None:
        """As `FixedPointSum.add`; the update must stay where it is."""
        self._updates.append((update, weight, largest))

    def clear(self) -> None:
        """Starts again from zero."""
        self._updates.clear()

    def take(self, divisor: float) -> Vector:
        """As `FixedPointSum.take`: f32[U * size].

        Raises:
            OSError, WireError: An update cannot be read.
        """
        names, size = self._shape.names, self._shape.route.size
        out = np.empty((len(names), size), np.float32)
        for number, row in enumerate(out):
            for part in parts(size):
                row[part] = self.part(number, part, divisor)
        return out.reshape(-1)

    def part(self, number: int, part: slice, divisor: float) -> Vector:
        """As `take`, of vector `number` the elements `part`."""
        name, count = self._shape.names[number], part.stop - part.start
        total, block = FixedPointSum(count, self._scale), np.empty(count, np.float32)
        for update, weight, largest in self._updates:
            self._shape.route.fill(partial(update.read, name), part.start, block)
            total.add(block, weight, largest)
        return total.take(divisor)
