"""Links whose speed varies in time: traces of kbit/s second by second, and which of them a client has.

A function of (client, instant, bits), like availability: nothing moves on, so tasks may be timed in any
order and again after a resume.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError
from muster.core.tables import SECOND, Ids, frozen

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """N periodic traces of a link's speed, one value a second; after its last second each begins again.

    Args:
        kbps: f64[S] >= 0, all traces one after the other.
        offsets: i64[N+1]; trace n owns the seconds offsets[n] to offsets[n+1].

    Raises:
        DataError: A trace has no second in which anything passes.

    """

    kbps: Floats
    offsets: Ids
    _sums: Floats = field(init=False, repr=False, compare=False)
    """Bits that have passed before each second, on one long axis; f64[S+1]."""

    def __post_init__(self) -> None:
        sums = np.concatenate([[0.0], np.cumsum(1000.0 * self.kbps)])
        object.__setattr__(self, "_sums", frozen(sums))
        still = np.flatnonzero(np.diff(sums[self.offsets]) <= 0)
        if len(still):
            raise DataError(
                f"link trace {still[0]} lets nothing pass: it has no seconds, or all of them are 0"
            )

    def transfer(self, rows: Ids, at_ns: Ids, bits: float | Floats) -> Ids:
        """ns that `bits` take over trace rows[i] from the instant at_ns[i] on, i64[K].

        `bits` is one number for all, or f64[K].
        """
        if np.max(bits, initial=0.0) <= 0:
            return np.zeros(len(rows), np.int64)
        low, high = self.offsets[rows], self.offsets[rows + 1]
        period = (high - low) * SECOND
        phase = at_ns % period
        second, passed = low + phase // SECOND, phase % SECOND / SECOND
        total = self._sums[high] - self._sums[low]
        # What has to have passed since the trace began for the last time, and how often it goes round.
        wanted = self._sums[second] - self._sums[low] + 1000.0 * self.kbps[second] * passed + bits
        rounds = np.ceil(wanted / total) - 1
        rest = self._sums[low] + np.clip(wanted - rounds * total, 0.0, total)
        last = np.clip(np.searchsorted(self._sums, rest, side="left") - 1, low, high - 1)
        share = (rest - self._sums[last]) / np.maximum(1000.0 * self.kbps[last], 1e-300)
        end = (last - low) * SECOND + np.rint(np.clip(share, 0.0, 1.0) * SECOND).astype(np.int64)
        return np.asarray(np.maximum(rounds.astype(np.int64) * period + end - phase, 1), np.int64)


@dataclass(frozen=True)
class Links:
    """Which traces each client has for its two ways, and by how much its clock is shifted.

    Args:
        series: The traces.
        down: i64[C], the trace of each client's downloads.
        up: i64[C], of its uploads.
        shift: i64[C] ns: at instant t a client's link is where its trace is at t + shift.

    """

    series: Series
    down: Ids
    up: Ids
    shift: Ids

    def down_ns(self, clients: Ids, at_ns: Ids, bits: float) -> Ids:
        """ns that a download of `bits` takes each client from its instant on, i64[K]."""
        return self.series.transfer(self.down[clients], at_ns + self.shift[clients], bits)

    def up_ns(self, clients: Ids, at_ns: Ids, bits: float | Floats) -> Ids:
        """The same of uploads."""
        return self.series.transfer(self.up[clients], at_ns + self.shift[clients], bits)
