"""The gate in front of every fold: what an update must be to be added."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.core.sums import BLOCK, LIMIT
from muster.core.tables import Refusal

from .learner import Matrix, Stack

NONE, NON_FINITE, TOO_LARGE, BAD_WEIGHT = (
    np.int8(why) for why in (Refusal.NONE, Refusal.NON_FINITE, Refusal.TOO_LARGE, Refusal.BAD_WEIGHT)
)


def norms(vectors: Matrix) -> npt.NDArray[np.float64]:
    """Euclidean norms f64[K] of f32[K, P], in float64 and in an order that no number of threads changes."""
    squares = np.zeros(len(vectors))
    for start in range(0, vectors.shape[1], BLOCK):
        part = vectors[:, start : start + BLOCK].astype(np.float64)
        squares += np.einsum("kp,kp->k", part, part)  # its own loop, row by row: BLAS would use threads
    return np.sqrt(squares)


def gate(up: Stack, weights: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """The largest coordinate of each update, and its `Refusal` (0: none).

    An update may be folded if it is finite, no coordinate is beyond LIMIT, and its weight is in [0, 1].
    """
    # One pass: the extremes of a vector with a NaN are NaN.
    flat = up.reshape(len(up), -1)
    largest = np.maximum(-flat.min(1, initial=0.0), flat.max(1, initial=0.0))
    refused = np.where((weights >= 0.0) & (weights <= 1.0), NONE, BAD_WEIGHT)
    refused = np.where(largest > LIMIT, TOO_LARGE, refused)
    return largest, np.where(np.isfinite(largest), refused, NON_FINITE)
