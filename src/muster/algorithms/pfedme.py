"""pFedMe: the shared model is the centre of the clients' Moreau envelopes.

C. T. Dinh, N. H. Tran, T. D. Nguyen: Personalized Federated Learning with Moreau Envelopes. NeurIPS 2020,
arXiv:2006.08848, algorithm 1.

    each batch:  K times  θ ← θ - lr (∇F_i(θ) + λ (θ - w));   then  w ← w - lr_outer λ (w - θ)
    x ← (1 - β) x + β mean_S w_i
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Array, Local, Vectors

from .fedavg import Add, Mean, fedavg


@dataclass(frozen=True)
class Envelope(Local):
    """Solves for the personal model θ on each batch, and moves the local w towards it."""

    lr: float = 0.01
    """Of the K inner steps."""
    lr_outer: float = 0.01
    """η of the paper."""
    pull: float = 15.0
    """λ: how near θ is held to w."""
    repeats: int = 5
    """K, steps on each batch."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("lr_outer", above=0)
        self.check_number("pull", above=0)
        self.check_number("repeats", at_least=1)

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """θ = w = x."""
        return sent["model"], {"w": sent["model"]}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """θ ← θ - lr (g + λ (θ - w))."""
        gradient += self.pull * (params - memory["w"])
        gradient *= self.lr
        params -= gradient
        return params, memory

    def settle(self, params: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """w ← w - lr_outer λ (w - θ)."""
        w = memory["w"]
        return params, {"w": w - self.lr_outer * self.pull * (w - params)}

    def finish(
        self, params: Array, sent: Vectors, memory: Vectors, num_steps: Array
    ) -> tuple[Array, Vectors, Vectors]:
        """w goes up, θ stays."""
        return memory["w"], {}, {"own": params + 0}

    def own(self, params: Array, kept: Vectors) -> Array:
        """θ."""
        return kept["own"]


def pfedme() -> Algorithm:
    """pFedMe: personal models by Moreau envelopes; server.lr is β (Dinh et al. 2020)."""
    return fedavg().but(name="pfedme", local=Envelope(), combine=Mean(by="uniform"), server=Add())
