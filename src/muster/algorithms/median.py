"""Coordinate-wise median: up to half of the clients may lie, and none can pull a coordinate far.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates. ICML 2018, arXiv:1803.01498, option I of algorithm 1.

    Δ[j] = median of Δ_1[j], ..., Δ_K[j]     the mean of the two in the middle if K is even
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Combine
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import fedavg


@dataclass(frozen=True)
class Median(Combine):
    """The median of each coordinate; every client counts as one."""

    needs_all: ClassVar[bool] = True

    def max_weight(self, population: Population) -> float:
        """1."""
        return 1.0

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each."""
        return np.ones(len(reports))

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each."""
        return np.ones(len(reports))

    def fold(self, updates: Array, related: npt.NDArray[np.float64]) -> Array:
        """The middle of each column."""
        xp = array_namespace(updates)
        ordered, count = xp.sort(updates, axis=0), updates.shape[0]
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def median() -> Algorithm:
    """Coordinate-wise median of the updates (Yin et al. 2018)."""
    return fedavg().but(name="median", combine=Median())
