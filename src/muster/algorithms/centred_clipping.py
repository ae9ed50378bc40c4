"""Centred clipping: updates count by how they differ from the last aggregate, and only up to a length.

S. P. Karimireddy, L. He, M. Jaggi: Learning from History for Byzantine Robust Optimization. ICML 2021,
arXiv:2012.10333, section 4, with one iteration a round, as its algorithm 2 has it.

    v ← v + (1/n) Σ (Δ_i - v) min(1, τ / ‖Δ_i - v‖)           v = 0 at first; Δ = v
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Info, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class CentredClipping(Mean):
    """The mean of updates that are clipped around the last aggregate."""

    by: Literal["examples", "uniform"] = "uniform"
    radius: float = 1.0
    """How far from the last aggregate an update counts in full (the paper's τ), a Euclidean norm."""

    averages: ClassVar[bool] = False  # an update that is far from the last aggregate is shortened

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("radius", above=0)

    def init(self, population: Population, params: Array) -> Vectors:
        """v = 0."""
        return {"centre": array_namespace(params).zeros_like(params)}

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """v + (Δ - v) min(1, τ / ‖Δ - v‖)."""
        away = up["delta"] - now["centre"]
        xp = array_namespace(away)
        length = float(xp.sum(xp.astype(away, xp.float64) ** 2)) ** 0.5
        if length <= self.radius:
            return {}, kept
        return {"delta": now["centre"] + away * (self.radius / length)}, kept

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """The mean is the next centre."""
        return {}, {"centre": mean["delta"]}


def centred_clipping() -> Algorithm:
    """Means clipped around the last aggregate (Karimireddy et al. 2021)."""
    return fedavg().but(name="centred_clipping", combine=CentredClipping())
