"""What a population of devices must be able to say of itself."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from muster.core.part import Part
from muster.core.population import Population


class Devices(Part):
    """Draws the devices that clients have: how fast they compute, and their links."""

    dropout: float
    """Chance that a task is lost on the way: the client fails or goes offline before it reports."""

    @abstractmethod
    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """One device for each client; `num_examples` i32[C] says what each client holds."""
