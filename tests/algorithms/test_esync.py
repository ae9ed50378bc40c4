"""ESync against the cases of the paper's appendix-like table, exactly, in integer nanoseconds."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.esync import ESync, esync
from muster.algorithms.fedavg import Mean
from muster.algorithms.fednova import Nova
from muster.core.population import Foreseen, Population
from muster.core.state import Limits, initial_state
from muster.core.tables import SECOND, Accept, Kind
from muster.learn.learner import Trained
from muster.sim.simulation import Simulation
from worlds.plane import ToyPlane
from worlds.rig import Rig
from worlds.toy import Fixed, client_of, toy_data
from worlds.world import ToyWorld


@dataclass
class Axes(Fixed):
    """Client k's update is the k-th unit vector; it makes the steps that it is told to make."""

    def train(self, sent, examples, rng, up, kept, steps=0):
        up[:] = np.eye(self.spec.size, dtype=np.float32)[client_of(examples)]
        return Trained(steps, 1.0, 1.0)


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
    "one worker": ({"c": [5], "m": 2}, [1], 7, [0]),
    "equal, with sending": ({"c": [2, 2], "m": 3}, [1, 1], 5, [0, 0]),
    "half and half": ({"c": [1, 10, 1, 10]}, [10, 1, 10, 1], 10, [0, 0, 0, 0]),
    "300 times as slow": ({"c": [1, 300]}, [300, 1], 300, [0, 0]),
    "a nanosecond short": ({"c": [1, 3 - 1e-9]}, [2, 1], 3 - 1e-9, [1 - 1e-9, 0]),
    "a nanosecond long": ({"c": [1, 3 + 1e-9]}, [3, 1], 3 + 1e-9, [1e-9, 0]),
    "more floats": ({"c": [0.1, 0.2, 0.3, 0.7]}, [7, 3, 2, 1], 0.7, [0, 0.1, 0.1, 0]),
    "floats of sending": ({"c": [0.1, 0.2], "m": [0.2, 0.4]}, [2, 1], 0.6, [0.2, 0]),
    # Once the slowest has made its step the others push, however long its own push takes (i_s = 1).
    "the slowest by sending": ({"c": [1, 1], "m": [0, 10]}, [1, 1], 11, [10, 0]),
    "slow to send, fast to compute": ({"c": [2, 5], "m": [6, 1]}, [1, 1], 8, [0, 2]),
    "sending leaves time for two": ({"c": [1, 8], "m": [6, 0]}, [2, 1], 8, [0, 0]),
    "a tie of sums": ({"c": [3, 5, 1], "m": [3, 1, 0]}, [1, 1, 3], 6, [0, 0, 3]),
    "a margin as long as a step": ({"c": [3, 5, 7, 10], "margin_secs": 1}, [3, 1, 1, 1], 10, [1, 5, 3, 0]),
    "a margin past the round: SSGD": ({"c": A, "margin_secs": 100}, [1, 1, 1, 1], 8, [7, 6, 4, 0]),
    "the cap": ({"c": A, "max_steps": 3}, [3, 3, 2, 1], 8, [5, 2, 0, 0]),
    "a cap of one: SSGD": ({"c": A, "max_steps": 1}, [1, 1, 1, 1], 8, [7, 6, 4, 0]),
    # The first code: a GPU's step 0.03 s, a CPU's 3.5 s, epsilon 0.5 s: 100 steps in place of 116.
    "first code": ({"c": [0.03, 3.5], "rule": "compute_only", "margin_secs": 0.5}, [100, 1], 3.5, [0.5, 0]),
    "first code, no margin": ({"c": [0.03, 3.5], "rule": "compute_only"}, [116, 1], 3.5, [0.02, 0]),
    "first code, sending": ({"c": [2, 6], "m": [6, 1], "rule": "compute_only"}, [3, 1], 12, [0, 5]),
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


def test_who_comes_within_a_round_does_not_prolong_it():
    """Worker 2, of whom nothing is known, comes after 3 s of a round that ends after 4."""
    world = ToyWorld(3, legs=lambda k: (0, ns([1, 4, 50][k]), 0), shifts={2: ((ns(3), ns(1e6)),)})
    ((steps, blocked, secs),) = run(c=[1, 4, 50], beliefs="measured", cohort=2, world=world)
    assert (steps, blocked, secs) == ([4, 1], [0, 0], 4)


def test_a_round_may_begin_without_those_that_are_gone():
    """Worker 3 of A leaves for good: the others go on, and worker 2 is the slowest of them."""
    world = ToyWorld(4, legs=lambda k: (0, ns(A[k]), 0), shifts={3: ((0, ns(5)),)})
    rounds = run(c=A, world=world, rounds=3, min_start=2)
    # Told of it at 5 s: worker 2's step ends at 8, when worker 1 has made four and worker 0 eight.
    assert [steps for steps, _, _ in rounds[1:]] == [[4, 2, 1]] * 2
    assert [secs for _, _, secs in rounds[1:]] == [4, 4]
    assert run(c=A, world=world, rounds=3) == rounds[:1], "all four are waited for unless it is said"


@pytest.mark.parametrize(
    ("combine", "shares"),
    [
        (Mean(), [0.1, 0.2, 0.3, 0.4]),
        (Mean(by="uniform"), [0.25, 0.25, 0.25, 0.25]),
        (Mean(by="steps"), [8 / 15, 4 / 15, 2 / 15, 1 / 15]),
        # p_i / τ_i, times Σ p τ = 0.1 · 8 + 0.2 · 4 + 0.3 · 2 + 0.4 = 2.6
        (Nova(), [2.6 * 0.1 / 8, 2.6 * 0.2 / 4, 2.6 * 0.3 / 2, 2.6 * 0.4]),
    ],
    ids=["examples", "uniform", "steps", "nova"],
)
def test_the_steps_made_are_what_updates_are_weighed_by(combine, shares):
    """Case A; worker k holds k + 1 examples and sends a vector of its own: w becomes the weights."""
    world = ToyWorld(4, legs=lambda k: (0, ns(A[k]), 0))
    algorithm = replace(esync(), combine=combine).fitted()
    rig = Rig(algorithm, world, toy_data((1, 2, 3, 4)), Axes, limits=Limits(rounds=1)).run()
    assert rig.plane.params[:4] - 1 == pytest.approx(shares, abs=1e-6)


def test_all_lost_is_a_failed_round_and_the_run_stops():
    world = ToyWorld(2, legs=lambda k: (0, SECOND, 0), loss=lambda k, attempt: 1000)
    assert run(c=[1, 1], world=world, rounds=5) == []
