"""What rules that see all updates at once have in common: every client counts as one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from muster.core.algorithm import Array, Combine
from muster.core.population import Population
from muster.core.tables import Table

Floats = npt.NDArray[np.float64]


class Together(Combine):
    """A rule that wants all updates; unless it says otherwise, one is worth as much as another."""

    needs_all: ClassVar[bool] = True

    def max_weight(self, population: Population) -> float:
        """1."""
        return 1.0

    def weights(self, reports: Table) -> Floats:
        """1 each."""
        return np.ones(len(reports))

    def divisors(self, reports: Table) -> Floats:
        """1 each."""
        return np.ones(len(reports))


def weighted(updates: Array, shares: Floats) -> Array:
    """Σ shares_i updates_i of a block [K, B], in float64 and in order of the rows, f32[B]."""
    xp = array_namespace(updates)
    total = xp.zeros(updates.shape[1], dtype=xp.float64)
    for row, share in enumerate(shares.tolist()):
        if share:
            total = total + share * xp.astype(updates[row], xp.float64)
    return xp.astype(total, updates.dtype)


def square_distances(products: Floats) -> Floats:
    """‖u_i - u_j‖² from inner products, f64[K, K]; never below 0, and 0 from each to itself."""
    squares = np.diagonal(products)
    between = np.maximum(squares[:, None] + squares - 2 * products, 0.0)
    np.fill_diagonal(between, 0.0)
    return between
