"""The interface of attacks: which clients lie, what they train on, and what they send."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples, Facts
from muster.core.params import Vector
from muster.core.part import Part
from muster.core.randomness import rng

Peers = Callable[[int], Iterator[Vector]]
"""Honest updates of other liars, from the model that the liar got, at most so many: what liars may share."""


@dataclass(frozen=True)
class Attack(Part, ABC):
    """Some of the clients lie; this says how. To test defences with."""

    share: float = field(default=0.2, kw_only=True)
    """Share of the clients that lie, rounded; who they are is drawn by the job's seed."""

    goal: ClassVar[str] = ""
    """The metric that says how far the attack has got: the share of its `victims` that are taken for what it
    wants them to be. Empty: it only does harm."""
    needs_images: ClassVar[bool] = False
    """Whether it can only be done to inputs that are numbers, not to text."""

    def __post_init__(self) -> None:
        self.check_number("share", at_least=0, at_most=1)

    def liars(self, seed: int, num_clients: int) -> npt.NDArray[np.int64]:
        """The clients that lie, i64[round(share · C)], in growing order."""
        count = round(self.share * num_clients)
        return np.sort(rng(seed, "liars").choice(num_clients, count, replace=False))

    def data(self, examples: Examples, facts: Facts, rng: np.random.Generator) -> Examples:
        """What a liar trains on."""
        return examples

    def victims(self, labels: npt.NDArray[np.generic], facts: Facts) -> npt.NDArray[np.bool_]:
        """Of test examples with these labels, those on which `goal` is measured, bool[N]."""
        return np.zeros(len(labels), bool)

    def wanted(self, victims: Examples, facts: Facts) -> Examples:
        """Them as the attacker shows them to the model, with the label that it wants."""
        return victims

    def forge(self, delta: Vector, peers: Peers, rng: np.random.Generator) -> Vector:
        """What a liar sends, from what it has trained, f32[P]; `delta` may be changed."""
        return delta
