"""FedAsync: each model that arrives is mixed in, the staler the less.

C. Xie, S. Koyejo, I. Gupta: Asynchronous Federated Optimization. 2019, arXiv:1903.03934, algorithm 1.

    x ← (1 - α_s) x + α_s y         s: versions since y's client was sent its model; a fresh one has s = 0
    α_s = α · 1                                      const
        = α (s + 1)^-a                               poly
        = α · (1 if s ≤ b else 1 / (a (s - b) + 1))  hinge
    clients train on the loss and ρ/2 ‖y - x_sent‖²
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Combine, Vectors
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import Add, Uniform
from .fedbuff import Buffered
from .fedprox import Prox


@dataclass(frozen=True)
class Mixed(Combine):
    """How far the newest model is from the client's, y - x, less for stale ones; `server.lr` is α."""

    discount: Literal["const", "poly", "hinge"] = "poly"
    a: float = 0.5
    """The exponent of poly (0.5), or the slope of hinge (10)."""
    b: float = 4.0
    """The staleness up to which hinge takes nothing away."""

    def __post_init__(self) -> None:
        self.check_choice("discount", ("const", "poly", "hinge"))
        self.check_number("a", above=0)
        self.check_number("b", at_least=0)

    def max_weight(self, population: Population) -> float:
        """1: a fresh model's."""
        return 1.0

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """α_s / α."""
        late = reports["staleness"].astype(np.float64)
        if self.discount == "poly":
            return np.asarray((late + 1.0) ** -self.a, np.float64)
        beyond = np.maximum(late - self.b, 0.0) if self.discount == "hinge" else np.zeros(len(late))
        return np.asarray(1.0 / (self.a * beyond + 1.0), np.float64)

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each."""
        return np.ones(len(reports))

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """y - x = Δ + (x_sent - x)."""
        return {"delta": up["delta"] + (sent["model"] - now["model"])}, kept


def fedasync() -> Algorithm:
    """FedAsync: every model is mixed in as it arrives (Xie et al. 2019)."""
    pace = Buffered(size=1, max_staleness=16)
    return Algorithm("fedasync", Uniform(), pace, Prox(mu=0.005), Mixed(), Add(lr=0.6))
