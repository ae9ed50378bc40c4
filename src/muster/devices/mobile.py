"""Phones, as unequal as they are: drawn from the quantiles of a real trace.

The quantiles are those of FedScale's 500,000-row `client_device_capacity` (F. Lai et al.: FedScale,
ICML 2022, arXiv:2105.11367; from AI-Benchmark and MobiPerf over WiFi), read off its published plots.
Compute and link are independent there (correlation -0.02), so they are here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.population import Population
from muster.core.randomness import rng

from .devices import Devices

SHARES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
MS_PER_EXAMPLE = (15, 15, 19, 21, 24, 41, 147, 175, 190, 196, 199)
"""Milliseconds of one example's forward pass of a MobileNet-like model, at SHARES."""
LINK_KBPS = (1_017, 1_059, 1_400, 1_817, 2_883, 6_088, 14_038, 32_779, 52_341, 99_647, 204_057)
"""Link speed in 1,000 bits a second, at SHARES; between them it grows geometrically."""


@dataclass(frozen=True)
class Mobile(Devices):
    """Phones on WiFi: compute 15 to 199 ms an example, links 1 to 204 Mbit/s, drawn by seed."""

    dropout: float = 0.06
    """Chance that a task is lost; 6 to 10 % in production (Bonawitz et al., MLSys 2019)."""

    def __post_init__(self) -> None:
        self.check_number("dropout", at_least=0, at_most=1)

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """Inverse-quantile draws; the link serves both directions."""
        count = len(num_examples)
        speed = np.interp(rng(seed, "devices", 0).random(count), SHARES, MS_PER_EXAMPLE)
        link = np.exp(np.interp(rng(seed, "devices", 1).random(count), SHARES, np.log(LINK_KBPS)))
        kbps = link.astype(np.float32)
        return Population(num_examples, speed.astype(np.float32), kbps, kbps)
