"""SSGD: synchronous SGD with a parameter server, one mini-batch a worker and step.

J. Chen, X. Pan, R. Monga, S. Bengio, R. Jozefowicz: Revisiting Distributed Synchronous SGD. 2016,
arXiv:1604.00981, algorithms 1 and 2 without backup workers.

    each of K workers: g_k = ∇ of the mean loss of one mini-batch at x;   x ← x - lr (1/K) Σ g_k
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from muster.core.algorithm import Algorithm
from muster.core.work import Work

from .fedavg import SGD, Mean, fedavg


@dataclass(frozen=True)
class OneBatch(SGD):
    """One step of SGD on a mini-batch; only its size is the job's."""

    def work(self, asked: Work) -> Work:
        """One mini-batch."""
        return replace(asked, steps=1)


def ssgd() -> Algorithm:
    """SSGD: one mini-batch step a round, workers count alike (Chen et al. 2016)."""
    return fedavg().but(name="ssgd", local=OneBatch(), combine=Mean(by="uniform"))
