"""FedYogi: an adaptive step of the server along the clients' mean delta.

S. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, H. B. McMahan: Adaptive
Federated Optimization. ICLR 2021, arXiv:2003.00295, algorithm 2.

    m ← β1 m + (1 - β1) Δ
    v ← v - (1 - β2) Δ² sign(v - Δ²)
    x ← x + lr m / (√v + τ)            m0 = 0, v0 = τ², no bias correction
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Array, Info, Server, Vectors

from .fedavg import fedavg


@dataclass(frozen=True)
class Yogi(Server):
    """Yogi's second moment: it grows and shrinks by at most (1 - β2) Δ² a step."""

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    """Adaptivity: the smaller, the more each coordinate's step is scaled by its own history."""

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("beta1", at_least=0, below=1)
        self.check_number("beta2", at_least=0, below=1)
        self.check_number("tau", above=0)

    def init(self, params: Array) -> Vectors:
        """m = 0, v = τ²."""
        xp = array_namespace(params)
        return {"m": xp.zeros_like(params), "v": xp.full_like(params, self.tau**2)}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """The three lines of the paper's algorithm 2."""
        xp = array_namespace(params)
        square = delta * delta
        m = self.beta1 * opt["m"] + (1 - self.beta1) * delta
        v = self.second(opt["v"], square)
        return params + self.lr * m / (xp.sqrt(v) + self.tau), {"m": m, "v": v}

    def second(self, v: Array, square: Array) -> Array:
        """v ← v - (1 - β2) Δ² sign(v - Δ²)."""
        return v - (1 - self.beta2) * square * array_namespace(v).sign(v - square)


def fedyogi() -> Algorithm:
    """FedYogi: FedAvg whose server takes Yogi steps (Reddi et al. 2021)."""
    return fedavg().but(name="fedyogi", server=Yogi())
