"""ESync against the cases of the paper's appendix-like table, exactly, in integer nanoseconds."""

from dataclasses import replace

import numpy as np
import pytest

from muster.algorithms.esync import ESync, esync
from muster.core.population import Foreseen, Population
from muster.core.state import Limits, initial_state
from muster.core.tables import SECOND, Accept, Kind
from muster.sim.simulation import Simulation
from worlds.plane import ToyPlane
from worlds.world import ToyWorld


def ns(secs):
    return round(secs * SECOND)


class Told(Simulation):
    """Keeps what was accepted: (steps, when each arrived) a round."""

    def _step(self, events):
        commands = super()._step(events)
        for command in commands:
            if isinstance(command, Accept):
                tasks = self._find(command.tickets)
                by = np.argsort(tasks["client"])
                arrived = self.rounds_arrived(events, tasks)
                self.rounds.append(
                    (tasks["done"][by].tolist(), [arrived[c] for c in tasks["client"][by].tolist()])
                )
        return commands

    def rounds_arrived(self, events, tasks):
        arrived = dict(zip(tasks["client"].tolist(), tasks["arrived_at"].tolist(), strict=True))
        last = events.table[events.table["kind"] == Kind.ARRIVED]
        return arrived | dict(zip(last["client"].tolist(), last["now"].tolist(), strict=True))


def run(c, m=0.0, q=0.0, rounds=1, world=None, **pace):
    """The rounds of an ESync run: (steps of each worker, blocked seconds of each, the round's seconds)."""
    sends = [m] * len(c) if isinstance(m, (int, float)) else m
    world = world or ToyWorld(len(c), legs=lambda k: (0, ns(c[k]), ns(sends[k])), query_ns=ns(q))
    settings = {"beliefs": "population", "cohort": len(c), **pace}
    algorithm = replace(esync(), pace=ESync(**settings))
    ones = np.ones(len(c), np.float32)
    steps, send = np.array(c, float), np.array(sends, float)
    legs = Foreseen(np.zeros(len(c)), steps, steps, send)
    population = Population(ones.astype(np.int32), ones, ones, ones, foreseen=legs)
    state = initial_state(algorithm, population, Limits(rounds=rounds))
    sim = Told(algorithm, 5, world, ToyPlane(), state)
    sim.rounds = []
    begun, told = 0, []
    records = list(sim)
    for (steps_made, arrived), record in zip(sim.rounds, records[1:], strict=False):
        end = ns(record.now_secs)
        blocked = [(end - at) / SECOND for at in arrived]
        told.append((steps_made, blocked, (end - begun) / SECOND))
        begun = end
    return told


A = [1, 2, 4, 8]
CASES = {
    "A": ({"c": A}, [8, 4, 2, 1], 8, [0, 0, 0, 0]),
    "B": ({"c": A, "m": 1}, [8, 4, 2, 1], 9, [0, 0, 0, 0]),
    "B'": ({"c": A, "m": 0.5}, [8, 4, 2, 1], 8.5, [0, 0, 0, 0]),
    "C": ({"c": [3, 5, 7, 10]}, [3, 2, 1, 1], 10, [1, 0, 3, 0]),
    "D": ({"c": A, "margin_secs": 0.5}, [7, 3, 1, 1], 8, [1, 2, 4, 0]),
    "E": ({"c": A, "m": [4, 1, 1, 1]}, [5, 4, 2, 1], 9, [0, 0, 0, 0]),
    "F": ({"c": [2, 6], "m": [6, 1]}, [1, 1], 8, [0, 1]),
    "G": ({"c": [4, 4, 1]}, [1, 1, 4], 4, [0, 0, 0]),
    "H": ({"c": [2, 2, 2]}, [1, 1, 1], 2, [0, 0, 0]),
    "I": ({"c": [12, 4, 2], "m": 1.5}, [1, 3, 6], 13.5, [0, 0, 0]),
    "J": ({"c": [12, 3.5, 1.7], "m": 1.5, "q": 0.2}, [1, 3, 6], 13.7, [0, 1.1, 0.8]),
    "floats": ({"c": [0.1, 0.3]}, [3, 1], 0.3, [0, 0]),
    "skew 0": ({"c": [1.5, 8]}, [5, 1], 8, [0.5, 0]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("leases", [False, True])
def test_steps_round_time_and_blocking_are_those_of_the_rule(case, leases):
    settings, steps, secs, blocked = CASES[case]
    if leases and "q" in settings:
        pytest.skip("a lease asks less often, so the queries' time differs")
    for round_ in run(**settings, leases=leases, rounds=3):
        assert round_ == (steps, pytest.approx(blocked, abs=1e-9), secs)


IDLE = {"A": 0, "C": 0.10, "D": 0.21875, "F": 0.0625, "J": 0.0462}


@pytest.mark.parametrize("case", IDLE)
def test_idle_share(case):
    settings, _, _, _ = CASES[case]
    (_, blocked, secs), *_ = run(**settings)
    assert sum(blocked) / (len(blocked) * secs) == pytest.approx(IDLE[case], abs=5e-5)


@pytest.mark.parametrize(
    ("settings", "first", "first_secs"),
    [
        ({"c": A}, [8, 4, 2, 1], 8),
        ({"c": [3, 5, 7, 10]}, [4, 2, 2, 1], 14),
        ({"c": [2, 6], "m": [6, 1]}, [3, 1], 12),
    ],
    ids=["A", "C", "F"],
)
def test_measured_beliefs_differ_in_the_first_round_only(settings, first, first_secs):
    rounds = run(**settings, beliefs="measured", rounds=3)
    assert rounds[0][0] == first and rounds[0][2] == first_secs
    assert rounds[1:] == run(**settings, rounds=2)


def test_compute_only_looks_past_sending():
    """Case F under the first code's rule: worker 1 is the slowest, so worker 0 makes three steps."""
    assert run(c=[2, 6], m=[6, 1], rule="compute_only")[0] == ([3, 1], [0, 5], 12)


def test_the_cap_ends_a_round_that_waits_for_an_unknown_worker():
    assert run(c=[1, 50], beliefs="measured", max_steps=7)[0] == ([7, 1], [43, 0], 50)


@pytest.mark.parametrize("after", [0.5, 7.9])
@pytest.mark.parametrize("beliefs", ["population", "measured"])
def test_a_straggler_that_dies_in_its_step_ends_the_wait(after, beliefs):
    """Worker 3 of A is lost: from then on worker 2 (c = 4) is the slowest of those left."""
    world = ToyWorld(
        4,
        legs=lambda k: (0, ns(A[k]), 0),
        loss=lambda k, attempt: ns(after) if k == 3 and attempt == 0 else None,
    )
    rounds = run(c=A, beliefs=beliefs, world=world, rounds=1)
    ((steps, blocked, secs),) = rounds
    assert len(steps) == 3 and secs <= 8 and all(0 <= wait <= 4 for wait in blocked)


def test_a_straggler_that_dies_before_it_was_ever_heard_of():
    world = ToyWorld(
        3, legs=lambda k: (0, ns([1, 2, 100][k]), 0), loss=lambda k, a: ns(10) if k == 2 else None
    )
    ((steps, _, secs),) = run(c=[1, 2, 100], beliefs="measured", world=world)
    assert (steps, secs) == ([10, 5], 10)


def test_all_lost_is_a_failed_round_and_the_run_stops():
    world = ToyWorld(2, legs=lambda k: (0, SECOND, 0), loss=lambda k, attempt: 1000)
    assert run(c=[1, 1], world=world, rounds=5) == []
