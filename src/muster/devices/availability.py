"""When clients are online: periodic traces of intervals, and which of them a client follows.

Everything here is a function of (client, instant): there is no cursor that moves, so questions may come
in any order and about any time, and the third week of a trace is like its first. All methods take a
column of clients; none loops over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.errors import DataError
from muster.core.population import Population
from muster.core.tables import Ids, frozen

from .everybody import Everybody

Rows: TypeAlias = npt.NDArray[np.signedinteger[Any]]
"""Which traces: i32[K] or i64[K]."""

FAR = 2**62
"""An instant that no run reaches (146 years): the end of what lasts for ever, and "never"."""

SCAN_PERIODS = 32
"""How far ahead, in periods, clients with traces of unequal periods are looked for."""

FEW = 8
"""Clients that are looked up one by one rather than as columns."""

MIXED = 2
"""State of a part of a period in which somebody comes or goes."""


@dataclass(frozen=True)
class Parts:
    """Cuts the period of each of T traces into `count` parts of 2^width[r] ns; the last ones may be empty."""

    count: int
    width: Ids

    @classmethod
    def of(cls, period: Ids, at_least: int) -> Parts:
        """At least half as many parts as asked for are in use."""
        count = 1 << at_least.bit_length()
        width = np.zeros(len(period), np.int64)
        while (more := (period - 1) >> width >= count).any():
            width += more
        return cls(count, frozen(width))

    def at(self, rows: Rows, phase: Ids) -> Ids:
        """i64[K]: the place, in a table of all parts, of the part that holds the instant in the trace."""
        return np.asarray(rows * np.int64(self.count) + (phase >> self.width[rows]), np.int64)

    def before(self, trace: Ids, starts: Ids) -> npt.NDArray[np.int32]:
        """i32[T * count]: the last of `starts`, trace after trace in order, that is before each part."""
        begun = np.bincount(self.at(trace, starts), minlength=len(self.width) * self.count)
        return np.asarray(np.cumsum(begun) - begun - 1, np.int32)


@dataclass(frozen=True)
class Intervals:
    """T periodic traces. Trace r is online in [start, end], both included, again in every period.

    Within a trace intervals are in order and apart: at least one nanosecond is between two of them
    (`joined` makes them so). An interval may end at the period; the instant itself belongs to the next
    round of the trace, as its instant 0.

    Args:
        starts: i64[M] ns within the period, all traces one after the other.
        ends: i64[M] ns, >= starts, <= the period.
        offsets: i64[T+1]; trace r owns the intervals offsets[r] to offsets[r+1].
        period: i64[T] ns, > 0.

    Raises:
        DataError: The arrays do not describe such traces.

    """

    starts: Ids
    ends: Ids
    offsets: Ids
    period: Ids
    _coarse: Parts = field(init=False, repr=False, compare=False)
    """Twice as many parts as a trace has intervals: where to look for one."""
    _before: npt.NDArray[np.int32] = field(init=False, repr=False, compare=False)
    """The last interval that begins in an earlier coarse part, for each part of each trace."""
    _fine: Parts = field(init=False, repr=False, compare=False)
    """Many times as many: in most of them nobody comes or goes."""
    _state: npt.NDArray[np.int8] = field(init=False, repr=False, compare=False)
    """For each fine part of each trace: 1 online throughout, 0 offline throughout, MIXED."""

    def __post_init__(self) -> None:
        counts = np.diff(self.offsets)
        whole = len(self.offsets) == len(self.period) + 1 and self.offsets[0] == 0
        whole &= len(self.starts) == len(self.ends) == self.offsets[-1] and counts.min(initial=0) >= 0
        if not whole:
            raise DataError(
                f"intervals: offsets must rise from 0 to the number of intervals ({len(self.starts)}), "
                f"one more of them than periods ({len(self.period)})"
            )
        if len(self.period) and self.period.min() <= 0:
            raise DataError(f"intervals: each period must be > 0 ns, but one is {self.period.min()}")
        trace = np.repeat(np.arange(len(self.period)), counts)
        inside = (self.starts >= 0) & (self.starts < self.period[trace]) & (self.starts <= self.ends)
        inside &= self.ends <= self.period[trace]
        if not inside.all():
            at = int(np.argmin(inside))
            raise DataError(
                f"intervals: trace {trace[at]} has [{self.starts[at]}, {self.ends[at]}] ns, but must have "
                f"0 <= start <= end <= period {self.period[trace[at]]} and start < period"
            )
        apart = (self.starts[1:] > self.ends[:-1] + 1) | (trace[1:] != trace[:-1])
        if not apart.all():
            found = int(trace[int(np.argmin(apart))])
            raise DataError(
                f"intervals: those of trace {found} overlap, touch or are out of order; use joined()"
            )
        mean = len(self.starts) // max(self.num_traces, 1)
        coarse, fine = (Parts.of(self.period, at_least) for at_least in (2 * mean + 1, 40 * mean + 1))
        object.__setattr__(self, "_coarse", coarse)
        object.__setattr__(self, "_before", frozen(coarse.before(trace, self.starts)))
        object.__setattr__(self, "_fine", fine)
        object.__setattr__(self, "_state", frozen(self._states(trace)))

    def _states(self, trace: Ids) -> npt.NDArray[np.int8]:
        """`_state`: each fine part from the interval that came before it, and from what begins in it."""
        fine = self._fine
        before = fine.before(trace, self.starts).astype(np.int64)
        rows, part = np.divmod(np.arange(len(before)), fine.count)
        begin = part << fine.width[rows]
        end = np.minimum(begin + (1 << fine.width[rows]), self.period[rows]) - 1
        until = np.where(before >= self.offsets[rows], self._end(before), -1)
        state = np.where(until >= end, 1, np.where(until < begin, 0, MIXED)).astype(np.int8)
        state[fine.at(trace, self.starts)] = MIXED
        return state

    @classmethod
    def joined(cls, trace: Ids, starts: Ids, ends: Ids, period: Ids) -> Intervals:
        """Traces from intervals in any order; those that overlap or touch become one.

        Args:
            trace: i64[M], the trace that each interval belongs to.
            starts: i64[M] ns.
            ends: i64[M] ns; what is beyond the period is cut off.
            period: i64[T] ns.

        """
        ends = np.minimum(ends, period[trace])
        kept = starts < period[trace]
        trace, starts, ends = trace[kept], starts[kept], ends[kept]
        order = np.lexsort((starts, trace))
        trace, starts, ends = trace[order], starts[order], ends[order]
        # The latest end so far within a trace: ends are ranked by (trace, end), so ranks of a later
        # trace are larger and one running maximum serves all traces.
        by_end = np.lexsort((ends, trace))
        rank = np.empty(len(ends), np.int64)
        rank[by_end] = np.arange(len(ends))
        latest = ends[by_end][np.maximum.accumulate(rank)] if len(ends) else ends
        fresh = np.ones(len(starts), bool)
        fresh[1:] = (trace[1:] != trace[:-1]) | (starts[1:] > latest[:-1] + 1)
        first = np.flatnonzero(fresh)
        last = np.append(first[1:], len(starts)) - 1 if len(first) else first
        offsets = np.zeros(len(period) + 1, np.int64)
        np.cumsum(np.bincount(trace[first], minlength=len(period)), out=offsets[1:])
        return cls(frozen(starts[first]), frozen(latest[last]), frozen(offsets), period)

    @classmethod
    def all_of(cls, several: Sequence[Intervals]) -> Intervals:
        """The instants at which each of `several` is online, trace by trace.

        Raises:
            DataError: They are not of the same traces.

        """
        period = several[0].period
        if any(not np.array_equal(one.period, period) for one in several):
            raise DataError("intervals: those that must all hold need the same traces and periods")
        trace = np.concatenate([np.repeat(np.arange(len(period)), np.diff(i.offsets)) for i in several])
        pairs = ((one.starts, one.ends + 1) for one in several)
        begins, gone = (np.concatenate(list(column)) for column in zip(*pairs, strict=True))
        traces, at = np.tile(trace, 2), np.concatenate([begins, gone])
        change = np.repeat([1, -1], len(trace))
        order = np.lexsort((at, traces))
        traces, at = traces[order], at[order]
        num_held = np.cumsum(change[order])[:-1]  # 0 where the next trace begins
        held = num_held == len(several)
        lasts = held & (traces[1:] == traces[:-1]) & (at[1:] > at[:-1])
        return cls.joined(traces[:-1][lasts], at[:-1][lasts], at[1:][lasts] - 1, period)

    @property
    def num_traces(self) -> int:
        """T."""
        return len(self.period)

    def shares(self) -> npt.NDArray[np.float64]:
        """f64[T]: the share of its period in which each trace is online."""
        total = np.zeros(self.num_traces)
        trace = np.repeat(np.arange(self.num_traces), np.diff(self.offsets))
        np.add.at(total, trace, (self.ends - self.starts).astype(np.float64))
        return np.asarray(total / self.period, np.float64)

    def online(self, rows: Rows, at_ns: Ids | int) -> npt.NDArray[np.bool_]:
        """bool[K]: whether trace rows[i] is online at the instant (one for all, or i64[K])."""
        phase = np.asarray(at_ns % self.period[rows], np.int64)
        state = self._state[self._fine.at(rows, phase)]
        unsure = (state == MIXED).nonzero()[0]
        if len(unsure) <= FEW:
            for i in unsure.tolist():
                now = int(phase[i])
                state[i] = self.until(int(rows[i]), now) >= now
        else:
            rows = np.asarray(rows)[unsure]
            phase, at = self._find(rows, phase[unsure])
            state[unsure] = (at >= self.offsets[rows]) & (phase <= self._end(at))
        return state.view(np.bool_)

    def online_until(self, rows: Rows, at_ns: Ids | int) -> Ids:
        """i64[K]: the last instant of being online without a break since `at_ns`, absolute ns.

        A trace that is always online gives FAR; one that is not online at `at_ns` gives an instant
        before it: `at_ns` - 1.
        """
        phase, at = self._find(rows, at_ns)
        period, low = self.period[rows], self.offsets[rows]
        there = (at >= low) & (phase <= self._end(at))
        end = np.minimum(self._end(at), period - 1)
        until = np.where(there, at_ns + end - phase, np.asarray(at_ns) - 1)
        wraps = there & (end == period - 1)
        if not wraps.any():
            return until
        low = np.where(wraps, low, 0)
        wraps &= self._start(low) == 0
        first_end = np.minimum(self._end(low), period - 1)
        until = np.where(wraps, at_ns + period + first_end - phase, until)
        return np.where(wraps & (first_end == period - 1), FAR, until)

    def until(self, row: int, at_ns: int) -> int:
        """`online_until` of one trace: an asynchronous run asks for one at a time."""
        period, low, high = int(self.period[row]), int(self.offsets[row]), int(self.offsets[row + 1])
        phase = at_ns % period
        at = low + int(self.starts[low:high].searchsorted(phase, side="right")) - 1
        if at < low or phase > self.ends[at]:
            return at_ns - 1
        end = min(int(self.ends[at]), period - 1)
        if end < period - 1 or self.starts[low] != 0:
            return at_ns + end - phase
        first_end = min(int(self.ends[low]), period - 1)
        return FAR if first_end == period - 1 else at_ns + period + first_end - phase

    def next_online(self, rows: Rows, at_ns: Ids | int) -> Ids:
        """i64[K]: the first instant >= `at_ns` at which each trace is online, absolute ns; FAR: never."""
        phase, at = self._find(rows, at_ns)
        low, high = self.offsets[rows], self.offsets[np.asarray(rows) + 1]
        there = (at >= low) & (phase <= self._end(at))
        later = at + 1 < high
        following = self._start(np.where(later, at + 1, np.where(high > low, low, 0)))
        wait = np.where(later, following, following + self.period[rows]) - phase
        return np.where(there, at_ns, np.where(high > low, at_ns + wait, FAR))

    def stretch(self, rows: Rows, at_ns: Ids | int) -> tuple[npt.NDArray[np.bool_], Ids]:
        """Whether each trace is online, bool[K], and the first instant > `at_ns` at which that may end.

        i64[K], absolute ns; FAR where there are no intervals. What goes on in the next period counts as anew.
        """
        phase, at = self._find(rows, at_ns)
        low, high = self.offsets[rows], self.offsets[np.asarray(rows) + 1]
        there = (at >= low) & (phase <= self._end(at))
        last = at + 1 >= high
        start = self._start(np.where(last, np.where(high > low, low, 0), at + 1)) + last * self.period[rows]
        other = np.where(there, self._end(at) + 1, start)
        return there, np.where(high > low, at_ns + other - phase, FAR)

    def _start(self, at: Ids) -> Ids:
        """Starts of intervals; 0 where there are no intervals at all."""
        return self.starts[at] if len(self.starts) else np.zeros(len(at), np.int64)

    def _end(self, at: Ids) -> Ids:
        """Ends of intervals; before everything where there are no intervals at all."""
        return self.ends[at] if len(self.ends) else np.full(len(at), -1, np.int64)

    def _find(self, rows: Rows, at_ns: Ids | int) -> tuple[Ids, Ids]:
        """The instant within the period, and the last interval that has begun by then (or low - 1)."""
        phase = np.asarray(at_ns % self.period[rows], np.int64)
        at = self._before[self._coarse.at(rows, phase)].astype(np.int64)
        last = self.offsets[np.asarray(rows) + 1] - 1
        moving = np.flatnonzero(at < last)
        while len(moving):
            following = at[moving] + 1
            begun = self.starts[following] <= phase[moving]
            moving, following = moving[begun], following[begun]
            at[moving] = following
            moving = moving[following < last[moving]]
        return phase, at


@dataclass(frozen=True)
class Availability:
    """Which trace each client follows, and by how much its clock is shifted.

    Args:
        intervals: The traces.
        row: i32[C], the trace of each client.
        shift: i64[C] ns: a client is at instant t where its trace is at t + shift (its time zone, or a
            phase drawn by seed).

    """

    intervals: Intervals
    row: npt.NDArray[np.int32]
    shift: Ids
    _everybody: Everybody = field(default_factory=Everybody, init=False, repr=False, compare=False)

    def everybody(self, at_ns: int) -> npt.NDArray[np.bool_]:
        """bool[C]: whether each client is online at the instant; fast if it follows soon on the last one."""
        return self._everybody.online(self, len(self.row), at_ns)

    def online(self, clients: Ids, at_ns: Ids | int) -> npt.NDArray[np.bool_]:
        """bool[K]: whether each client is online at the instant (one for all, or i64[K])."""
        if len(clients) == 1:
            at = int(np.asarray(at_ns).item()) + int(self.shift[clients[0]])
            return np.array([self.intervals.until(int(self.row[clients[0]]), at) >= at])
        return self.intervals.online(self.row[clients], at_ns + self.shift[clients])

    def online_until(self, clients: Ids, at_ns: Ids | int) -> Ids:
        """i64[K]: the last instant of the interval that holds `at_ns`; FAR: for ever."""
        shift = self.shift[clients]
        if len(clients) == 1:
            by, at = int(shift[0]), int(np.asarray(at_ns).item())
            end = self.intervals.until(int(self.row[clients[0]]), at + by)
            return np.array([end if end == FAR else end - by])
        until = self.intervals.online_until(self.row[clients], at_ns + shift)
        return np.where(until == FAR, FAR, until - shift)

    def stretch(self, clients: Ids, at_ns: int) -> tuple[npt.NDArray[np.bool_], Ids]:
        """Whether each client is online, bool[K], and the first later instant at which that may end."""
        shift = self.shift[clients]
        online, until = self.intervals.stretch(self.row[clients], at_ns + shift)
        return online, np.where(until == FAR, FAR, until - shift)

    def next_online(self, clients: Ids, at_ns: Ids | int) -> Ids:
        """i64[K]: the first instant >= `at_ns` at which each client is online; FAR: never."""
        shift = self.shift[clients]
        found = self.intervals.next_online(self.row[clients], at_ns + shift)
        return np.where(found == FAR, FAR, found - shift)

    def when(self, n: int, at_ns: int, but: Ids) -> int | None:
        """First instant >= `at_ns` (ns) at which `n` clients outside `but` are online; None: never.

        Exact for what happens within SCAN_PERIODS of the longest period, which covers all that can
        happen when all periods are equal; what first happens later is taken for never.
        """
        kept = np.ones(len(self.row), bool)
        kept[but] = False
        clients = np.flatnonzero(kept)
        if n <= 0:
            return at_ns
        coming = self.next_online(clients, at_ns)
        clients, coming = clients[coming < FAR], coming[coming < FAR]
        if len(clients) < n:
            return None
        # Before the n-th first coming, fewer than n have been online at all.
        begin = int(np.partition(coming, n - 1)[n - 1])
        periods = self.intervals.period[np.unique(self.row[clients])]
        longest = int(periods.max())
        end = begin + (1 if (periods == longest).all() else SCAN_PERIODS) * longest
        width = max(longest // 96, 1)
        while begin <= end:
            found = self._within(clients, n, begin, begin + width)
            if found is not None:
                return found
            begin += width
            width = min(2 * width, max(longest // 6, 1))
        return None

    def _within(self, clients: Ids, n: int, begin: int, end: int) -> int | None:
        """The first instant in [begin, end) at which `n` of the clients are online, or None."""
        starts, ends = [], []
        at = np.full(len(clients), begin, np.int64)
        while len(clients):
            at = self.next_online(clients, at)
            clients, at = clients[at < end], at[at < end]
            until = self.online_until(clients, at)
            starts.append(at)
            ends.append(until)
            clients, at = clients[until < end - 1], until[until < end - 1] + 1
        comings, goings = np.sort(np.concatenate(starts)), np.sort(np.concatenate(ends))
        # Online at the i-th coming: it, all before, and all that come at once, less those gone before.
        together = np.searchsorted(comings, comings, side="right")
        count = together - np.searchsorted(goings, comings, side="left")
        enough = count >= n
        return int(comings[int(np.argmax(enough))]) if enough.any() else None


def share_online(population: Population, at_ns: int, most: int) -> float:
    """Share of clients online at the instant; of more than `most`, so many at even distances are asked."""
    if population.availability is None:
        return 1.0
    last = population.num_clients - 1
    ids = np.linspace(0, last, min(most, last + 1)).astype(np.int64)
    return float(population.availability.online(ids, at_ns).mean())
