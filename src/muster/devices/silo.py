"""Data centres and other silos: few, always there, on fast links, and unequal by a known ratio.

The ratio is ESync's h_c, time per example of the slowest over that of the fastest (Z. Li et al.: ESync,
IEEE TSC 2020); its experiments made it with CPU quotas, 10 to 300.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.errors import FieldError
from muster.core.population import Population
from muster.core.randomness import rng

from .devices import Devices


@dataclass(frozen=True)
class Silo(Devices):
    """Data-centre workers: the slowest computes `ratio` times as long as the fastest; links are fast."""

    ratio: float = 10.0
    """Time per example of the slowest worker over that of the fastest; in between, even steps of ln."""
    fastest_ms: float = 1.0
    """Milliseconds of one example's forward pass on the fastest worker."""
    quotas: tuple[float, ...] = (1.0,)
    """Shares of a CPU: worker 0 gets the first, worker 1 the second, ... and again from the first."""
    kbps: float = 1_000_000.0
    """Link speed in 1,000 bits a second, both ways."""
    dropout: float = 0.0
    """Chance that a task is lost."""

    def __post_init__(self) -> None:
        self.check_number("ratio", at_least=1)
        self.check_number("fastest_ms", above=0)
        self.check_number("kbps", above=0)
        self.check_number("dropout", at_least=0, at_most=1)
        numbers = [isinstance(q, (int, float)) and not isinstance(q, bool) for q in self.quotas]
        if not (numbers and all(numbers) and all(0 < q <= 1 for q in self.quotas)):
            raise FieldError("silo", "quotas", self.quotas, "a list of numbers above 0 and at most 1")

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """Who is how slow is drawn by seed; both ends of the ratio are there from two workers on."""
        count = len(num_examples)
        step = rng(seed, "devices", 0).permutation(count) / max(count - 1, 1)
        quota = np.resize(np.asarray(self.quotas, np.float64), count)
        speed = (self.fastest_ms * self.ratio**step / quota).astype(np.float32)
        link = np.full(count, self.kbps, np.float32)
        return Population(num_examples, speed, link, link)
