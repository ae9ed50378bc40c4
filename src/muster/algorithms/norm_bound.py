"""Norm bound: an update counts in full only up to a length.

Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan: Can You Really Backdoor Federated Learning? 2019,
arXiv:1911.07963, section 5.2.

    Δ_i ← Δ_i min(1, C / ‖Δ_i‖);  Δ = Σ n_i Δ_i / Σ n_i
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Vectors
from muster.core.tables import Table

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class Bounded(Mean):
    """The mean of updates that are no longer than `max_norm`."""

    max_norm: float = 1.0
    """C, a Euclidean norm."""

    averages: ClassVar[bool] = False  # a long update is shortened

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("max_norm", above=0)

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """Δ min(1, C / ‖Δ‖)."""
        if report["norm"] <= self.max_norm:
            return {}, kept
        return {"delta": up["delta"] * (self.max_norm / float(report["norm"]))}, kept


def norm_bound() -> Algorithm:
    """FedAvg with the updates' lengths bounded (Sun et al. 2019)."""
    return fedavg().but(name="norm_bound", combine=Bounded())
