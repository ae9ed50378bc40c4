"""Sums without an order: weighted updates are added as 64-bit integers, so no order changes a bit.

An update Δ with weight w in [0, 1] is rounded (to even) to the integer nearest w·Δ·2^scale and added.
Integer addition commutes: neither the number of workers nor the order of arrival matters, and partial
sums of several workers merge exactly.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import numpy.typing as npt

from .params import Vector

LIMIT = 1024.0
"""The largest |Δ| of one coordinate that an update may have; beyond it the update is refused."""

BLOCK = 16384
"""Elements per pass: the four temporaries of a block stay in the second-level cache."""


def scale_for(cohort: int) -> int:
    """The exponent s of 2^s for sums of up to `cohort` updates: none of them can overflow.

    s = 62 - ceil(log2(cohort * 1024)); 48 for 10 updates, 42 for 1,000.
    """
    return 62 - ceil(log2(max(cohort, 1) * LIMIT))


class FixedPointSum:
    """A running weighted sum of flat vectors, as int64 fixed point.

    Args:
        size: Length of the vectors.
        scale: The exponent from `scale_for`.
        out: Optional i64[size] to sum into (a worker's shared memory); it is set to zero.
    """

    def __init__(self, size: int, scale: int, out: npt.NDArray[np.int64] | None = None) -> None:
        self.scale = scale
        self.total = np.zeros(size, np.int64) if out is None else out
        self.total[:] = 0
        self._real = np.empty(min(BLOCK, size), np.float64)
        self._whole = np.empty(min(BLOCK, size), np.int64)

    def clear(self) -> None:
        """Starts again from zero."""
        self.total[:] = 0

    def add(self, vector: Vector, weight: float) -> None:
        """Adds weight * vector. The caller has checked that |vector| <= LIMIT and 0 <= weight <= 1."""
        factor = weight * 2.0**self.scale
        for start in range(0, len(vector), BLOCK):
            part = vector[start : start + BLOCK]
            real, whole = self._real[: len(part)], self._whole[: len(part)]
            np.copyto(real, part)  # first: a float32 product would be rounded to float32
            real *= factor
            np.rint(real, out=real)
            np.copyto(whole, real, casting="unsafe")
            self.total[start : start + BLOCK] += whole

    def merge(self, other: npt.NDArray[np.int64]) -> None:
        """Adds another worker's partial sum, i64[size]."""
        self.total += other

    def mean(self, divisor: float) -> Vector:
        """The sum divided by `divisor` (the sum of the weights, or the count), as f32[size]."""
        out = np.empty(len(self.total), np.float32)
        for start in range(0, len(out), BLOCK):
            part = self.total[start : start + BLOCK].astype(np.float64)
            out[start : start + BLOCK] = part / (divisor * 2.0**self.scale)
        return out
