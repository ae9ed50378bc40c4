"""Paces in the world of devices when clients come and go by a daily trace, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import Sync, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.population import Population
from muster.core.state import Limits, initial_state
from muster.core.tables import SECOND
from muster.core.work import Work
from muster.devices.availability import Availability, Intervals
from muster.devices.world import World
from muster.sim.simulation import Simulation
from worlds.plane import ToyPlane

DAY = 86_400
HOUR = 3_600


def run(algorithm, shifts, rounds=2, hours=1.0, period=DAY):
    """Clients that are online for some hours a day from hour 1 on, later by `shifts` seconds each.

    A task takes 30 s: ten examples at 1 s for three forward passes; links take next to nothing.
    """
    count = len(shifts)
    end = int(HOUR * (1 + hours))
    intervals = Intervals(
        np.array([HOUR * SECOND]), np.array([end * SECOND]), np.array([0, 1]), np.array([period * SECOND])
    )
    there = Availability(intervals, np.zeros(count, np.int32), -np.array(shifts, np.int64) * SECOND)
    ones = np.ones(count, np.float32)
    who = Population(np.full(count, 10, np.int32), 1000 * ones, 1e9 * ones, 1e9 * ones, there)
    world = World(who, Work(), 0, 0, 0.0, 1)
    sim = Simulation(algorithm, 1, world, ToyPlane(), initial_state(algorithm, who, Limits(rounds=rounds)))
    steps = []
    sim.log = lambda events: steps.append(int(events.table["now"][-1]) / SECOND)
    return sim, list(sim), steps


def sync(**settings):
    return fedavg().but(pace=Sync(**settings))


def test_an_empty_room_waits_for_the_instant_at_which_enough_are_there():
    _, records, steps = run(sync(cohort=3), [0, 100, 200, 5000])
    # Three are there 200 s after hour 1; a round takes 30 s.
    assert [r.now_secs for r in records] == [0, HOUR + 230, HOUR + 260]
    assert steps[:2] == [0, HOUR + 200] and len(steps) < 10


def test_a_round_may_start_with_fewer():
    _, records, _ = run(sync(cohort=3, min_start=1, min_reports=1), [0, 100, 200, 5000], rounds=1)
    assert [(r.now_secs, r.num_sent, r.num_accepted) for r in records[1:]] == [(HOUR + 30, 1, 1)]


def test_who_leaves_is_waste_and_the_room_opens_again_the_next_day():
    # All are there for 45 s: the second round is lost after 15 s, the third waits for the next day.
    sim, records, _ = run(sync(cohort=2), [0, 0], hours=1 / 80)
    assert records[1].now_secs == HOUR + 30 and records[1].wasted_by_reason == {}
    # Lost at the first instant after [start, end]: 15 s and a nanosecond each.
    assert records[2].now_secs == DAY + HOUR + 30
    assert records[2].wasted_by_reason == {"offline": pytest.approx(30, abs=1e-8)}
    assert (records[2].num_lost, records[2].num_sent, records[2].num_accepted) == (2, 4, 2)
    assert sim.ended.status == "rounds"


def test_a_buffer_is_filled_by_whoever_comes():
    algorithm = fedbuff().but(pace=Buffered(size=2, concurrency=2))
    _, records, steps = run(algorithm, [0, 2000, 4000], rounds=2, hours=0.5)
    # Client 0 alone trains in a row from hour 1 on: two reports a minute.
    assert [r.now_secs for r in records] == [0, HOUR + 60, HOUR + 120]
    assert steps[1] == HOUR and set(records[1].clients) == {0}


def test_a_room_that_never_has_enough_says_so():
    sim, records, steps = run(sync(cohort=2), [0, 40_000])
    assert sim.ended.status == "stalled" and "never has as many" in sim.ended.why
    assert len(records) == 1 and len(steps) == 1
