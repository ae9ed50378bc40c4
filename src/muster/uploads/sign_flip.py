"""Sign flip: liars send the opposite of what they have learnt.

L. Li, W. Xu, T. Chen, G. B. Giannakis, Q. Ling: RSA: Byzantine-Robust Stochastic Aggregation Methods. AAAI
2019, arXiv:1811.03761.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.params import Vector

from .attack import Attack, Peers


@dataclass(frozen=True)
class SignFlip(Attack):
    """-scale · Δ."""

    scale: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("scale", above=0)

    def forge(self, delta: Vector, peers: Peers, rng: np.random.Generator) -> Vector:
        """-scale · Δ."""
        return np.asarray(-self.scale * delta, np.float32)
