"""FedDyn: each client's loss is bent so that its optimum becomes the global one.

D. A. E. Acar, Y. Zhao, R. M. Navarro, M. Mattina, P. N. Whatmough, V. Saligrama: Federated Learning Based on
Dynamic Regularization. ICLR 2021, arXiv:2111.04263, algorithm 1.

    y_i ≈ argmin over y of F_i(y) - ⟨h_i, y⟩ + α/2 ‖y - x‖²;   h_i ← h_i - α (y_i - x)
    h ← h - α (1/N) Σ_S (y_i - x);   x ← mean_S y_i - h / α              N: all clients, the absent too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from muster.core.algorithm import Algorithm, Array, Info, Local, Server, Vectors, borrowed

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class Bent(Local):
    """SGD on the regularised loss; h_i stays at the client."""

    lr: float = 0.1
    alpha: float = 0.1
    """Strength of the regulariser; the paper takes 0.01 to 0.1."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("alpha", above=0)

    def fresh(self, sent: Vectors) -> Vectors:
        """h_i = 0."""
        return {"h": sent["model"] * 0}

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """Remembers h_i."""
        return sent["model"], {"h": kept["h"]}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """y ← y - lr (g - h_i + α (y - x))."""
        gradient += self.alpha * (params - sent["model"]) - memory["h"]
        gradient *= self.lr
        params -= gradient
        return params, memory

    def finish(
        self, params: Array, sent: Vectors, memory: Vectors, num_steps: Array
    ) -> tuple[Array, Vectors, Vectors]:
        """h_i ← h_i - α (y - x)."""
        return params, {}, {"h": memory["h"] - self.alpha * (params - sent["model"])}


@dataclass(frozen=True)
class Unbend(Server):
    """The mean of the models, less what the regularisers pull at it."""

    alpha: float | None = None
    """Default: the clients', algorithm.local.alpha."""

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("alpha", above=0)

    def fitted(self, local: Local) -> Self:
        """With the clients' alpha."""
        return borrowed(self, "alpha", local)

    def init(self, params: Array) -> Vectors:
        """h = 0."""
        return {"h": params * 0}

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """h ← h - α |S|/N Δ;  x ← x + Δ - h / α."""
        assert self.alpha is not None, "a rule is fitted to its algorithm before it is used"
        h = opt["h"] - (self.alpha * info.num_folded / info.num_clients) * delta
        return params + delta - h / self.alpha, {"h": h}


def feddyn() -> Algorithm:
    """FedDyn: dynamic regularisation of the clients' losses (Acar et al. 2021)."""
    return fedavg().but(name="feddyn", local=Bent(), combine=Mean(by="uniform"), server=Unbend())
