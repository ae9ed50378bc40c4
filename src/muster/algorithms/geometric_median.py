"""Geometric median (RFA): the point with the least sum of distances to all updates, not of their squares.

K. Pillutla, S. M. Kakade, Z. Harchaoui: Robust Aggregation for Federated Learning. 2019, arXiv:1912.13445,
algorithm 2 (smoothed Weiszfeld).

    v = Σ p_i Δ_i;  repeat: b_i = p_i / max(ν, ‖v - Δ_i‖);  v = Σ b_i Δ_i / Σ b_i        p_i = n_i / Σ n_i
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from muster.core.algorithm import Algorithm, Array, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import fedavg
from .together import Floats, Together, weighted


@dataclass(frozen=True)
class GeometricMedian(Together):
    """Weiszfeld's iterations from the weighted mean; a far update counts as little as it is far."""

    num_iterations: int = 3
    smoothing: float = 1e-6
    """Distances below this count as this (the paper's ν)."""

    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("num_iterations", at_least=1)
        self.check_number("smoothing", above=0)

    def max_weight(self, population: Population) -> float:
        """The largest client's number of examples."""
        return float(population.num_examples.max())

    def weights(self, reports: Table) -> Floats:
        """n_i."""
        return np.asarray(reports["num_examples"], np.float64)

    def relate(self, products: Floats, reports: Table, state: Vectors) -> Floats:
        """The shares b_i / Σ b: v stays a mean of the updates, so inner products are all it takes."""
        weight = self.weights(reports)
        if weight.sum() == 0:
            return weight
        given = shares = weight / weight.sum()
        for _ in range(self.num_iterations):
            square = shares @ products @ shares - 2 * products @ shares + np.diagonal(products)
            pull = given / np.maximum(self.smoothing, np.sqrt(np.maximum(square, 0.0)))
            shares = pull / pull.sum()
        return np.asarray(shares, np.float64)

    def fold(self, updates: Array, related: Floats) -> Array:
        """The mean by these shares."""
        return weighted(updates, related)


def geometric_median() -> Algorithm:
    """The geometric median of the updates (Pillutla et al. 2019)."""
    return fedavg().but(name="geometric_median", combine=GeometricMedian())
