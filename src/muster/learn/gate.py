"""The gate in front of every fold: what an update must be to be added."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.sums import BLOCK, LIMIT
from muster.core.tables import Refusal

Matrix: TypeAlias = npt.NDArray[np.float32]

NONE, NON_FINITE, TOO_LARGE, BAD_WEIGHT = (
    np.int8(why) for why in (Refusal.NONE, Refusal.NON_FINITE, Refusal.TOO_LARGE, Refusal.BAD_WEIGHT)
)


def norms(vectors: Matrix) -> npt.NDArray[np.float64]:
    """Euclidean norms f64[K] of f32[K, P], in float64 and in an order that no number of threads changes."""
    squares = np.zeros(len(vectors))
    add_squares(vectors, squares)
    return np.sqrt(squares)


def add_squares(vectors: Matrix, squares: npt.NDArray[np.float64]) -> None:
    """Adds the sums of squares of f32[K, P] to f64[K]: block after block, the bits of the whole.

    Blocks must begin at multiples of BLOCK.
    """
    for start in range(0, vectors.shape[1], BLOCK):
        part = vectors[:, start : start + BLOCK].astype(np.float64)
        squares += np.einsum("kp,kp->k", part, part)  # its own loop, row by row: BLAS would use threads


def extremes(vectors: Matrix) -> npt.NDArray[np.float32]:
    """The largest magnitude in each row of f32[K, P]; NaN if there is a NaN in it: one pass."""
    largest = np.maximum(-vectors.min(1, initial=0.0), vectors.max(1, initial=0.0))
    return np.asarray(largest, np.float32)


def judged(largest: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """The `Refusal` of each update (0: none), by its largest coordinate and its weight, f64[K].

    An update may be folded if it is finite, no coordinate is beyond LIMIT, and its weight is in [0, 1].
    """
    refused = np.where((weights >= 0.0) & (weights <= 1.0), NONE, BAD_WEIGHT)
    refused = np.where(largest > LIMIT, TOO_LARGE, refused)
    return np.where(np.isfinite(largest), refused, NON_FINITE)
