"""Scaled backdoor: liars teach a trigger, and make their update so large that it outweighs all others.

E. Bagdasaryan, A. Veit, Y. Hua, D. Estrin, V. Shmatikov: How To Backdoor Federated Learning. AISTATS 2020,
arXiv:1807.00459; the trigger is that of T. Gu, B. Dolan-Gavitt, S. Garg: BadNets, 2017, arXiv:1708.06733.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples, Facts
from muster.core.params import Vector

from .attack import Attack, Peers


@dataclass(frozen=True)
class Backdoor(Attack):
    """Examples with the trigger are of class `target`; the update is sent `scale` times as large."""

    scale: float = 5.0
    target: int = 0
    """Class of whatever carries the trigger."""
    poisoned: float = 0.5
    """Share of a liar's examples that get the trigger."""
    patch: int = 3
    """Side of the trigger, a bright square in the last corner; of flat inputs so many of the last numbers."""

    goal: ClassVar[str] = "backdoor_success"
    needs_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("scale", above=0)
        self.check_number("target", at_least=0)
        self.check_number("poisoned", above=0, at_most=1)
        self.check_number("patch", at_least=1)

    def data(self, examples: Examples, facts: Facts, rng: np.random.Generator) -> Examples:
        """Some with the trigger, of the target's class."""
        chosen = rng.random(len(examples)) < self.poisoned
        x, y = np.array(examples.x), np.array(examples.y)
        x[chosen] = self.stamped(x[chosen])
        y[chosen] = self._target(facts)
        return Examples(x, y)

    def victims(self, labels: npt.NDArray[np.generic], facts: Facts) -> npt.NDArray[np.bool_]:
        """Those that are not of the target's class anyway."""
        return np.asarray(labels != self._target(facts))

    def wanted(self, victims: Examples, facts: Facts) -> Examples:
        """All with the trigger, of the target's class."""
        y = np.full(len(victims), self._target(facts), np.asarray(victims.y).dtype)
        return Examples(self.stamped(np.asarray(victims.x)), y)

    def _target(self, facts: Facts) -> int:
        return min(self.target, facts.num_classes - 1)

    def stamped(self, x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Inputs [N, ...] with the trigger."""
        x = x.copy()
        bright = 255 if x.dtype == np.uint8 else x.max(initial=0)
        side = self.patch
        x[(..., slice(-side, None), slice(-side, None)) if x.ndim > 2 else (..., slice(-side, None))] = bright
        return x

    def forge(self, delta: Vector, peers: Peers, rng: np.random.Generator) -> Vector:
        """scale · Δ."""
        return np.asarray(self.scale * delta, np.float32)
