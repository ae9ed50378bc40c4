"""FedSGD: one step on all of a client's examples.

H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas: Communication-Efficient Learning of
Deep Networks from Decentralized Data. AISTATS 2017, arXiv:1602.05629, section 2.

    x ← x - lr Σ n_i ∇F_i(x) / Σ n_i             FedAvg with one full-batch step
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from muster.core.algorithm import Algorithm
from muster.core.work import Work

from .fedavg import SGD, fedavg


@dataclass(frozen=True)
class FullBatch(SGD):
    """One step of SGD on all examples, whatever the job's train section says."""

    def work(self, asked: Work) -> Work:
        """One full batch."""
        return replace(asked, steps=1, batch_size=0)


def fedsgd() -> Algorithm:
    """FedSGD: one full-batch step a round (McMahan et al. 2017)."""
    return fedavg().but(name="fedsgd", local=FullBatch())
