"""Devices between two bounds, every speed as likely as another: for experiments with one thing varied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.errors import FieldError
from muster.core.population import Population
from muster.core.randomness import rng

from .devices import Devices


@dataclass(frozen=True)
class Uniform(Devices):
    """Compute and link even between two bounds each, drawn by seed; always there."""

    ms_low: float = 10.0
    """Milliseconds of one example's forward pass, at least."""
    ms_high: float = 100.0
    kbps_low: float = 1_000.0
    """Link speed in 1,000 bits a second, both ways, at least."""
    kbps_high: float = 100_000.0
    dropout: float = 0.0
    """Chance that a task is lost."""

    def __post_init__(self) -> None:
        self.check_number("ms_low", at_least=0)
        self.check_number("ms_high", at_least=0)
        self.check_number("kbps_low", above=0)
        self.check_number("kbps_high", above=0)
        self.check_number("dropout", at_least=0, at_most=1)
        for low, high in (("ms_low", "ms_high"), ("kbps_low", "kbps_high")):
            bound = getattr(self, low)
            if getattr(self, high) < bound:
                raise FieldError("uniform", high, getattr(self, high), f"at least {low} ({bound:g})")

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """Even draws; more clients leave the first ones as they are."""
        count = len(num_examples)
        speed, link = (rng(seed, "devices", stream).random(count) for stream in (0, 1))
        ms = (self.ms_low + (self.ms_high - self.ms_low) * speed).astype(np.float32)
        kbps = (self.kbps_low + (self.kbps_high - self.kbps_low) * link).astype(np.float32)
        return Population(num_examples, ms, kbps, kbps)
