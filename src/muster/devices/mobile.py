"""Phones, as unequal as they are: drawn from distributions that were fitted to real traces.

Compute and links are those of FedScale's `client_device_capacity` (F. Lai et al.: FedScale, ICML 2022,
arXiv:2105.11367), hours online those of FLASH (C. Yang et al., WWW 2021); `fitted.py` has the numbers,
`tools/fit_devices.py` their making. Compute and link are independent there (correlation -0.02), so they
are here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from muster.core.population import Population
from muster.core.randomness import rng

from . import fitted
from .availability import Availability
from .devices import Devices
from .diurnal import shifts, weeks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mobile(Devices):
    """Phones on WiFi: compute 15 to 199 ms an example, links 1 to 204 Mbit/s, drawn by seed."""

    dropout: float = 0.06
    """Chance that a task is lost, by leaving or failing: 6 to 10 % in production (Bonawitz et al., MLSys
    2019). Under `diurnal` those who leave are lost besides; 0 leaves only them."""
    links: Literal["symmetric", "asymmetric"] = "symmetric"
    """Whether up is as fast as down, or 0.1 to 1.5 times as fast (median 0.71), as FLASH measured."""
    availability: Literal["always", "diurnal"] = "always"
    """Whether phones are always there, or when they charge, idle and are on WiFi: 18 % of the time."""
    num_traces: int = 4_096
    """Different weeks under `diurnal`; clients draw one each, and a day and time zone to begin it at."""
    zone_spread: float = 1.0
    """Hours by which time zones differ from the middle one; 12 is the whole world, without a night."""

    def __post_init__(self) -> None:
        self.check_number("dropout", at_least=0, at_most=1)
        self.check_choice("links", ("symmetric", "asymmetric"))
        self.check_choice("availability", ("always", "diurnal"))
        self.check_number("num_traces", at_least=1, at_most=1_000_000)
        self.check_number("zone_spread", at_least=0, at_most=12)

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """Inverse-quantile draws. More clients leave the first ones' speed, links and memory as they are."""
        count = len(num_examples)
        place = rng(seed, "devices", 0).random(count)
        speed = np.rint(np.interp(place, fitted.SHARES, fitted.MS))  # the trace has whole milliseconds
        down = np.exp(np.interp(rng(seed, "devices", 1).random(count), fitted.SHARES, np.log(fitted.KBPS)))
        up = down
        if self.links == "asymmetric":
            up = down * np.interp(rng(seed, "devices", 2).random(count), fitted.UP_SHARES, fitted.UP_RATIOS)
        return Population(
            num_examples,
            speed.astype(np.float32),
            down.astype(np.float32),
            up.astype(np.float32),
            memory_mb=_memory(place, seed),
            availability=self._availability(count, seed),
        )

    def _availability(self, count: int, seed: int) -> Availability | None:
        if self.availability == "always":
            return None
        row = rng(seed, "devices", 20).integers(0, self.num_traces, count, np.int32)
        return Availability(weeks(self.num_traces, seed), row, shifts(count, self.zone_spread, seed))


def _memory(place: Floats, seed: int) -> npt.NDArray[np.float32]:
    """MB of phones at `place` among all by time per example: of the fastest the most, as far as they tie.

    A share MEMORY_TIE of phones has the memory of its rank, the others any: so ranks correlate by as much.
    """
    tied = rng(seed, "devices", 3).random(len(place)) < fitted.MEMORY_TIE
    rank = np.where(tied, 1 - place, rng(seed, "devices", 4).random(len(place)))
    at = np.searchsorted(np.cumsum(fitted.MEMORY_SHARES)[:-1], rank, side="right")
    return np.asarray(fitted.MEMORY_MB, np.float32)[at]
