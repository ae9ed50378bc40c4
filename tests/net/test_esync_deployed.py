"""ESync, SSGD and their siblings deployed: a real server and real calls, on a clock that the test moves."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest

from muster.core.record import Record
from muster.core.tables import SECOND, Kind
from muster.net.client import Client
from muster.net.journal import JOURNAL, Entry, read
from muster.net.rpc import pb
from worlds.deployed import Rig, crowd, job_of

SPEEDS = (1.0, 0.5, 0.25, 0.125)
STEP_SECS = [1 / speed for speed in SPEEDS]


class Clock:
    """Stands still until the test says what time it is."""

    def __init__(self) -> None:
        self.secs = 0.0

    def __call__(self) -> int:
        return round(self.secs * SECOND)


class Turns:
    """Four workers in one thread: whoever's step ends first speaks next, so that no clock decides."""

    def __init__(self, rig: Rig, clock: Clock) -> None:
        self.rig, self.clock = rig, clock
        self.clients = [rig.client(number) for number in range(len(STEP_SECS))]
        for client in self.clients:
            client.join()

    def round(self, leased: bool) -> list[int]:
        """Everybody's task of a round, to the end; returns their steps."""
        tasks = [client.take() for client in self.clients]
        steps = [0] * len(tasks)
        due = [(self.clock.secs + secs, -k, 1) for k, secs in enumerate(STEP_SECS)]  # of equals, the slowest
        while due:
            now, rank, more = heapq.heappop(due)
            self.clock.secs, k = now, -rank
            steps[k] += more
            task = tasks[k]
            assert task is not None
            told = self._ask(self.clients[k], task.ticket, steps[k], STEP_SECS[k]) if leased else 0
            if told:
                heapq.heappush(due, (now + told * STEP_SECS[k], rank, told))
            else:
                task.submit(task.model, num_steps=steps[k], loss=0.0)
        return steps

    @staticmethod
    def _ask(client: Client, ticket: int, made: int, step_secs: float) -> int:
        request = pb.ProgressRequest(
            caller=client._caller, ticket=ticket, steps=made, step_secs=step_secs, send_secs=0.0
        )
        reply = client.link.once("Progress", request)
        return 0 if reply.finish else int(reply.steps)


def idle_share(record: Record, since_secs: float) -> float:
    """Σ blocked / (K T) of a round, as the paper's equation 9 counts it."""
    blocked = [record.now_secs - span.end_secs for span in record.spans]
    return sum(blocked) / (len(blocked) * (record.now_secs - since_secs))


@pytest.mark.parametrize("leases", [False, True])
def test_esync_makes_8_4_2_1_steps_and_nobody_waits(leases: bool, make: Callable[..., Rig]) -> None:
    pace = {"cohort": 4, "leases": leases, "margin_secs": -0.01}  # messages take no time, but some ns
    job = job_of(rounds=3, num_clients=4, algorithm={"name": "esync", "pace": pace})
    clock = Clock()
    rig = make(job, clock=clock)
    turns = Turns(rig, clock)
    steps = [turns.round(leased=True) for _ in range(3)]
    rig.wait()
    assert steps[1:] == [[8, 4, 2, 1]] * 2
    assert steps[0][3] == 1 and steps[0][0] >= 8  # who is slowest was not known yet
    for before, record in zip(rig.told[1:], rig.told[2:], strict=False):
        assert record.now_secs - before.now_secs == pytest.approx(8.0, abs=1e-3)
        assert idle_share(record, before.now_secs) == pytest.approx(0.0, abs=1e-3)
    asked = sum(
        isinstance(body, Entry) and body.kind == Kind.PROGRESSED for _, body in read(rig.folder / JOURNAL)
    )
    assert asked < sum(map(sum, steps)) if leases else asked == sum(map(sum, steps))


def test_ssgd_on_the_same_workers_idles_more_than_half_of_the_time(make: Callable[..., Rig]) -> None:
    clock = Clock()
    job = job_of(rounds=3, num_clients=4, algorithm={"name": "ssgd", "pace": {"cohort": 4}})
    rig = make(job, clock=clock)
    turns = Turns(rig, clock)
    assert [turns.round(leased=False) for _ in range(3)] == [[1, 1, 1, 1]] * 3
    rig.wait()
    for before, record in zip(rig.told, rig.told[1:], strict=False):
        assert idle_share(record, before.now_secs) == pytest.approx(
            17 / 32, abs=1e-3
        )  # (7 + 6 + 4) / (4 x 8)


def test_records_tell_what_each_task_took(make: Callable[..., Rig]) -> None:
    rig = make(job_of(rounds=2, num_clients=2))
    crowd(rig, {0: lambda task: setattr(task._client, "step_secs", 0.01)})
    rig.wait()
    assert [[span.client for span in record.spans] for record in rig.told] == [[], [0, 1], [0, 1]]
    for before, record in zip(rig.told, rig.told[1:], strict=False):
        slow, fast = record.spans
        assert slow.compute_secs > fast.compute_secs > 0 < fast.up_secs
        for span in record.spans:
            assert span.outcome == "accepted" and min(span.down_secs, span.up_secs) >= 0
            assert before.now_secs <= span.sent_secs < span.end_secs <= record.now_secs + 1e-6
