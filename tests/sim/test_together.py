"""Arrivals that are answered each at its own instant may be told at once: it changes nothing."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.fedavg import Uniform
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.population import Everyone, Online, Turns, one_by_one
from muster.core.randomness import Rekeyed, rng
from muster.core.state import Limits, initial_state, save_state
from muster.core.tables import SECOND, Kind
from muster.core.work import Work
from muster.devices.mobile import Mobile
from muster.devices.world import World
from muster.sim.clock_only import ClockOnly
from muster.sim.simulation import Simulation

ADVANCED = int(Kind.ADVANCED)


@dataclass(frozen=True)
class OneByOne(Buffered):
    """The same, told a row at a time."""

    def appetite(self, state, tasks):
        return replace(super().appetite(state, tasks), together=1)


class Counted(Simulation):
    """Counts the calls of `step`, those that come to nothing too."""

    calls = 0

    def _asked(self, events):
        self.calls += 1
        return super()._asked(events)


def phones(num_clients, availability):
    examples = rng(3, "examples").integers(5, 200, num_clients, dtype=np.int32)
    return Mobile(availability=availability).draw(examples, 3)


def run(pace, who, dropout=0.2, rounds=12):
    """The run, and the rows of each delivery."""
    world = World(who, Work(), 10**6, 10**6, dropout, 3)
    algorithm, told = fedbuff().but(pace=pace), []
    state = initial_state(algorithm, who, Limits(rounds=rounds))
    plane = ClockOnly(who.num_examples, Work(), 3, surrogate=False)
    sim = Counted(algorithm, 3, world, plane, state, log=lambda events: told.append(events.table.copy()))
    records = [{**record.to_json(), "wall_secs": 0} for record in sim]
    return sim, records, told


@pytest.mark.parametrize(
    ("num_clients", "availability", "concurrency", "max_staleness"),
    [
        (3000, "diurnal", 200, None),
        (3000, "diurnal", 200, 1),
        (400, "always", 100, None),
        (60, "diurnal", 6, None),
    ],
)
def test_told_together_or_one_by_one(num_clients, availability, concurrency, max_staleness):
    who = phones(num_clients, availability)
    settings = {"size": 40, "concurrency": concurrency, "max_staleness": max_staleness}
    many, records, tables = run(Buffered(**settings), who)
    single, expected, rows = run(OneByOne(**settings), who)
    assert max(map(len, rows)) == 1 and max(map(len, tables)) > 3
    assert records == expected and len(records) == 13
    of_clients = [[t[t["kind"] < ADVANCED] for t in told] for told in (tables, rows)]
    assert np.concatenate(of_clients[0]).tobytes() == np.concatenate(of_clients[1]).tobytes()
    (scalars, columns), (others, singles) = (save_state(sim.state) for sim in (many, single))
    assert scalars == others
    assert {k: v.tobytes() for k, v in columns.items()} == {k: v.tobytes() for k, v in singles.items()}
    if concurrency > 6:
        assert 3 * many.calls < single.calls


def test_a_task_that_ends_meanwhile_cuts_a_delivery():
    """Every delivery ends before the end of any task that it sends: 6 of 60 clients work, 40 a version."""
    sim, _, tables = run(Buffered(size=40, concurrency=6), phones(60, "diurnal"))
    assert sim.calls > len(tables)  # some were tried in vain
    for table in tables:
        assert (np.diff(table["now"]) >= 0).all()


def test_a_generator_keyed_anew_is_as_a_new_one():
    anew = Rekeyed(7, "select")
    for number in (3, 0, 3, 2**40):
        ours, fresh = anew(number), rng(7, "select", number)
        assert ours.integers(0, 1000, 5).tolist() == fresh.integers(0, 1000, 5).tolist()
        assert ours.random() == fresh.random()
        ours.integers(0, 10, 3, dtype=np.int32)  # half a word is left over


@pytest.mark.parametrize("num_clients", [20, 40, 5000])
def test_draws_at_several_turns_are_those_of_one_after_the_other(num_clients):
    """With few clients most draws fall on busy ones; those that have just got free may be drawn again."""
    there = phones(num_clients, "diurnal").availability
    draw = rng(1, "turns")
    for trial in range(20):
        clients = draw.permutation(num_clients)[:15]
        at_ns = np.sort(draw.integers(0, 7 * 86_400 * SECOND, 10))
        turns = Turns(at_ns, clients[:10], clients)
        numbers = Rekeyed(trial, "select")
        found = Online(num_clients, int(at_ns[-1]), there).sample_in_turn(turns, numbers)
        plain = one_by_one(lambda now: Online(num_clients, now, there), turns, numbers)
        assert found.tolist() == plain.tolist()
        busy = set(clients.tolist())
        for client, freed, now in zip(found.tolist(), clients.tolist(), at_ns.tolist(), strict=False):
            busy.discard(freed)
            assert client not in busy and there.online(np.array([client]), now)[0]
            busy.add(client)


def test_nobody_is_drawn_when_nobody_is_free():
    turns = Turns(np.array([5, 6]), np.array([0, 1]), np.array([0, 1, 2]))
    assert Everyone(3, 6).sample_in_turn(turns, Rekeyed(0, "select")).tolist() == [0, 1]
    kept = Turns(np.array([5, 6]), np.array([0, 7]), np.array([0, 1, 2]))  # who is freed then is no client
    assert Everyone(3, 6).sample_in_turn(kept, Rekeyed(0, "select")).tolist() == [0]


def test_a_select_with_a_draw_of_its_own_draws_one_by_one():
    @dataclass(frozen=True)
    class Mine(Uniform):
        def draw(self, state, k, free, rng):
            return free.among(np.arange(k))

    assert Uniform().draws_in_turn and not Mine().draws_in_turn
