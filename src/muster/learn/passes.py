"""The passes over updates that folding takes: norms, largest coordinates, and the exact sum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.core.sums import FixedPointSum

from .gate import extremes, norms


class Passes:
    """In NumPy; a learner that compiles its loops has its own, with the same sums to the bit."""

    def norms(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Euclidean norms f64[K] of f32[K, P]."""
        return norms(vectors)

    def extremes(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The largest magnitude in each row of f32[K, P]; NaN if there is a NaN in it."""
        return extremes(vectors)

    def add(
        self,
        total: FixedPointSum,
        vectors: npt.NDArray[np.float32],
        weights: npt.NDArray[np.float64],
        largest: float,
    ) -> None:
        """`FixedPointSum.add_all`."""
        total.add_all(vectors, weights, largest)
