"""ESync, SSGD and their siblings deployed: a real server and real calls, on a clock that the test moves."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.core.errors import UserError
from muster.core.record import Record
from muster.core.tables import Kind
from muster.deploy.assembly import assemble
from muster.net.client import Task
from muster.net.journal import JOURNAL, Entry, read
from worlds.deployed import Clock, Rig, ask, crowd, job_of, start_of

SPEEDS = (1.0, 0.5, 0.25, 0.125)
STEP_SECS = [1 / speed for speed in SPEEDS]


class Turns:
    """Four workers in one thread: whoever's step ends first speaks next, so that no clock decides."""

    def __init__(self, rig: Rig, clock: Clock) -> None:
        self.rig, self.clock = rig, clock
        self.clients = [rig.client(number, num_examples=10) for number in range(len(STEP_SECS))]
        for client in self.clients:
            client.join()

    def round(self, leased: bool, late_secs: dict[int, float] | None = None) -> list[int]:
        """Everybody's task of a round, to the end; returns their steps. Some ask for theirs late."""
        late, steps = late_secs or {}, [0] * len(self.clients)
        tasks: dict[int, Task] = {}
        due = [(self.clock.secs + late.get(k, 0.0), -k, 0) for k in range(len(steps))]
        while due:
            now, rank, more = heapq.heappop(due)  # of equals, the slowest
            self.clock.secs, k = now, -rank
            steps[k] += more
            if k not in tasks:
                taken = self.clients[k].take()
                assert taken is not None
                tasks[k] = taken
                heapq.heappush(due, (now + STEP_SECS[k], rank, 1))
                continue
            task = tasks[k]
            told = ask(self.clients[k], task.ticket, steps[k], STEP_SECS[k]) if leased else 0
            if told:
                heapq.heappush(due, (now + told * STEP_SECS[k], rank, told))
            else:
                task.submit(task.model, num_steps=steps[k], loss=0.0)
        return steps


def without_rounds(rig: Rig, clock: Clock) -> tuple[list[list[int]], list[list[int]]]:
    """Everybody pulls as soon as it may; returns, by worker, the staleness and the lead of each update.

    A lead is how many updates a worker has made more than the slowest. Of equals, the fastest is first.
    """
    conductor, clients = rig.made.conductor, [rig.client(k, num_examples=10) for k in range(len(STEP_SECS))]
    for client in clients:
        client.join()
    stale: list[list[int]] = [[] for _ in clients]
    leads: list[list[int]] = [[] for _ in clients]
    due: list[tuple[float, int]] = []
    busy: dict[int, Task] = {}
    while not conductor.over:
        for k in sorted(set(range(len(clients))) - set(busy)):
            if conductor.task_of(k) is not None and (task := clients[k].take()) is not None:
                busy[k] = task
                heapq.heappush(due, (clock.secs + STEP_SECS[k], k))
        clock.secs, k = heapq.heappop(due)
        task = busy.pop(k)
        stale[k].append(conductor.state.version - task.version)
        leads[k].append(len(stale[k]) - min(map(len, stale)))
        assert task.submit(task.model, num_steps=1, loss=0.0) == "taken"
    return stale, leads


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
    assert [record.num_accepted for record in rig.told[1:]] == [4, 4, 4]
    assert steps[1:] == [[8, 4, 2, 1]] * 2
    assert steps[0][3] == 1 and steps[0][0] >= 8  # who is slowest was not known yet
    for before, record in zip(rig.told[1:], rig.told[2:], strict=False):
        assert record.now_secs - before.now_secs == pytest.approx(8.0, abs=1e-3)
        assert idle_share(record, before.now_secs) == pytest.approx(0.0, abs=1e-3)
    asked = sum(
        isinstance(body, Entry) and body.kind == Kind.PROGRESSED for _, body in read(rig.folder / JOURNAL)
    )
    assert asked < sum(map(sum, steps)) if leases else asked == sum(map(sum, steps))


@pytest.mark.parametrize("leases", [False, True])
def test_what_a_worker_takes_to_set_up_is_not_believed_to_be_needed_for_each_round(
    leases: bool, make: Callable[..., Rig]
) -> None:
    pace = {"cohort": 4, "leases": leases, "margin_secs": -0.01}
    clock = Clock()
    rig = make(job_of(rounds=3, num_clients=4, algorithm={"name": "esync", "pace": pace}), clock=clock)
    turns = Turns(rig, clock)
    assert turns.round(leased=True, late_secs={3: 30.0})[0] > 30  # nothing is known of the slowest till then
    assert [turns.round(leased=True) for _ in range(2)] == [[8, 4, 2, 1]] * 2
    rig.wait()


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


@pytest.mark.parametrize("name", ["asgd", "dcasgd"])
def test_asynchronous_workers_are_as_stale_as_the_arithmetic_says(
    name: str, make: Callable[..., Rig]
) -> None:
    algorithm = {"name": name, "pace": {"concurrency": 4}}
    clock = Clock()
    rig = make(job_of(rounds=30, num_clients=4, algorithm=algorithm), clock=clock)
    stale, _ = without_rounds(rig, clock)
    rig.wait()
    assert clock.secs == 16.0 and [len(of) for of in stale] == [16, 8, 4, 2]
    assert [sum(of) / len(of) for of in stale] == [0.6875, 2.5, 6.25, 14.0]
    assert all(record.num_accepted == 1 for record in rig.told[1:])


@pytest.mark.parametrize("slack", [0, 3])
def test_ssp_lets_nobody_run_further_ahead_than_its_slack(slack: int, make: Callable[..., Rig]) -> None:
    algorithm = {"name": "ssp", "pace": {"workers": 4, "slack": slack}}
    clock = Clock()
    rig = make(job_of(rounds=16, num_clients=4, algorithm=algorithm), clock=clock)
    _, leads = without_rounds(rig, clock)
    rig.wait()
    assert max(map(max, leads)) == slack + 1  # its own update is one more than when it was let go
    if slack == 0:
        assert clock.secs == 4 * 8.0 and [len(of) for of in leads] == [4, 4, 4, 4]  # it is SSGD


def test_semi_sync_fills_its_period_from_the_first_round_on(make: Callable[..., Rig]) -> None:
    clock = Clock()
    pace = {"cohort": 4, "period_secs": 8.0}
    rig = make(job_of(rounds=2, num_clients=4, algorithm={"name": "semi_sync", "pace": pace}), clock=clock)
    turns = Turns(rig, clock)
    assert [turns.round(leased=True) for _ in range(2)] == [[8, 4, 2, 1]] * 2
    rig.wait()
    begun = [record.now_secs for record in rig.told]
    assert begun[1:] == pytest.approx([begun[0] + 8, begun[0] + 16], abs=1e-3)
    asked = [
        body.client
        for _, body in read(rig.folder / JOURNAL)
        if isinstance(body, Entry) and body.kind == Kind.PROGRESSED
    ]
    assert sorted(asked) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2  # after the first step, and the last


@pytest.mark.parametrize(
    ("algorithm", "fix"),
    [
        ({"name": "semi_sync", "pace": {"cohort": 2}}, "algorithm.pace.period_secs"),
        (
            {"name": "esync", "pace": {"cohort": 2, "beliefs": "population"}},
            "algorithm.pace.beliefs=measured",
        ),
    ],
)
def test_speeds_that_would_have_to_be_foreseen_are_refused(
    algorithm: dict[str, object], fix: str, tmp_path: Path
) -> None:
    job = job_of(rounds=1, num_clients=2, algorithm=algorithm)
    with pytest.raises(UserError, match=fix):
        assemble(job, tmp_path, start_of(job), lambda params: {}, store=None)


def test_tifl_profiles_real_clients_and_trains_tier_by_tier(make: Callable[..., Rig]) -> None:
    select = {"tiers": 2, "interval": 3, "sample": 1}
    algorithm = {"name": "tifl", "pace": {"cohort": 2}, "select": select}
    clock = Clock()
    rig = make(job_of(rounds=5, num_clients=4, algorithm=algorithm), clock=clock)
    clients, conductor = [rig.client(number, num_examples=10) for number in range(4)], rig.made.conductor
    for client in clients:
        client.join()
    asked: list[list[int]] = []
    while not conductor.over:
        begun, out = clock.secs, [k for k in range(4) if conductor.task_of(k) is not None]
        tasks = {k: clients[k].take() for k in out}
        measured = []
        for k, task in tasks.items():
            clock.secs = begun + STEP_SECS[k]
            assert task is not None
            if task.measure:
                task.answer(1.0, 0.9 if k < 2 else 0.1)
                measured.append(k)
            else:
                task.submit(task.model, loss=0.0)
        asked += [measured] if measured else []
    rig.wait()
    assert asked[0] == [0, 1, 2, 3] and len(asked) == 2
    state = conductor.state.select
    assert state["tier"].tolist() == [0, 0, 1, 1]
    fast, slow = asked[1]  # one of each tier is asked again; who is worse is drawn twice as often
    assert fast < 2 <= slow and state["chances"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert all(sorted(record.clients) in ([0, 1], [2, 3]) for record in rig.told[1:])
    assert [record.num_measured for record in rig.told] == [0, 4, 0, 0, 2, 0]
    profiles = [span for span in rig.told[1].spans if span.outcome == "measured"]
    assert [span.end_secs - span.sent_secs for span in profiles] == pytest.approx(STEP_SECS, abs=1e-3)


def test_records_tell_what_each_task_took(make: Callable[..., Rig]) -> None:
    rig = make(job_of(rounds=2, num_clients=2))
    crowd(rig, {0: lambda task: setattr(task._client, "step_secs", 0.01)})
    rig.wait()
    assert [[span.client for span in record.spans] for record in rig.told] == [[], [0, 1], [0, 1]]
    entries = [body for _, body in read(rig.folder / JOURNAL) if isinstance(body, Entry)]
    slow_steps = next(e.steps for e in entries if e.kind == Kind.ARRIVED and e.client == 0)
    assert slow_steps > 10
    for before, record in zip(rig.told, rig.told[1:], strict=False):
        slow, fast = record.spans
        assert slow.compute_secs >= 0.01 * slow_steps and fast.compute_secs > 0 < fast.up_secs
        for span in record.spans:
            assert span.outcome == "accepted" and min(span.down_secs, span.up_secs) >= 0
            assert before.now_secs <= span.sent_secs < span.end_secs <= record.now_secs + 1e-6
