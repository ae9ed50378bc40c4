"""DC-ASGD: a late gradient is corrected for how far the model has moved since.

S. Zheng, Q. Meng, T. Wang, W. Chen, N. Yu, Z.-M. Ma, T.-Y. Liu: Asynchronous Stochastic Gradient Descent with
Delay Compensation. ICML 2017, arXiv:1609.08326, algorithm 2 and equation 10.

    x ← x - lr (g + λ g² (x - x_sent))                          products by coordinate
    constant: λ;   adaptive: s_k ← m s_k + (1 - m) g²,  λ = λ0 / √(s_k + 1e-7), s_k of each worker

In terms of Δ = -lr g, which is what arrives, the correction is - (λ / lr) Δ² (x - x_sent).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from array_api_compat import array_namespace

from muster.core.algorithm import Algorithm, Local, Vectors, borrowed
from muster.core.tables import Table

from .asgd import asgd
from .fedavg import Mean

TINY = 1e-7


@dataclass(frozen=True)
class Compensated(Mean):
    """The mean of compensated gradients."""

    strength: float = 2.0
    """λ0 if adaptive, else λ, for which 0.04 is usual."""
    adaptive: bool = True
    m: float = 0.95
    """How slowly the mean of the squares follows."""
    lr: float | None = None
    """The clients' rate; default: algorithm.local.lr."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("strength", at_least=0)
        self.check_number("m", at_least=0, below=1)
        self.check_number("lr", above=0)

    def fitted(self, local: Local) -> Self:
        """With the clients' rate."""
        return borrowed(self, "lr", local)

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """Δ - (λ / lr) Δ² (x - x_sent); what is kept of a worker is its s_k."""
        assert self.lr is not None, "a rule is fitted to its algorithm before it is used"
        delta, strength = up["delta"], self.strength
        if self.adaptive:
            squares = (1 - self.m) * (delta / self.lr) ** 2
            squares = self.m * kept["squares"] + squares if kept else squares
            kept = {"squares": squares}
            strength = strength / array_namespace(delta).sqrt(squares + TINY)
        moved = now["model"] - sent["model"]
        return {"delta": delta - strength / self.lr * delta * delta * moved}, kept


def dcasgd() -> Algorithm:
    """DC-ASGD: ASGD with delay compensation (Zheng et al. 2017)."""
    return asgd().but(name="dcasgd", combine=Compensated(by="uniform"))
