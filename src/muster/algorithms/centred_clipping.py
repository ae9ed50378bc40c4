"""Centred clipping: updates count by how they differ from the last aggregate, and only up to a length.

S. P. Karimireddy, L. He, M. Jaggi: Learning from History for Byzantine Robust Optimization. ICML 2021,
arXiv:2012.10333, section 4 and algorithm 2.

    v: the last aggregate, 0 at first
    l times:  v ← v + (1/n) Σ (Δ_i - v) min(1, τ / ‖Δ_i - v‖)           Δ = v

One iteration, the paper's choice, takes updates as they come. More need all of them at once: v stays where it
was plus a sum of the updates' differences to it, so that their inner products are all that it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Info, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import Mean, fedavg
from .together import Floats, weighted


@dataclass(frozen=True)
class CentredClipping(Mean):
    """The mean of updates that are clipped around the last aggregate."""

    by: Literal["examples", "uniform"] = "uniform"
    radius: float = 1.0
    """How far from the last aggregate an update counts in full (the paper's τ), a Euclidean norm."""

    num_iterations: int = 1
    """Iterations a round (the paper's l)."""

    averages: ClassVar[bool] = False  # an update that is far from the last aggregate is shortened
    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("radius", above=0)
        self.check_number("num_iterations", at_least=1, at_most=1_000)

    @property
    def needs_all(self) -> bool:  # type: ignore[override]
        """From the second iteration on."""
        return self.num_iterations > 1

    def init(self, population: Population, params: Array) -> Vectors:
        """v = 0."""
        return {"centre": array_namespace(params).zeros_like(params)}

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """v + (Δ - v) min(1, τ / ‖Δ - v‖); of several iterations Δ - v, which `relate` clips."""
        away = up["delta"] - now["centre"]
        if self.needs_all:
            return {"delta": away}, kept
        xp = array_namespace(away)
        length = float(xp.sum(xp.astype(away, xp.float64) ** 2)) ** 0.5
        if length <= self.radius:
            return {}, kept
        return {"delta": now["centre"] + away * (self.radius / length)}, kept

    def relate(self, products: Floats, reports: Table, state: Vectors) -> Floats:
        """How much of each Δ_i - v is in what v has moved by after all iterations."""
        weight = self.weights(reports)
        if weight.sum() == 0:
            return weight
        given, shares = weight / weight.sum(), np.zeros(len(weight))
        for _ in range(self.num_iterations):
            square = shares @ products @ shares - 2 * products @ shares + np.diagonal(products)
            away = np.sqrt(np.maximum(square, 0.0))
            pull = given * (self.radius / np.maximum(away, self.radius))
            shares = shares + pull - pull.sum() * shares
        return np.asarray(shares, np.float64)

    def fold(self, updates: Array, related: Floats) -> Array:
        """What v moves by."""
        return weighted(updates, related)

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """The mean is the next centre."""
        delta = state["centre"] + mean["delta"] if self.needs_all else mean["delta"]
        return {"delta": delta}, {"centre": delta}


def centred_clipping() -> Algorithm:
    """Means clipped around the last aggregate (Karimireddy et al. 2021)."""
    return fedavg().but(name="centred_clipping", combine=CentredClipping())
