"""Equal devices that never fail: what is left of a run's time is the algorithm's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.population import Population

from .devices import Devices


@dataclass(frozen=True)
class AlwaysOn(Devices):
    """Every client has the same device and the same link, and is always there."""

    ms_per_example: float = 10.0
    """Milliseconds of one example's forward pass."""
    down_kbps: float = 100_000.0
    up_kbps: float = 100_000.0
    dropout: float = 0.0
    """Chance that a task is lost."""

    def __post_init__(self) -> None:
        self.check_number("ms_per_example", at_least=0)
        self.check_number("down_kbps", above=0)
        self.check_number("up_kbps", above=0)
        self.check_number("dropout", at_least=0, at_most=1)

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """The same row for everyone; nothing is drawn."""
        columns = (self.ms_per_example, self.down_kbps, self.up_kbps)
        speed, down, up = (np.full(len(num_examples), value, np.float32) for value in columns)
        return Population(num_examples, speed, down, up)
