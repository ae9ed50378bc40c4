"""Agnostic federated learning: the mixture of clients for which the model is worst decides.

M. Mohri, G. Sivek, A. T. Suresh: Agnostic Federated Learning. ICML 2019, arXiv:1902.00146, algorithm 1.

    x ← x - lr Σ λ_i ∇F_i(x);   λ ← projection to the simplex of λ + lr_λ F(x);   λ = 1/N at first
    the result is the mean of all x

Of a round that has not all clients, the λ_i that took part are scaled to a sum of 1, and only they change.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Array, Info, Server, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import Mean, fedavg
from .fedsgd import FullBatch


@dataclass(frozen=True)
class Steepest(FullBatch):
    """One full-batch step by clients that measure the loss of the model they were sent."""

    needs_loss: ClassVar[bool] = True


@dataclass(frozen=True)
class Agnostic(Mean):
    """The mean by λ, which climbs towards the clients with the highest loss."""

    by: Literal["examples", "uniform", "steps"] = "uniform"
    lr: float = 0.1
    """lr_λ; the paper takes 0.1 and 0.01."""

    averages: ClassVar[bool] = False  # to rounding only: λ_i is multiplied in before the exact sum

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("lr", above=0)

    def init(self, population: Population, params: Array) -> Vectors:
        """λ = 1/N, f64[N]."""
        return {"lambda": np.full(population.num_clients, 1.0 / population.num_clients)}

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """λ_i Δ_i."""
        return {"delta": up["delta"] * float(now["lambda"][report["client"]])}, kept

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """Σ λ_i Δ_i / Σ λ_i, and the next λ."""
        share = state["lambda"]
        took = fsum(share[reports["client"]])
        climbed = np.array(share)
        known = reports[np.isfinite(reports["loss_before"])]
        np.add.at(climbed, known["client"], self.lr * known["loss_before"])
        delta = mean["delta"] * (len(reports) / took) if took > 0 else mean["delta"] * 0
        return {"delta": delta}, {"lambda": to_simplex(climbed)}


def to_simplex(point: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The nearest point whose coordinates are at least 0 and sum to 1 (J. Duchi et al., ICML 2008)."""
    falling = np.sort(point)[::-1]
    excess = (np.cumsum(falling) - 1.0) / np.arange(1, len(point) + 1)
    return np.asarray(np.maximum(point - excess[np.flatnonzero(falling > excess)[-1]], 0.0), np.float64)


@dataclass(frozen=True)
class Averaged(Server):
    """Adds the delta; the result is the mean of all models so far."""

    lr: float = 1.0

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)

    def init(self, params: Array) -> Vectors:
        """No model yet."""
        return {"mean": params, "count": params[:1] * 0}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """x ← x + lr Δ, and the mean goes on."""
        moved, count = params + self.lr * delta, opt["count"] + 1
        return moved, {"mean": opt["mean"] + (moved - opt["mean"]) / count, "count": count}

    def reported(self, params: Array, opt: Vectors) -> Array:
        """The mean iterate."""
        return opt["mean"]


def afl() -> Algorithm:
    """AFL: minimises the loss of the worst mixture of clients (Mohri et al. 2019)."""
    return fedavg().but(name="afl", local=Steepest(), combine=Agnostic(), server=Averaged())
