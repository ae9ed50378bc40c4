"""q-FedAvg: the higher a client's loss, the more it counts.

T. Li, M. Sanjabi, A. Beirami, V. Smith: Fair Resource Allocation in Federated Learning. ICLR 2020,
arXiv:1905.10497, algorithm 2.

    F_i: the loss of x on client i's examples;  L = 1 / lr of the clients;  Δw_i = L (x - y_i)
    x ← x - Σ F_i^q Δw_i / Σ (q F_i^(q-1) ‖Δw_i‖² + L F_i^q)                 q = 0: the plain mean
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Combine, Local, borrowed
from muster.core.population import Population
from muster.core.tables import Table

from .fedavg import SGD, fedavg


@dataclass(frozen=True)
class Measured(SGD):
    """SGD by clients that first measure the loss of the model they were sent."""

    needs_loss: ClassVar[bool] = True


@dataclass(frozen=True)
class Fair(Combine):
    """Σ F^q Δ / Σ (q F^(q-1) L ‖Δ‖² + F^q), which is the paper's rule divided by L."""

    q: float = 1.0
    """How much fairer than the mean: 0 is the mean of the clients, each counting as one."""
    lr: float | None = None
    """The clients' rate, 1 / L; default: algorithm.local.lr."""
    max_loss: float = 100.0
    """An update whose loss is beyond it is refused."""

    averages: ClassVar[bool] = False  # the curvature shortens the step

    def __post_init__(self) -> None:
        self.check_number("q", at_least=0)
        self.check_number("lr", above=0)
        self.check_number("max_loss", above=0)

    def fitted(self, local: Local) -> Self:
        """With the clients' rate."""
        return borrowed(self, "lr", local)

    def max_weight(self, population: Population) -> float:
        """The largest loss's."""
        return float(self.max_loss**self.q)

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """F^q; 0 of a client without examples, which has no loss."""
        return np.where(reports["num_examples"] > 0, _loss(reports) ** self.q, 0.0)

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """q F^(q-1) L ‖Δ‖² + F^q."""
        assert self.lr is not None, "a rule is fitted to its algorithm before it is used"
        bend = self.q * _loss(reports) ** (self.q - 1) * reports["norm"] ** 2 / self.lr
        return np.where(reports["num_examples"] > 0, bend, 0.0) + self.weights(reports)


def _loss(reports: Table) -> npt.NDArray[np.float64]:
    """F_i, kept above 0: the paper's rule divides by it where q < 1."""
    return np.asarray(np.maximum(reports["loss_before"], 1e-10), np.float64)


def qfedavg() -> Algorithm:
    """q-FedAvg: clients with a high loss count more (Li et al. 2020)."""
    return fedavg().but(name="qfedavg", local=Measured(), combine=Fair())
