"""A little is enough: liars agree on one update, just far enough from the mean to do harm unnoticed.

M. Baruch, G. Baruch, Y. Goldberg: A Little Is Enough: Circumventing Defenses For Distributed Learning.
NeurIPS 2019, arXiv:1902.06156, algorithm 3.

    μ, σ: mean and standard deviation per coordinate, over what liars would honestly send;  sent: μ - z σ
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.params import Vector

from .attack import Attack, Peers


@dataclass(frozen=True)
class Little(Attack):
    """μ - z σ, from honest updates of `num_peers` liars; each costs a training."""

    z: float = 1.5
    """Standard deviations from the mean; what goes unnoticed follows from the numbers of both sides."""
    num_peers: int = 4
    """Liars whose honest updates are looked at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("z")
        self.check_number("num_peers", at_least=2)

    def forge(self, delta: Vector, peers: Peers, rng: np.random.Generator) -> Vector:
        """The same for all liars that got the same model. One liar alone sends what it has trained."""
        count, mean, square = 0, np.zeros(len(delta)), np.zeros(len(delta))
        for honest in peers(self.num_peers):
            count += 1
            away = honest - mean
            mean += away / count
            square += away * (honest - mean)
        if count < 2:
            return delta
        return np.asarray(mean - self.z * np.sqrt(square / count), np.float32)
