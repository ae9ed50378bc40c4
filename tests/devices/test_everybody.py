"""Who is online, of everybody, is what asking each client says, whatever was asked before."""

import numpy as np
import pytest

from muster.core.randomness import rng
from muster.core.tables import SECOND
from muster.devices.availability import Availability, Intervals
from muster.devices.mobile import Mobile

HOUR = 3600 * SECOND


def phones(num_clients=800):
    examples = np.full(num_clients, 10, np.int32)
    return Mobile(availability="diurnal").draw(examples, 5).availability


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_instants_gives_what_asking_each_gives(seed):
    there, clients = phones(), np.arange(800)
    draw = rng(seed, "instants")
    steps = draw.integers(0, draw.choice([SECOND, HOUR, 100 * HOUR], 30), 30)
    instants = np.abs(np.cumsum(steps * draw.choice([1, 1, 1, -1], 30)))
    for at_ns in instants.tolist():
        assert there.everybody(at_ns).tolist() == there.online(clients, at_ns).tolist()


def test_who_is_always_there_who_never_and_who_ends_at_an_instant():
    """Three traces of 10 s: always, never, and [2, 4] with both ends."""
    traces = Intervals.joined(np.array([0, 2]), np.array([0, 2]), np.array([10, 4]), np.full(3, 10))
    there = Availability(traces, np.arange(3, dtype=np.int32), np.zeros(3, np.int64))
    for at_ns, online in [
        (0, False),
        (1, False),
        (2, True),
        (4, True),
        (5, False),
        (11, False),
        (12, True),
        (2, True),
    ]:
        assert there.everybody(at_ns).tolist() == [True, False, online]


def test_the_answer_may_be_written_to():
    there = phones()
    there.everybody(HOUR)[:] = True
    assert there.everybody(HOUR).tolist() == there.online(np.arange(800), HOUR).tolist()


def test_soon_after_few_are_looked_up(monkeypatch):
    there, asked, plain = phones(20_000), [], Availability.stretch
    there.everybody(30 * HOUR)

    def counted(self, clients, at_ns):
        asked.append(len(clients))
        return plain(self, clients, at_ns)

    monkeypatch.setattr(Availability, "stretch", counted)
    there.everybody(30 * HOUR + 60 * SECOND)
    assert len(asked) == 1 and 0 < asked[0] < 400
