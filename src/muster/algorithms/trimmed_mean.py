"""Trimmed mean: per coordinate, the mean of what is left without the largest and the smallest.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates. ICML 2018, arXiv:1803.01498, option II of algorithm 1.

    Δ[j] = mean of Δ_1[j], ..., Δ_K[j] without the βK largest and the βK smallest
"""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array

from .fedavg import fedavg
from .together import Floats, Together, weighted


@dataclass(frozen=True)
class TrimmedMean(Together):
    """The mean of each coordinate without its extremes."""

    trim: float = 0.2
    """Share of the updates that is cut off at either end (the paper's β), rounded down."""

    def __post_init__(self) -> None:
        self.check_number("trim", at_least=0, below=0.5)

    def fold(self, updates: Array, related: Floats) -> Array:
        """Sorts each column and takes the middle."""
        ordered, count = array_namespace(updates).sort(updates, axis=0), updates.shape[0]
        cut = int(self.trim * count + 1e-9)
        kept = related * 0
        kept[cut : count - cut] = 1 / (count - 2 * cut)
        return weighted(ordered, kept)


def trimmed_mean() -> Algorithm:
    """The coordinate-wise mean without extremes (Yin et al. 2018)."""
    return fedavg().but(name="trimmed_mean", combine=TrimmedMean())
