"""FedAdam: Adam on the server, along the clients' mean delta.

S. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, H. B. McMahan: Adaptive
Federated Optimization. ICLR 2021, arXiv:2003.00295, algorithm 2.

    as FedYogi, but   v ← β2 v + (1 - β2) Δ²
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.algorithm import Algorithm, Array

from .fedavg import fedavg
from .fedyogi import Yogi


@dataclass(frozen=True)
class Adam(Yogi):
    """Adam's second moment: a moving mean of the squares."""

    def second(self, v: Array, square: Array) -> Array:
        """v ← β2 v + (1 - β2) Δ²."""
        return self.beta2 * v + (1 - self.beta2) * square


def fedadam() -> Algorithm:
    """FedAdam: FedAvg whose server takes Adam steps (Reddi et al. 2021)."""
    return fedavg().but(name="fedadam", server=Adam())
