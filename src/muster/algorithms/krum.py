"""Krum: the one update that its neighbours are closest to; and Multi-Krum, the mean of the best.

P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer: Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent. NIPS 2017, arXiv:1703.02757.

    s_i = Σ ‖Δ_i - Δ_j‖² over the n - f - 2 nearest j           f of n may lie; n > 2f + 2
    Krum: the Δ_i of least s_i;  Multi-Krum: the plain mean of the n - f of least s_i

Of equals the lowest ticket is taken. Where so few updates come that n <= 2f + 2, as many liars are reckoned
with as n allows. Krum takes one client's model: where clients' data differ, that costs accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from muster.core.algorithm import Algorithm, Array, Vectors
from muster.core.tables import Table

from .fedavg import fedavg
from .together import Floats, Together, square_distances, weighted


@dataclass(frozen=True)
class Krum(Together):
    """The update, or the mean of the `num_picks` updates, that is closest to its neighbours."""

    num_liars: int = 2
    """Updates of a cohort that may be anything (the paper's f)."""
    num_picks: int | None = 1
    """How many are averaged; null: all but the liars (Multi-Krum)."""

    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("num_liars", at_least=0)
        self.check_number("num_picks", at_least=1)

    def relate(self, products: Floats, reports: Table, state: Vectors) -> Floats:
        """The share of each update in the mean: 1 / picks for the best, else 0."""
        count = len(products)
        liars = max(0, min(self.num_liars, (count - 3) // 2))
        picks = min(count - liars if self.num_picks is None else self.num_picks, count)
        best = np.argsort(scores(square_distances(products), liars), kind="stable")[:picks]
        shares = np.zeros(count)
        shares[best] = 1 / picks
        return shares

    def fold(self, updates: Array, related: Floats) -> Array:
        """The mean of the best."""
        return weighted(updates, related)


def scores(between: Floats, num_liars: int) -> Floats:
    """f64[K]: Σ of each one's squared distances (f64[K, K]) to its K - f - 2 nearest, at least one."""
    count = len(between)
    near = min(max(1, count - num_liars - 2), count - 1)
    return np.asarray(np.sort(between, axis=1)[:, 1 : near + 1].sum(axis=1), np.float64)


def krum() -> Algorithm:
    """Krum: the update that is closest to its neighbours (Blanchard et al. 2017)."""
    return fedavg().but(name="krum", combine=Krum())
