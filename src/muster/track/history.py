"""All records of a run as columns of numbers: what curves and the report are drawn from."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Iterable

import numpy as np
import numpy.typing as npt

from muster.core.record import Record, Span

from .summary import Tally, falls

Column = npt.NDArray[np.float64]

_CELLS = (
    "version",
    "now_secs",
    "wall_secs",
    "loss",
    "num_accepted",
    "num_refused",
    "num_late",
    "num_lost",
    "num_discarded",
    "up_bytes",
    "down_bytes",
    "device_secs_used",
    "device_secs_wasted",
    "num_online",
)

MOST_SPANS = 5_000
"""Tasks that are kept for a timeline: the first ones, which fill more than a page."""


class History:
    """Columns f64[versions] by the names of Record's fields; about 100 bytes per version.

    Args:
        records: Read once, in order of version.
        target: Metric and value to reach, or None.
    """

    def __init__(self, records: Iterable[Record], target: tuple[str, float] | None = None) -> None:
        rows: list[tuple[float, ...]] = []
        evaluated: dict[str, list[tuple[int, float]]] = {}
        taken: Counter[int] = Counter()
        seen: list[int] = []
        self.tally = Tally(target)
        self.surrogate = False
        self.spans: list[Span] = []
        """The first MOST_SPANS tasks that the records tell one by one."""
        wasted: dict[str, list[tuple[int, float]]] = {}
        for record in records:
            self.tally.add(record)
            self.surrogate |= record.surrogate
            taken.update(record.clients)
            seen.append(len(taken))
            self.spans += record.spans[: MOST_SPANS - len(self.spans)]
            for reason, secs in record.wasted_by_reason.items():
                wasted.setdefault(reason, []).append((len(rows), secs))
            for name, value in record.metrics.items():
                evaluated.setdefault(name, []).append((len(rows), value))
            cells = (getattr(record, name) for name in _CELLS)
            rows.append(tuple(np.nan if cell is None else cell for cell in cells))
        table = np.array(rows, np.float64).reshape(len(rows), len(_CELLS))
        self.columns: dict[str, Column] = {name: table[:, i] for i, name in enumerate(_CELLS)}
        self.metrics = {name: _pairs(found) for name, found in evaluated.items()}
        """By metric: the rows at which it was evaluated, and its values there."""
        self._wasted = {reason: _pairs(found) for reason, found in wasted.items()}
        self.participation = np.array(sorted(taken.values()), np.int64)
        """How often each client that took part did, ascending."""

        self.seen = np.array(seen, np.float64)
        """How many different clients took part up to each row."""

    def __len__(self) -> int:
        return len(self.columns["version"])

    @property
    def trained(self) -> npt.NDArray[np.bool_]:
        """Which rows are versions that were made, not the untrained model."""
        return np.asarray(self.columns["version"] > 0)

    def durations(self) -> tuple[Column, Column]:
        """Versions and the virtual seconds each took, without the untrained model."""
        now = self.columns["now_secs"]
        secs = np.diff(now, prepend=0.0)
        return self.columns["version"][self.trained], secs[self.trained]

    def wasted(self) -> dict[str, Column]:
        """Device seconds that each version wasted, by reason; the greatest waster first."""
        columns = {}
        for reason, (rows, secs) in self._wasted.items():
            columns[reason] = np.zeros(len(self))
            columns[reason][rows] = secs
        return dict(sorted(columns.items(), key=lambda pair: -float(pair[1].sum())))

    def device_secs(self) -> Column:
        """Device seconds up to each row, used and wasted."""
        secs = self.columns["device_secs_used"] + self.columns["device_secs_wasted"]
        return np.asarray(np.cumsum(secs), np.float64)

    def traffic(self) -> Column:
        """Bytes sent and received up to each row."""
        return np.asarray(np.cumsum(self.columns["down_bytes"] + self.columns["up_bytes"]), np.float64)

    def levels(self, metric: str) -> tuple[npt.NDArray[np.int64], Column]:
        """Rows at which a metric was better than ever before, and its values there."""
        rows, values = self.points(metric)
        best = np.minimum.accumulate(values) if falls(metric) else np.maximum.accumulate(values)
        fresh = np.append(True, best[1:] != best[:-1])[: len(best)]
        return rows[fresh], values[fresh]

    def first_row(self, metric: str, value: float) -> int | None:
        """The first row whose metric is at least as good as `value`; None: there is none."""
        rows, values = self.levels(metric)
        met = rows[values <= value] if falls(metric) else rows[values >= value]
        return int(met[0]) if len(met) else None

    def curve(self, metric: str, against: str) -> tuple[Column, Column]:
        """x and y of a metric (`""` is the training loss), without the points that are not finite."""
        rows, y = self.points(metric)
        return self.columns[against][rows], y

    def points(self, metric: str) -> tuple[npt.NDArray[np.int64], Column]:
        """Rows and values of a metric (`""` is the training loss), without those that are not finite."""
        if metric:
            rows, values = self.metrics.get(metric, (np.zeros(0, np.int64), np.zeros(0)))
        else:
            rows, values = np.arange(len(self)), self.columns["loss"]
        keep = np.isfinite(values)
        return rows[keep], values[keep]


def _pairs(found: list[tuple[int, float]]) -> tuple[npt.NDArray[np.int64], Column]:
    return np.array([row for row, _ in found], np.int64), np.array([value for _, value in found], np.float64)


def gini(participation: npt.NDArray[np.int64], num_clients: int) -> float:
    """Gini's coefficient of how often clients took part: 0 all alike, near 1 all by one; NaN if none did.

    Args:
        participation: i64[K], ascending, of those that did.
        num_clients: All there are, who never took part included.
    """
    total, absent = float(participation.sum()), max(num_clients - len(participation), 0)
    if total == 0:
        return float("nan")
    count = absent + len(participation)
    ranks = np.arange(absent + 1, count + 1, dtype=np.float64)
    return float(2 * (ranks @ participation) / (count * total) - (count + 1) / count)


def thin(x: Column, y: Column, most: int = 2000) -> tuple[Column, Column]:
    """At most `most` points that look like all of them: of each stretch, its lowest and highest point.

    First and last point always stay.
    """
    if len(x) <= most:
        return x, y
    edges = np.linspace(1, len(x) - 1, max((most - 2) // 2, 1) + 1).astype(int)
    keep = {0, len(x) - 1}
    for start, stop in pairwise(edges):
        keep |= {start + int(np.argmin(y[start:stop])), start + int(np.argmax(y[start:stop]))}
    rows = np.array(sorted(keep))
    return x[rows], y[rows]


def in_groups(values: Column, most: int) -> tuple[int, Column]:
    """Means of `values` over groups of consecutive rows, at most `most` of them; and the group's size."""
    size = max(-(-len(values) // most), 1)
    starts = np.arange(0, len(values), size)
    if not len(starts):
        return size, values
    sums = np.add.reduceat(values, starts)
    return size, sums / np.diff(np.append(starts, len(values)))
