"""FedAdagrad: Adagrad on the server, along the clients' mean delta.

S. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, H. B. McMahan: Adaptive
Federated Optimization. ICLR 2021, arXiv:2003.00295, algorithm 2.

    as FedYogi, but   v ← v + Δ²              β1 = 0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Info, Server, Vectors

from .fedavg import fedavg


@dataclass(frozen=True)
class Adagrad(Server):
    """Steps shrink with the sum of all squares so far."""

    lr: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3
    """Adaptivity: the smaller, the more each coordinate's step is scaled by its own history."""

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("beta1", at_least=0, below=1)
        self.check_number("tau", above=0)

    def init(self, params: Array) -> Vectors:
        """m = 0, v = τ²."""
        return {"m": params * 0, "v": params * 0 + self.tau**2}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """m ← β1 m + (1 - β1) Δ;  v ← v + Δ²;  x ← x + lr m / (√v + τ)."""
        xp = array_namespace(params)
        m, v = self.beta1 * opt["m"] + (1 - self.beta1) * delta, opt["v"] + delta * delta
        return params + self.lr * m / (xp.sqrt(v) + self.tau), {"m": m, "v": v}


def fedadagrad() -> Algorithm:
    """FedAdagrad: FedAvg whose server takes Adagrad steps (Reddi et al. 2021)."""
    return fedavg().but(name="fedadagrad", server=Adagrad())
