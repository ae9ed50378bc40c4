"""Bulyan: Krum picks, again and again, and of each coordinate only the middle of the picked counts.

E. M. El Mhamdi, R. Guerraoui, S. Rouault: The Hidden Vulnerability of Distributed Learning in Byzantium.
ICML 2018, arXiv:1802.07927.

    θ = n - 2f times: Krum's choice among those that are left        n >= 4f + 3
    Δ[j] = mean of the θ - 2f values of the picked that are closest to their median

With few left Krum looks at one neighbour at least. Of equals the lowest ticket, then the smaller value, is
taken. Where so few updates come that n < 4f + 3, as many liars are reckoned with as n allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Vectors
from muster.core.tables import Table

from .fedavg import fedavg
from .krum import scores
from .together import Floats, Together, square_distances


@dataclass(frozen=True)
class Bulyan(Together):
    """The middle of each coordinate, of updates that Krum has picked."""

    num_liars: int = 1
    """Updates of a cohort that may be anything (the paper's f)."""

    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("num_liars", at_least=0)

    def liars(self, count: int) -> int:
        """How many of `count` updates are reckoned to lie."""
        return max(0, min(self.num_liars, (count - 3) // 4))

    def relate(self, products: Floats, reports: Table, state: Vectors) -> Floats:
        """1 for those that are picked, else 0."""
        between, count = square_distances(products), len(products)
        liars, left = self.liars(count), np.arange(count)
        picked = np.zeros(count)
        for _ in range(count - 2 * liars):
            best = int(np.argmin(scores(between[np.ix_(left, left)], liars)))
            picked[left[best]] = 1.0
            left = np.delete(left, best)
        return picked

    def fold(self, updates: Array, related: Floats) -> Array:
        """The mean of the middle values."""
        xp = array_namespace(updates)
        liars = self.liars(len(related))
        rows = xp.asarray(np.flatnonzero(related))
        ordered = xp.sort(xp.astype(xp.take(updates, rows, axis=0), xp.float64), axis=0)
        count = ordered.shape[0]
        middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        nearest = xp.argsort(xp.abs(ordered - middle), axis=0, stable=True)[: count - 2 * liars]
        kept = xp.take_along_axis(ordered, nearest, axis=0)
        return xp.astype(xp.mean(kept, axis=0), updates.dtype)


def bulyan() -> Algorithm:
    """Bulyan: Krum's picks, and the middle of each coordinate (El Mhamdi et al. 2018)."""
    return fedavg().but(name="bulyan", combine=Bulyan())
