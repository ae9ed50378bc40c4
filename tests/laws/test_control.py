"""Laws 6, 7, 9 and 14 of docs/design.md, for every algorithm: who is sent work, and when a run ends."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedbuff import Buffered
from muster.core.algorithm import Select
from muster.core.state import Limits, save_state
from muster.core.tables import SECOND, Accept, Discard, Events, Kind, Stop, Train
from worlds.online import online_world
from worlds.rig import NAMES, Rig, Watched, small
from worlds.world import ToyWorld, at_times, comings_and_goings, keyed

every_algorithm = pytest.mark.parametrize("name", NAMES)
few = settings(deadline=None, derandomize=True, database=None, max_examples=6)
worlds = pytest.mark.parametrize(
    "world",
    [
        ToyWorld(),
        ToyWorld(loss=at_times(0.4)),
        comings_and_goings(),
        comings_and_goings(seed=1, duration=keyed(1, 20, 200)),  # most tasks outlast their client's stay
        ToyWorld(dies_at=95 * SECOND),
        online_world(),
    ],
    ids=["always there", "lossy", "comings and goings", "slow and going", "all die", "traces"],
)


def assert_no_busy_or_absent_client_gets_a_task(rig):
    working, num_sent = {}, 0
    for events, commands in rig.sim.told:
        ended = events.table[np.isin(events.table["kind"], [Kind.ARRIVED, Kind.LOST])]
        ends = list(zip(ended["now"].tolist(), ended["ticket"].tolist(), strict=True))
        in_turn = len(ends) > 1 and isinstance(rig.algorithm.pace, Buffered)
        now = int(events.table["now"][-1])
        while ends and not in_turn:
            del working[ends.pop(0)[1]]
        for command in commands:
            if isinstance(command, Discard):
                for ticket in command.tickets.tolist():
                    working.pop(ticket, None)
            if isinstance(command, Train):
                for task in command.tasks:
                    client = int(task["client"])
                    if in_turn:  # each row is answered at its own instant
                        now, ticket = ends.pop(0)
                        del working[ticket]
                    assert task["sent_at"] == now
                    assert client not in working.values(), f"client {client} is busy at {now}"
                    assert rig.world.is_present(client, now), f"client {client} is away at {now}"
                    working[int(task["ticket"])] = client
                    num_sent += 1
        for _, ticket in ends:  # the last row's, where its replacement waits for the new version
            working.pop(ticket)
    assert num_sent > 0


@every_algorithm
@worlds
@pytest.mark.parametrize("pace", [{}, {"over_commit": 1.5, "deadline_secs": 20.0, "max_staleness": 1}])
def test_law_6_no_busy_or_absent_client_gets_a_task(name, world, pace):
    assert_no_busy_or_absent_client_gets_a_task(Rig(small(name, **pace), world).run())


class Guarded(Watched):
    """Makes all that `step` is given read-only, and compares it with what it was."""

    def _step(self, events):
        for table in (events.table, events.reports):
            table.flags.writeable = False
        before = self.state
        kept, told = snapshot(before), (events.table.tobytes(), events.reports.tobytes())
        commands = super()._step(events)
        assert snapshot(before) == kept
        assert (events.table.tobytes(), events.reports.tobytes()) == told
        assert not self.state.tasks.flags.writeable
        return commands


def snapshot(state):
    scalars, columns = save_state(state)
    return repr(scalars), {name: array.tobytes() for name, array in columns.items()}


@every_algorithm
@worlds
def test_law_7_step_never_changes_its_inputs(name, world):
    assert len(Rig(small(name), world, simulation=Guarded).run().events) > 5


def assert_time_grows(rig):
    """No 1,000 steps at one instant without an accept."""
    steps, instant = 0, -1
    for events, commands in rig.sim.told:
        now = int(events.table["now"][-1])
        if now != instant or any(isinstance(command, Accept) for command in commands):
            steps, instant = 0, now
        steps += 1
        assert steps < 1000


@every_algorithm
@given(dies_at=st.integers(0, 200), rounds=st.sampled_from([100, None]), seed=st.integers(0, 5))
@few
def test_law_9_when_all_clients_die_the_run_ends_with_a_reason(name, dies_at, rounds, seed):
    world = ToyWorld(duration=keyed(seed), dies_at=dies_at * SECOND)
    rig = Rig(small(name), world, limits=Limits(rounds=rounds), seed=seed).run()
    assert rig.sim.ended.status == "stalled"
    said = r"no work can go out: it needs (\d+) clients, but the population never has as many"
    found = re.fullmatch(said, rig.sim.ended.why)
    assert found and 1 <= int(found[1]) <= rig.algorithm.pace.max_accepts
    assert len(rig.events) < 30 + 4 * dies_at  # tasks take a second and more: the end is no long wait
    assert sum(len(e.table) for e in rig.events if e.table["now"][-1] > dies_at * SECOND) <= 3


@every_algorithm
@pytest.mark.parametrize("after_ns", [1, SECOND])
def test_law_9_when_every_task_is_lost_the_run_gives_up(name, after_ns):
    world = ToyWorld(loss=lambda client, attempt: after_ns)
    rig = Rig(small(name), world, limits=Limits(rounds=100)).run()
    assert rig.sim.ended.status == "stalled"
    assert "in a row" in rig.sim.ended.why
    assert len(rig.events) < 300
    assert_time_grows(rig)
    assert rig.records[-1].num_lost >= 80 and not rig.records[-1].complete


@every_algorithm
def test_draws_within_one_version_do_not_repeat_themselves(name):
    """When all that are drawn die, other clients must get their chance: draws are not keyed by version."""
    rig = Rig(small(name), ToyWorld(loss=lambda client, attempt: SECOND), limits=Limits(rounds=1)).run()
    trains = [c for _, commands in rig.sim.told for c in commands if isinstance(c, Train)]
    assert {int(v) for train in trains for v in train.tasks["version"]} == {0}
    drawn = [tuple(train.tasks["client"].tolist()) for train in trains]
    assert {client for clients in drawn for client in clients} == set(range(12))
    assert len(set(drawn)) > 10


@dataclass(frozen=True)
class Nobody(Select):
    """Draws nobody, from the `since`-th draw on."""

    since: int = 0

    def init(self, population):
        return {}

    def draw(self, state, k, free, rng):
        drawn = free.sample(k, rng)
        return drawn[:0] if len(drawn) == 0 or drawn[0] % 4 >= self.since else drawn


class Empty(ToyWorld):
    """Nobody is ever there."""

    def is_present(self, client, now_ns):
        return False


class Promises(ToyWorld):
    """Says that somebody comes in a second, and nobody does."""

    def is_present(self, client, now_ns):
        return False

    def present(self, now_ns):
        here = super().present(now_ns)
        return type(
            "Promising",
            (),
            {
                "num_clients": self.num_clients,
                "sample": lambda self, k, rng, but: here.sample(k, rng, but),
                "among": lambda self, ids: here.among(ids),
                "everybody": lambda self: here.everybody(),
                "when": lambda self, n, but: now_ns + SECOND,
            },
        )()


@every_algorithm
@pytest.mark.parametrize("since", [0, 1, 3])
def test_law_14_selects_that_draw_nobody_stop_or_let_time_pass(name, since):
    algorithm = small(name).but(select=Nobody(since))
    rig = Rig(algorithm, limits=Limits(rounds=50, virtual_ns=10_000 * SECOND)).run()
    assert_time_grows(rig)
    assert rig.sim.ended.status in ("stalled", "virtual_secs", "rounds")


@every_algorithm
def test_law_14_a_world_with_nobody_stops_at_once(name):
    rig = Rig(small(name), Empty()).run()
    assert len(rig.events) == 1
    assert rig.sim.ended.status == "stalled" and "never has as many" in rig.sim.ended.why


@every_algorithm
def test_law_14_a_world_that_only_promises_lets_time_pass(name):
    rig = Rig(small(name), Promises(), limits=Limits(rounds=5, virtual_ns=60 * SECOND)).run()
    assert_time_grows(rig)
    assert rig.sim.ended.status == "virtual_secs" and len(rig.events) == 61


@every_algorithm
@worlds
def test_law_14_time_grows(name, world):
    seed = NAMES.index(name)
    rig = Rig(small(name), world, seed=seed, limits=Limits(rounds=20, virtual_ns=7200 * SECOND)).run()
    assert_time_grows(rig)
    times = [int(events.table["now"][-1]) for events in rig.events]
    assert times == sorted(times)
    assert isinstance(rig.sim.told[-1][1][-1], Stop)


@every_algorithm
def test_too_few_clients_for_a_round_wait_until_they_come(name):
    """One client to begin with; the rest come after an hour."""
    late = dict.fromkeys(range(1, 12), ((3600 * SECOND, 10**15),))
    rig = Rig(small(name), ToyWorld(shifts=late)).run()
    assert rig.sim.ended.status == "rounds"
    assert rig.records[-1].now_secs > 3600 or rig.algorithm.pace.max_accepts < 4
    assert len(rig.events) < 200
    assert_no_busy_or_absent_client_gets_a_task(rig)


def test_events_are_the_log():
    rig = Rig(small("fedavg"))
    log: list[Events] = []
    rig.sim.log = log.append
    rig.run()
    assert [id(e) for e in log] == [id(e) for e in rig.events]
