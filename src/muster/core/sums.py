"""Sums without an order: weighted updates are added as 64-bit integers, so no order changes a bit.

An update Δ with weight w in [0, 1] is rounded (to even) to the integer nearest w·Δ·2^scale and added.
Integer addition commutes: neither the number of workers nor the order of arrival matters, and partial
sums of several workers merge exactly.
"""

from __future__ import annotations

from math import ceil, log2

import numpy as np
import numpy.typing as npt

from .memory import forget
from .params import Vector

LIMIT = 1024.0
"""The largest |Δ| of one coordinate that an update may have; beyond it the update is refused."""

BLOCK = 32768
"""Elements per pass: what a pass leaves is still in the second-level cache for the next."""

SHED = 8 * BLOCK
"""Elements whose memory is given back at a time."""

MAGIC = 1.5 * 2.0**52
"""A float64 between 2^52 and 2^53: numbers that are added to it lose their fractions."""
MAGIC_BITS = 0x4338 << 48
"""The same as an integer of its bits: a whole number n added to the float adds n to them."""
SAFE = 2.0**51
"""What may be added to MAGIC without leaving the interval."""


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
        out: Optional i64[size] to add to (a worker's shared memory).
    """

    def __init__(self, size: int, scale: int, out: npt.NDArray[np.int64] | None = None) -> None:
        self.scale = scale
        self.total = np.zeros(size, np.int64) if out is None else out  # not in memory until it is used

    def clear(self) -> None:
        """Starts again from zero."""
        forget(self.total)

    def add(self, vector: Vector, weight: float, largest: float = LIMIT) -> None:
        """Adds weight * vector. The caller has checked that |vector| <= largest and 0 <= weight <= 1."""
        self.add_all(vector[None], np.array([weight]), largest)

    def add_all(
        self, vectors: npt.NDArray[np.float32], weights: npt.NDArray[np.float64], largest: float = LIMIT
    ) -> None:
        """Adds weights[k] * vectors[k], f64[K] and f32[K, size]: what one `add` after another does."""
        factors = (weights * 2.0**self.scale)[:, None]
        taken = np.array([len(vectors) * MAGIC_BITS % 2**64], np.uint64).view(np.int64)
        small = float(factors.max(initial=0.0)) * largest < SAFE
        width = max(BLOCK // max(len(vectors), 1), 1)
        real = np.empty((len(vectors), min(width, len(self.total))), np.float64)
        for start in range(0, len(self.total), width):
            part = vectors[:, start : start + width]
            block, total = real[:, : part.shape[1]], self.total[start : start + width]
            np.copyto(block, part)  # first: a float32 product would be rounded to float32
            block *= factors
            if small:
                block += MAGIC  # its last bit is worth 1: the sum is rounded to a whole number, to even
                whole = block.view(np.int64)
                total += whole.sum(0) if len(whole) > 1 else whole[0]  # overflow wraps, and is taken back
                total -= taken
            else:
                total += np.rint(block, out=block).astype(np.int64).sum(0)

    def merge(self, other: npt.NDArray[np.int64]) -> None:
        """Adds another worker's partial sum, i64[size], which is zero afterwards."""
        for start in range(0, len(self.total), SHED):
            part = other[start : start + SHED]
            self.total[start : start + SHED] += part
            forget(part)

    def take(self, divisor: float) -> Vector:
        """The sum divided by `divisor` (the sum of the weights, or the count), as f32[size].

        The sum is zero afterwards. It makes room for the mean as it goes: both are never in memory whole.
        """
        out = np.empty(len(self.total), np.float32)
        for start in range(0, len(out), SHED):
            for at in range(start, min(start + SHED, len(out)), BLOCK):
                part = self.total[at : at + BLOCK].astype(np.float64)
                out[at : at + BLOCK] = part / (divisor * 2.0**self.scale)
            forget(self.total[start : start + SHED])
        return out
