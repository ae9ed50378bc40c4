"""ASGD: workers push gradients and pull the model, and nobody waits.

J. Dean, G. S. Corrado, R. Monga, K. Chen, M. Devin, Q. V. Le, M. Z. Mao, M. Ranzato, A. Senior, P. Tucker,
K. Yang, A. Y. Ng: Large Scale Distributed Deep Networks. NeurIPS 2012, section 4.1 (Downpour SGD).

    on arrival of g, the gradient of one mini-batch at the model that the worker last pulled:
        x ← x - lr g;  the worker pulls x

With as many clients as `concurrency`, each worker pulls as soon as it has pushed.
"""

from __future__ import annotations

from muster.core.algorithm import Algorithm

from .fedavg import Add, Mean, Uniform
from .fedbuff import Buffered
from .ssgd import OneBatch


def asgd() -> Algorithm:
    """ASGD: every gradient moves the model as it arrives (Dean et al. 2012)."""
    pace = Buffered(size=1, concurrency=4)
    return Algorithm("asgd", Uniform(), pace, OneBatch(), Mean(by="uniform"), Add())
