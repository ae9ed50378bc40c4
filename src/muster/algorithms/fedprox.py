"""FedProx: a spring that holds each client near the model it was sent.

T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith: Federated Optimization in Heterogeneous
Networks. MLSys 2020, arXiv:1812.06127, algorithm 2.

    y_k ≈ argmin over y of F_k(y) + μ/2 ‖y - x‖², by SGD:  y ← y - lr (g + μ (y - x))
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.core.algorithm import Algorithm, Array, Vectors

from .fedavg import SGD, fedavg, worth


@dataclass(frozen=True)
class Prox(SGD):
    """SGD on the loss and μ/2 ‖y - x‖², x being the model sent."""

    mu: float = 0.01
    """Strength of the spring; the paper tries 0.001, 0.01, 0.1 and 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("mu", at_least=0)

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """g ← g + μ (y - x), then SGD's step."""
        gradient += self.mu * (params - sent["model"])
        return super().step(params, gradient, sent, memory)

    def worth(self, num_steps: int) -> float:
        """The spring lets what was done fade: A ← (1 - lr μ) A + k."""
        return worth(num_steps, self.momentum, 1.0 - self.lr * self.mu)


def fedprox() -> Algorithm:
    """FedProx: FedAvg with a proximal term in the local loss (Li et al. 2020)."""
    return fedavg().but(name="fedprox", local=Prox())
