"""FedAvgM: a heavy ball on the server.

T. H. Hsu, H. Qi, M. Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification. 2019, arXiv:1909.06335, section 4.1.

    v ← β v + Δ;  x ← x + lr v
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Array, Info, Server, Vectors

from .fedavg import fedavg


@dataclass(frozen=True)
class Momentum(Server):
    """SGD with momentum along the mean delta."""

    lr: float = 1.0
    beta: float = 0.9

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("beta", at_least=0, below=1)

    def init(self, params: Array) -> Vectors:
        """v = 0."""
        return {"v": params * 0}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """One step of the ball."""
        v = self.beta * opt["v"] + delta
        return params + self.lr * v, {"v": v}


def fedavgm() -> Algorithm:
    """FedAvgM: FedAvg with momentum on the server (Hsu et al. 2019)."""
    return fedavg().but(name="fedavgm", server=Momentum())
