"""FedAvgM: a heavy ball on the server. Hsu, Qi, Brown 2019, arXiv:1909.06335, section 4.1."""

from dataclasses import dataclass

from muster import Server
from muster.algorithms.fedavg import fedavg as plain


@dataclass(frozen=True)
class Momentum(Server):
    """v ← beta · v + Δ;  x ← x + lr · v."""

    lr: float = 1.0
    beta: float = 0.9

    def apply(self, params, delta, opt, info):
        velocity = self.beta * opt["v"] + delta if opt else delta
        return params + self.lr * velocity, {"v": velocity}


def fedavgm():
    return plain().but(name="fedavgm", server=Momentum())
