"""The shared link by hand: who gets how much, when each is through, and what it has cost by then.

Models are of 1,000,000 bytes, 8 Mbit: alone a client of 8 Mbit/s takes a second, one of 2 Mbit/s four.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.esync import ESync, esync
from muster.algorithms.fedavg import Sync, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.population import Population
from muster.core.state import Limits, initial_state
from muster.core.tables import SECOND, TASK, Kind, Reason, rows
from muster.core.work import Work
from muster.devices.availability import FAR, Availability, Intervals
from muster.devices.world import World
from muster.sim.costs import spent_alone
from muster.sim.link import FLOW, ServerLink, load_flows, save_flows, speeds
from muster.sim.simulation import Simulation
from worlds.plane import ToyPlane

MB = 1_000_000


def world(down=(8_000,) * 3, up=(8_000,) * 3, ms=(0,) * 3, down_bytes=MB, up_bytes=0, dropout=0.0, **columns):
    """One example a client, so a task computes for 3 x ms."""
    kbps = [np.array(k, np.float32) for k in (down, up)]
    ones = np.ones(len(down), np.int32)
    who = Population(ones, np.array(ms, np.float32), *kbps, **columns)
    return World(who, Work(), down_bytes, up_bytes, dropout, 0)


def tasks(*clients, sent_at=0.0, first=0):
    count = len(clients)
    ticket = first + np.arange(count)
    return rows(TASK, count, ticket=ticket, client=clients, sent_at=round(sent_at * SECOND))


def link(at, down_kbps=None, up_kbps=None):
    return ServerLink(down_kbps, up_kbps, at.down_bytes, at.up_bytes)


def all_rows(line, until=FAR):
    """(seconds, client) of what happens from now on."""
    told = []
    while len(table := line.run(until)):
        told += [(row["now"] / SECOND, int(row["client"])) for row in table]
    return told


def through(line, until=FAR):
    return [(round(now, 6), client) for now, client in all_rows(line, until)]


@pytest.mark.parametrize(
    ("caps", "capacity", "rates"),
    [
        ([8, 8], 8, [4, 4]),
        ([8, 2, 8], 8, [3, 2, 3]),  # who can take 2 gets it, the others half of the rest
        ([1, 2, 10], 6, [1, 2, 3]),
        ([5, 1, 3], 100, [5, 1, 3]),
        ([4, 4], 8, [4, 4]),
        ([7], 2, [2]),
        ([10, 1, 10, 2, 10], 12, [3, 1, 3, 2, 3]),
    ],
)
def test_the_fair_share(caps, capacity, rates):
    caps = np.array(caps, float)
    assert (speeds(caps, capacity) * caps).tolist() == pytest.approx(rates, rel=1e-15)


def test_alone_a_client_has_its_own_speed():
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0))
    assert through(line) == [(1.0, 0)]


def test_two_share_evenly():
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0, 1))
    assert through(line) == [(2.0, 0), (2.0, 1)]


def test_one_that_comes_later_slows_the_first_and_is_fast_when_that_is_through():
    # 0 alone until 0.5 s: 4 of 8 Mbit; then 4 Mbit/s each: 0 is through at 1.5. 1 has 4 Mbit left: 2.0.
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0))
    assert len(line.run(SECOND // 2)) == 0
    line.send(at, tasks(1, sent_at=0.5, first=1))
    assert through(line) == [(1.5, 0), (2.0, 1)]


def test_unequal_caps():
    # 2 Mbit/s for client 1, 3 each for the others: they are through at 8/3 s. 1 goes on at 2: at 4 s.
    at = world(down=(8_000, 2_000, 8_000))
    line = link(at, 8_000)
    line.send(at, tasks(0, 1, 2))
    assert through(line) == [(2.666667, 0), (2.666667, 2), (4.0, 1)]


def test_a_flow_that_is_stopped_early_leaves_its_share():
    # Both have 4 of 8 Mbit after 1 s; then 0 alone at 8 Mbit/s: 1.5 s.
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0, 1))
    line.stop(np.array([1]), SECOND)
    assert through(line) == [(1.5, 0)]
    spent = line.settle(np.array([1, 0]))
    assert spent["down_bytes"].tolist() == [MB // 2, MB] and spent["device"].tolist() == [10**9, 15 * 10**8]


def test_ways_are_apart_and_computing_uses_neither():
    # Down together: 2 s. Client 0 computes 0.3 s, 1 computes 3 s, so each sends alone, at its 4 Mbit/s.
    at = world(up=(4_000, 4_000, 4_000), ms=(100, 1_000, 0), up_bytes=MB)
    line = link(at, 8_000, 8_000)
    line.send(at, tasks(0, 1))
    assert through(line) == [(4.3, 0), (7.0, 1)]
    # Both send at once, through 4 Mbit/s: 2.3 s + 2 x 2 s.
    at = world(up=(4_000, 4_000, 4_000), ms=(100, 100, 0), up_bytes=MB)
    line = link(at, 8_000, 4_000)
    line.send(at, tasks(0, 1))
    assert through(line) == [(6.3, 0), (6.3, 1)]


def test_who_is_offline_before_the_slower_end_is_lost_then():
    # Alone client 1 would have been through at 1 s; it is online until 1.5 s, and 2 s are needed.
    traces = Intervals.joined(
        np.array([0, 1]),
        np.array([0, 0]),
        np.array([100 * SECOND, 3 * SECOND // 2]),
        np.full(2, 100 * SECOND),
    )
    there = Availability(traces, np.array([0, 1, 0], np.int32), np.zeros(3, np.int64))
    at = world(availability=there)
    assert at.outcomes(tasks(0, 1))["kind"].tolist() == [Kind.ARRIVED] * 2
    line = link(at, 8_000)
    line.send(at, tasks(0, 1))
    lost = line.run(FAR)
    assert lost["now"].tolist() == [3 * SECOND // 2 + 1] and lost["kind"].tolist() == [Kind.LOST]
    assert lost["reason"].tolist() == [Reason.OFFLINE] and lost["steps"].tolist() == [0]
    assert through(line) == [(1.75, 0)]  # 6 of 8 Mbit after 1.5 s
    assert line.settle(np.array([1]))["down_bytes"].tolist() == [3 * MB // 4]


def test_a_link_that_is_wide_enough_changes_nothing():
    draw = np.random.default_rng(3)
    count = 40
    at = world(
        down=draw.integers(500, 9_000, count),
        up=draw.integers(500, 9_000, count),
        ms=draw.integers(1, 900, count),
        down_bytes=123_457,
        up_bytes=54_321,
        dropout=0.3,
    )
    line = link(at, 1e9, 1e9)
    alone, told = [], []
    for first in range(0, count, 10):
        while len(table := line.run(first * SECOND // 100)):
            told.append(table)
        some = tasks(*range(first, first + 10), sent_at=first / 100, first=first)
        alone.append(at.outcomes(some))
        line.send(at, some)
    while len(table := line.run(FAR)):
        told.append(table)
    expected = np.concatenate(alone)
    expected = expected[np.lexsort((expected["client"], expected["kind"], expected["now"]))]
    assert np.concatenate(told).tobytes() == expected.tobytes()


def test_legs_of_no_bytes_or_no_time():
    at = world(down_bytes=0, up_bytes=0)
    line = link(at, 8_000, 8_000)
    line.send(at, tasks(0, sent_at=1.0))
    assert line.run(FAR)["now"].tolist() == [SECOND + 1]  # every task lasts a nanosecond


def test_it_goes_no_further_than_it_is_asked():
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0, 1))
    assert len(line.run(2 * SECOND - 1)) == 0
    assert len(line.run(2 * SECOND)) == 2
    assert len(line.run(FAR)) == 0


def test_saved_and_restored_in_the_middle_it_ends_to_the_nanosecond():
    at = world(down=(8_000, 2_000, 7_000), up=(3_000, 1_000, 5_000), ms=(100, 10, 70), up_bytes=333_333)

    def begun():
        line = link(at, 6_100, 2_300)
        line.send(at, tasks(0, 1))
        told = [line.run(int(1.7 * SECOND))]
        line.send(at, tasks(2, sent_at=1.7, first=2))
        return line, told

    whole, _ = begun()
    saved, _ = begun()
    control, columns = save_flows(saved.mark())
    fresh = link(at, 6_100, 2_300)
    fresh.restore(load_flows(control, {k: np.array(v) for k, v in columns.items()}))
    assert all_rows(fresh) == all_rows(whole) and len(control) == 1 and set(columns) == set(FLOW.names)


def test_a_mark_does_not_change_when_the_link_goes_on():
    at = world()
    line = link(at, 8_000)
    line.send(at, tasks(0, 1))
    mark = line.mark()
    before = mark.table.tobytes()
    ended = all_rows(line)
    assert mark.table.tobytes() == before and not mark.table.flags.writeable
    line.restore(mark)
    assert all_rows(line) == ended


@dataclass(frozen=True)
class Costs:
    """What a run's records say of costs."""

    up: int
    down: int
    used: float
    wasted: float


def run(algorithm, at, shared, rounds=3):
    state = initial_state(algorithm, at.population, Limits(rounds=rounds))
    line = link(at, *shared) if shared else None
    sim = Simulation(algorithm, 5, at, ToyPlane(), state, link=line, timeline=np.arange(3))
    return list(sim)


def test_a_round_over_a_shared_link_by_hand():
    """Three clients load 8 Mbit through 8 Mbit/s: 3 s; two reports of 8 Mbit are in 2 s later, the third is
    late, and has sent as much as they, less what it lacks."""
    at = world(up=(8_000, 8_000, 4_000), up_bytes=MB, ms=(0, 0, 0))
    algorithm = fedavg().but(pace=Sync(cohort=2, over_commit=1.5))
    first = run(algorithm, at, (8_000, 8_000), rounds=1)[1]
    # Up: 8/3 Mbit/s each: all three are through at once, at 6 s; ties go by client.
    assert first.now_secs == pytest.approx(6.0, abs=1e-8) and first.clients == (0, 1) and first.num_late == 1
    assert (first.down_bytes, first.up_bytes) == (3 * MB, 3 * MB)
    assert first.device_secs_used == pytest.approx(12.0, abs=1e-7)
    assert first.wasted_by_reason == {"late": pytest.approx(6.0, abs=1e-7)}


def test_a_wide_link_gives_the_records_of_no_link():
    at = world(
        down=(8_000, 2_000, 5_000), up=(1_000, 3_000, 2_000), ms=(10, 500, 90), up_bytes=MB, dropout=0.2
    )
    for algorithm in (
        fedavg().but(pace=Sync(cohort=1, over_commit=2.0)),
        fedbuff().but(pace=Buffered(2, 3)),
    ):
        own, wide = (
            [replace(r, wall_secs=0.0) for r in run(algorithm, at, shared)] for shared in (None, (1e9, 1e9))
        )
        assert own == wide and any(record.spans for record in own)


def test_what_tasks_spend_alone_is_what_they_spend_on_a_wide_link():
    at = world(up=(4_000,) * 3, ms=(100, 200, 300), up_bytes=MB // 2)
    line = link(at, 1e9, 1e9)
    some = tasks(0, 1, 2)
    line.send(at, some)
    line.run(2 * SECOND)  # 0 and 1 are computing, or sending; 1: 1 s + 0.6 s, then 0.4 of 1 s
    line.stop(some["ticket"], 2 * SECOND)
    assert line.settle(some["ticket"]).tolist() == spent_alone(at, some, 2 * SECOND).tolist()


def esync_round(kbps):
    """When each of three ESync rounds ends: steps of 3, 6 and 12 s, a second to load, one to send."""
    at = world(ms=(1000, 2000, 4000), up_bytes=MB)
    algorithm = replace(esync(), pace=ESync(cohort=3))
    population = replace(at.population, foreseen=at.foreseen())
    state = initial_state(algorithm, population, Limits(rounds=3))
    line = None if kbps is None else link(at, kbps, kbps)
    records = list(Simulation(algorithm, 0, at, ToyPlane(), state, link=line))
    return [record.now_secs for record in records[1:]]


def test_leased_tasks_on_a_link_that_is_wide_enough_are_timed_as_on_links_of_their_own():
    """4 steps of 3 s, 2 of 6 s, 1 of 12 s: load 1 + 12 + send 1 s a round."""
    assert esync_round(None) == esync_round(100_000) == [14.0, 28.0, 42.0]


def test_leased_tasks_share_a_narrow_link():
    """8 Mbit/s for three: loading takes 3 s, and so does sending, since all three send at one instant."""
    assert esync_round(8_000) == [18.0, 36.0, 54.0]
