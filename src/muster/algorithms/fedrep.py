"""FedRep: first each client fits its own head, then all improve the shared representation.

L. Collins, H. Hassani, A. Mokhtari, S. Shakkottai: Exploiting Shared Representations for Personalized
Federated Learning. ICML 2021, arXiv:2102.07078, algorithm 1.

    the task's batches once with the body fixed:   h_i ← h_i - lr ∇_h
    the same batches with the head fixed:          φ ← φ - lr ∇_φ, which is averaged as in FedAvg
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Array, Vectors

from .fedavg import fedavg
from .fedper import OwnHead


@dataclass(frozen=True)
class HeadThenBody(OwnHead):
    """Two passes, each with one part of the model fixed."""

    passes: ClassVar[int] = 2
    needs_mask: ClassVar[bool] = True

    def enter(self, number: int, params: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """The head is free in the first pass, the body in the second."""
        head = sent["personal"]
        return params, {**memory, "free": head if number == 0 else 1 - head}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """SGD's step of the part that is free; momentum of the other does not move it."""
        gradient *= memory["free"]
        before = params + 0
        moved, memory = super().step(params, gradient, sent, memory)
        return before + memory["free"] * (moved - before), memory


def fedrep() -> Algorithm:
    """FedRep: heads of the clients' own, trained before the shared body (Collins et al. 2021)."""
    return fedavg().but(name="fedrep", local=HeadThenBody())
