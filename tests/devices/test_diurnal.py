"""Weeks in the lives of phones, against what is published of the trace that they were fitted to."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from muster.devices import diurnal
from muster.devices.mobile import Mobile

HOUR = 3_600 * 10**9
NUM_TRACES = 4_096
NUM_CLIENTS = 50_000


@pytest.fixture(scope="module")
def traces():
    return diurnal.weeks(NUM_TRACES, seed=5)


@pytest.fixture(scope="module")
def online():
    """Share online at each of 168 hours."""
    who = Mobile(availability="diurnal").draw(np.full(NUM_CLIENTS, 20, np.int32), 5).availability
    return np.array([who.online(np.arange(NUM_CLIENTS), hour * HOUR).mean() for hour in range(168)])


def hours_of_96(traces):
    trace = np.repeat(np.arange(traces.num_traces), np.diff(traces.offsets))
    inside = np.clip(traces.ends, 0, 96 * HOUR) - np.clip(traces.starts, 0, 96 * HOUR)
    return np.bincount(trace, inside / HOUR, traces.num_traces)


@pytest.mark.parametrize(
    ("share", "hours"), [(0.05, 2.2), (0.25, 8), (0.5, 14.8), (0.75, 24), (0.9, 35), (0.95, 42), (0.99, 56)]
)
def test_hours_online_of_the_first_96_are_the_traces(traces, share, hours):
    # Its mean is 17 h, as the trace is cut off; 18.2 % of the time are 17.5 h.
    assert np.quantile(hours_of_96(traces), share) == pytest.approx(hours, rel=0.15)


def test_the_mean_of_hours_is_the_traces(traces):
    assert hours_of_96(traces).mean() == pytest.approx(17, rel=0.05)
    assert traces.shares().mean() == pytest.approx(0.182, abs=0.001)


def test_a_phone_has_about_20_sessions(traces):
    assert len(traces.starts) / NUM_TRACES == pytest.approx(20.8, rel=0.07)
    assert np.diff(traces.offsets).min() >= 1


def test_traces_are_whole_seconds_of_a_week(traces):
    assert (traces.period == 7 * 24 * HOUR).all()
    assert not (traces.starts % 10**9).any() and not (traces.ends % 10**9).any()


def test_17_to_21_percent_are_online_over_time(online):
    assert 0.17 <= online.mean() <= 0.21


def test_every_day_is_like_the_others(online):
    days = online.reshape(7, 24)
    assert np.abs(days - days.mean(axis=0)).max() < 0.015


def test_the_daily_curve_has_its_trough_at_0_h_and_its_peak_at_noon_of_the_trace(online):
    # Published, of 107,749 devices: 0.9 h 21.0k, peak of 26.4k at 6.7 h, 15 h 22.2k, 24 h 16.8k.
    day = online.reshape(7, 24).mean(axis=0)
    assert day.argmin() in (23, 0, 1) and 4 <= day.argmax() <= 10
    assert 1.25 < day.max() / day.min() < 1.6
    assert day[7] > day[15] > day[0]


def published():
    """Hours and clients online of the published curve, each point as it was read off."""
    file = Path(os.environ["MUSTER_DATA"]) / "traces" / "available_clients_over_time_digitised.csv"
    return np.genfromtxt(file, delimiter=",", skip_header=1).T


@pytest.mark.skipif("MUSTER_DATA" not in os.environ, reason="MUSTER_DATA is not set")
def test_the_daily_curve_goes_with_the_published_one_with_every_point_of_it(online):
    at, count = published()
    assert len(at) == 294
    hour = at.astype(int) % 24
    day = [count[hour == h].mean() for h in range(24)]
    ours = np.interp(np.arange(24) + 0.5, np.arange(168), online)
    assert np.corrcoef(day, ours)[0, 1] >= 0.9


@pytest.mark.skipif("MUSTER_DATA" not in os.environ, reason="MUSTER_DATA is not set")
def test_the_curve_over_time_goes_with_the_published_one(online):
    at, count = published()
    # Strokes of the plot's grid were read as single points far below: the median of five is without.
    count = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(count, 2, mode="edge"), 5), axis=1)
    hours = np.arange(1, 96)
    curves = [np.interp(hours, at, count), online[hours]]
    moved = [curve - np.polyval(np.polyfit(hours, curve, 1), hours) for curve in curves]
    assert np.corrcoef(*moved)[0, 1] >= 0.9


def test_the_whole_world_has_no_night():
    who = (
        Mobile(availability="diurnal", zone_spread=12)
        .draw(np.full(NUM_CLIENTS, 20, np.int32), 5)
        .availability
    )
    online = [who.online(np.arange(NUM_CLIENTS), hour * HOUR).mean() for hour in range(0, 24, 3)]
    assert max(online) - min(online) < 0.015


def test_the_seed_decides():
    one, again, other = (diurnal.weeks(50, seed) for seed in (1, 1, 2))
    for column in ("starts", "ends", "offsets"):
        assert getattr(one, column).tobytes() == getattr(again, column).tobytes()
    assert one.starts.tobytes() != other.starts.tobytes()


@pytest.mark.parametrize("num_traces", [1, 2, 3])
def test_few_traces_are_traces(num_traces):
    for seed in range(20):
        drawn = diurnal.weeks(num_traces, seed)
        assert drawn.num_traces == num_traces and (drawn.shares() > 0).all() and (drawn.shares() <= 1).all()


@pytest.mark.parametrize("zone_spread", [0.0, 1.0, 5.5])
def test_clocks_differ_by_days_and_half_hours(zone_spread):
    shift = diurnal.shifts(10_000, zone_spread, 1)
    assert not (shift % (HOUR // 2)).any()
    zone = (shift + 12 * HOUR) % (24 * HOUR) - 12 * HOUR
    assert (np.abs(zone) <= zone_spread * HOUR).all()
    assert len(np.unique(zone)) == 4 * zone_spread + 1
    assert len(np.unique((shift - zone) // (24 * HOUR))) == 7


def test_lengths_are_scaled_to_what_is_wanted_over_the_weeks_end_and_over_overlaps():
    # Trace 0: one session; trace 1: two at the same second, so only the longer counts; trace 2: one that
    # begins an hour before the week's end and reaches over it.
    trace = np.array([0, 1, 1, 2])
    begin = np.array([100, 50, 50, diurnal.WEEK - 3_600])
    wanted = np.array([7_200.0, 1_000.0, 10_000.0])
    length = diurnal._scaled(trace, begin, np.array([1.0, 2.0, 1.0, 5.0]), wanted)
    assert length.tolist() == pytest.approx([7_200, 1_000, 500, 10_000], abs=1)
