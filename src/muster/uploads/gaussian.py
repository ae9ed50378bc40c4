"""Gaussian: liars send noise.

P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer: Machine Learning with Adversaries: Byzantine
Tolerant Gradient Descent. NIPS 2017, arXiv:1703.02757, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.params import Vector

from .attack import Attack, Peers


@dataclass(frozen=True)
class Gaussian(Attack):
    """Independent normal numbers in place of the update."""

    std: float = 1.0
    """Their standard deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("std", above=0)

    def forge(self, delta: Vector, peers: Peers, rng: np.random.Generator) -> Vector:
        """N(0, std²)."""
        return self.std * rng.standard_normal(len(delta), np.float32)
