"""SCAFFOLD: every client steps along its gradient less its own drift.

S. P. Karimireddy, S. Kale, M. Mohri, S. J. Reddi, S. U. Stich, A. T. Suresh: SCAFFOLD: Stochastic
Controlled Averaging for Federated Learning. ICML 2020, arXiv:1910.06378, algorithm 1, option II.

    server sends x, c;  client i:  y ← x;  τ times:  y ← y - lr (g - c_i + c)
        c_i⁺ = c_i - c + (x - y) / (τ lr);  sends y - x and c_i⁺ - c_i;  c_i ← c_i⁺
    x ← x + lr_server mean(Δ);  c ← c + |S| / N mean(Δc)                      plain means over S
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from muster.core.algorithm import Algorithm, Array, Info, Local, Server, Vectors

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class Controlled(Local):
    """SGD corrected by control variates. A constant rate and no momentum: c_i is then the mean gradient."""

    lr: float = 0.1

    keeps: ClassVar[bool] = True
    down: ClassVar[tuple[str, ...]] = ("model", "control")
    up: ClassVar[tuple[str, ...]] = ("delta", "control")

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)

    def fresh(self, sent: Vectors) -> Vectors:
        """c_i = 0."""
        return {"control": sent["model"] * 0}

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """Remembers c_i, and c - c_i."""
        return sent["model"], {"control": kept["control"], "drift": sent["control"] - kept["control"]}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """y ← y - lr (g + c - c_i)."""
        gradient += memory["drift"]
        gradient *= self.lr
        params -= gradient
        return params, memory

    def finish(
        self, params: Array, sent: Vectors, memory: Vectors, num_steps: Array
    ) -> tuple[Array, Vectors, Vectors]:
        """c_i⁺ - c_i = (x - y) / (τ lr) - c goes up, c_i⁺ stays."""
        change = (sent["model"] - params) / (num_steps * self.lr) - sent["control"]
        return params, {"control": change}, {"control": memory["control"] + change}


@dataclass(frozen=True)
class Control(Server):
    """Adds the mean delta, and keeps c, the mean of all clients' control variates."""

    lr: float = 1.0

    reads: ClassVar[tuple[str, ...]] = ("delta", "control")
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)

    def init(self, params: Array) -> Vectors:
        """c = 0."""
        return {"control": params * 0}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """Clients that were not there count with no change of their c_i."""
        share = info.num_folded / info.num_clients
        return params + self.lr * delta, {"control": opt["control"] + share * info.folded["control"]}


def scaffold() -> Algorithm:
    """SCAFFOLD: control variates against the clients' drift (Karimireddy et al. 2020)."""
    return fedavg().but(name="scaffold", local=Controlled(), combine=Mean(by="uniform"), server=Control())
