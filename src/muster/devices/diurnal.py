"""Weeks in the lives of phones: when each is charging, idle and on WiFi, by day and night.

A week is a set of sessions on a circle of seven days. How much of the week a phone is online is drawn
from a quantile grid; how many sessions, from a lognormal law; when they begin, from a daily curve; how
long they last, from a lognormal law whose scale is solved for so that the whole adds up. Sessions that
overlap are one. What is drawn here was fitted to FLASH's week of 107,749 phones (C. Yang et al.:
WWW 2021; as released by FedScale), see `fitted.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muster.core.randomness import rng
from muster.core.tables import SECOND

from . import fitted
from .availability import Intervals

HOUR = 3_600
"""Seconds."""
DAY = 24 * HOUR
WEEK = 7 * DAY

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def weeks(num_traces: int, seed: int) -> Intervals:
    """Draws `num_traces` traces with a period of a week each."""
    number = _numbers(num_traces, seed)
    trace = np.repeat(np.arange(num_traces), number)
    begin = _begins(len(trace), seed)
    order = np.lexsort((begin, trace))
    begin = begin[order]
    length = np.exp(fitted.SESSION_SPREAD * rng(seed, "devices", 12).standard_normal(len(trace)))
    end = begin + _scaled(trace, begin, length, np.rint(WEEK * _shares(num_traces, seed)))
    over = end > WEEK
    return Intervals.joined(
        np.r_[trace, trace[over]],
        SECOND * np.r_[begin, np.zeros(over.sum(), np.int64)],
        SECOND * np.r_[np.minimum(end, WEEK), end[over] - WEEK],
        np.full(num_traces, SECOND * WEEK),
    )


def shifts(num_clients: int, zone_spread: float, seed: int) -> Ints:
    """Nanoseconds by which each client's clock differs from its trace's, i64[num_clients].

    A whole number of days, so that clients of the same trace do not move in step, and a time zone: whole
    half hours, even between -`zone_spread` and `zone_spread` hours.
    """
    draw = rng(seed, "devices", 21)
    days = draw.integers(0, 7, num_clients)
    halves = int(2 * zone_spread)
    zones = HOUR // 2 * draw.integers(-halves, halves + 1, num_clients)
    return np.asarray(SECOND * (DAY * days + zones), np.int64)


def _even(count: int, seed: int, stream: int) -> Floats:
    """`count` numbers in (0, 1) of which exactly one lies in each of as many equal parts, shuffled."""
    draw = rng(seed, "devices", stream)
    return np.asarray((draw.permutation(count) + draw.random(count)) / count, np.float64)


def _shares(num_traces: int, seed: int) -> Floats:
    even = _even(num_traces, seed, 13)
    return np.maximum(np.interp(even, fitted.ONLINE_SHARES, fitted.ONLINE), 1 / WEEK)


def _numbers(num_traces: int, seed: int) -> Ints:
    normal = rng(seed, "devices", 10).standard_normal(num_traces)
    drawn = np.exp(fitted.SESSIONS_LOG_MEAN + fitted.SESSIONS_LOG_SPREAD * normal)
    return np.clip(np.rint(drawn), 1, fitted.SESSIONS_MOST).astype(np.int64)


def _begins(count: int, seed: int) -> Ints:
    """Seconds of the week: any day, the hour by the fitted weights."""
    draw = rng(seed, "devices", 11)
    hours = np.concatenate([[0.0], np.cumsum(fitted.STARTS_BY_HOUR)])
    second = np.interp(draw.random(count), hours / hours[-1], np.arange(25) * HOUR)
    return np.minimum(second.astype(np.int64), DAY - 1) + DAY * draw.integers(0, 7, count)


def _reach(trace: Ints, begin: Ints, length: Floats) -> Ints:
    """Up to when a trace is online at its latest, as each of its sessions begins, that one included.

    What reaches over the week's end from the sessions before counts.
    """
    far = 3 * WEEK * trace
    own = begin + _whole(length)
    over = np.full(trace[-1] + 1, -1, np.int64)
    np.maximum.at(over, trace, own - WEEK)
    latest = np.maximum.accumulate(np.maximum(own, over[trace]) + far)
    return np.asarray(latest - far, np.int64)


def _following(trace: Ints, begin: Ints) -> Ints:
    """When the next session of the same trace begins; after the last, its first, a week on."""
    first = np.flatnonzero(np.r_[True, trace[1:] != trace[:-1]])
    following = np.r_[begin[1:], 0]
    following[np.r_[first[1:], len(trace)] - 1] = begin[first] + WEEK
    return np.asarray(following, np.int64)


def _whole(length: Floats) -> Ints:
    """Whole seconds, from 1 to a week."""
    return np.asarray(np.ceil(np.minimum(length, WEEK)), np.int64)


def _scaled(trace: Ints, begin: Ints, length: Floats, wanted: Floats) -> Ints:
    """Whole seconds: lengths times one factor a trace, so that it is online for `wanted` seconds."""
    following = _following(trace, begin)
    low, high = np.full(len(wanted), -12.0), np.full(len(wanted), 28.0)  # of ln(factor)
    for _ in range(24):  # halvings: to 3e-6 of the factor
        middle = (low + high) / 2
        reach = _reach(trace, begin, length * np.exp(middle)[trace])
        online = WEEK - np.bincount(trace, np.maximum(following - reach, 0), len(wanted))
        low, high = np.where(online < wanted, middle, low), np.where(online < wanted, high, middle)
    return _whole(length * np.exp(low)[trace])
