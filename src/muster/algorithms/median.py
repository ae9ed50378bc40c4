"""Coordinate-wise median: up to half of the clients may lie, and none can pull a coordinate far.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates. ICML 2018, arXiv:1803.01498, option I of algorithm 1.

    Δ[j] = median of Δ_1[j], ..., Δ_K[j]     the mean of the two in the middle if K is even
"""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array

from .fedavg import fedavg
from .together import Floats, Together


@dataclass(frozen=True)
class Median(Together):
    """The median of each coordinate; every client counts as one."""

    def fold(self, updates: Array, related: Floats) -> Array:
        """The middle of each column."""
        xp = array_namespace(updates)
        ordered, count = xp.sort(updates, axis=0), updates.shape[0]
        return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def median() -> Algorithm:
    """Coordinate-wise median of the updates (Yin et al. 2018)."""
    return fedavg().but(name="median", combine=Median())
