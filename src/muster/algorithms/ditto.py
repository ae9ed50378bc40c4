"""Ditto: a personal model beside the shared one, held near it.

T. Li, S. Hu, A. Beirami, V. Smith: Ditto: Fair and Robust Federated Learning Through Personalization. ICML
2021, arXiv:2012.04221, algorithm 1.

    the shared model as in FedAvg:   y ← y - lr ∇F_i(y), from x
    the client's own:                v_i ← v_i - lr (∇F_i(v_i) + λ (v_i - x))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Array, Vectors

from .fedavg import SGD, fedavg


@dataclass(frozen=True)
class Beside(SGD):
    """Two passes over the task's batches: the shared model, then the client's own."""

    pull: float = 1.0
    """λ: how near the own model is held to the shared one; the paper takes 0.1 to 2."""

    keeps: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("pull", at_least=0)

    def fresh(self, sent: Vectors) -> Vectors:
        """The model sent."""
        return {"own": sent["model"]}

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """Remembers the own model."""
        start, memory = super().begin(sent, kept)
        return start, {**memory, "own": kept["own"]}

    def enter(self, number: int, params: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """Before the second pass the models change places, and momentum begins anew."""
        if number == 0:
            return params, memory
        _, rest = super().begin(sent, {})
        return memory["own"], {**rest, "shared": params + 0}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """SGD's step; in the second pass g ← g + λ (v - x)."""
        if "shared" in memory:
            gradient += self.pull * (params - sent["model"])
        return super().step(params, gradient, sent, memory)

    def finish(
        self, params: Array, sent: Vectors, memory: Vectors, num_steps: Array
    ) -> tuple[Array, Vectors, Vectors]:
        """The shared model goes up, the own one stays."""
        return memory["shared"], {}, {"own": params + 0}

    def own(self, params: Array, kept: Vectors) -> Array:
        """v_i."""
        return kept["own"]


def ditto() -> Algorithm:
    """Ditto: a personal model near the shared one (Li et al. 2021)."""
    return fedavg().but(name="ditto", local=Beside())
