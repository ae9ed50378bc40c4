"""Runs of a toy world with a plane that trains nothing: times, costs and records by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.fedavg import Sync, Uniform, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.ledger import Ledger, Power
from muster.core.record import Record, Span
from muster.core.state import Limits, load_state, save_state
from muster.core.tables import SECOND, TASK, Kind, Reason, rows
from muster.devices.world import TIMING
from muster.sim.costs import spent_alone
from muster.sim.simulation import Outside, Simulation
from worlds.plane import ToyPlane, lost_after, secs, simulation, timeless
from worlds.world import ToyWorld


class Legs:
    """Each task loads for 4 s, computes for 10 s and sends for 2 s: 1,000 bytes down, 500 up."""

    down_bytes, up_bytes = 1_000, 500

    def timing(self, tasks):
        return rows(TIMING, len(tasks), down=4 * SECOND, compute=10 * SECOND, up=2 * SECOND)


@pytest.mark.parametrize(
    ("spent", "down", "up", "used"),
    [
        (0, 0, 0, 0),
        (1, 250, 0, 1),
        (4, 1_000, 0, 4),
        (14, 1_000, 0, 14),
        (14.5, 1_000, 125, 14.5),
        (15, 1_000, 250, 15),
        (16, 1_000, 500, 16),
        (99, 1_000, 500, 16),  # it arrived long ago and was only then discarded
    ],
)
def test_what_a_task_has_cost_so_far(spent, down, up, used):
    task = rows(TASK, 1, sent_at=100 * SECOND)
    ledger = Ledger()
    ledger.charge(spent_alone(Legs(), task, 100 * SECOND + int(spent * SECOND)), Reason.LATE)
    costs = ledger.columns(None)
    assert (costs["down_bytes"], costs["up_bytes"], costs["device_secs_wasted"]) == (down, up, used)
    assert costs["device_secs_used"] == 0


def test_costs_add_up_and_each_task_has_its_own_end():
    tasks, ledger = rows(TASK, 3, sent_at=[0, SECOND, 2 * SECOND]), Ledger()
    ledger.charge(spent_alone(Legs(), tasks, np.array([16, 3, 17]) * SECOND), None)
    costs = ledger.columns(None)
    # Spent: 16, 2 and 15 s; loaded all, half, all; sent all, nothing, half.
    assert (costs["device_secs_used"], costs["device_secs_wasted"]) == (33, 0)
    assert (costs["down_bytes"], costs["up_bytes"]) == (2_500, 750)


def test_waste_by_reason_in_seconds_bytes_and_joules():
    """2 W while computing, 3 W on the link. Up to 16, 3 and 15 s: 10, 0 and 10 s of computing."""
    ledger, power = Ledger(), Power(compute=2.0, link=3.0)
    tasks = rows(TASK, 3)
    reasons = np.array([Reason.LATE, Reason.OFFLINE, Reason.LATE])
    ledger.charge(spent_alone(Legs(), tasks, np.array([16, 3, 15]) * SECOND), reasons)
    ledger.charge(spent_alone(Legs(), rows(TASK, 2), None), None)
    costs = ledger.columns(power)
    assert costs["wasted_by_reason"] == {"late": 31.0, "offline": 3.0}
    assert costs["wasted_bytes_by_reason"] == {"late": 1_500 + 1_250, "offline": 750}
    assert costs["joules_wasted_by_reason"] == {"late": 20 * 2 + 11 * 3, "offline": 3 * 3}
    assert costs["joules_used"] == 2 * (10 * 2 + 6 * 3)
    assert "joules_used" not in ledger.columns(None)


def test_a_link_so_fast_that_it_takes_no_time_still_carries_the_bytes():
    class Instant(Legs):
        def timing(self, tasks):
            return rows(TIMING, len(tasks), down=0, compute=10 * SECOND, up=0)

    ledger = Ledger()
    ledger.charge(spent_alone(Instant(), rows(TASK, 1), 10 * SECOND), None)
    assert (ledger.down_bytes, ledger.up_bytes) == (1_000, 500)
    ledger = Ledger()
    ledger.charge(spent_alone(Instant(), rows(TASK, 1), 5 * SECOND), Reason.LATE)
    assert (ledger.down_bytes, ledger.up_bytes) == (1_000, 0)


DURATIONS = {1: 30, 2: 10, 3: 20, 4: 40, 5: 15}


def five(**settings):
    """The five clients of the published example; client 0 is never there."""
    return ToyWorld(6, secs(DURATIONS), shifts={0: ()}, **settings)


def sync(**settings):
    return fedavg().but(pace=Sync(**settings))


def test_the_synchronous_round_of_the_published_example():
    plane = ToyPlane()
    run = list(simulation(sync(cohort=3, over_commit=1.6), five(), plane, Limits(rounds=1)))
    assert len(run) == 2
    record = run[1]
    assert record.now_secs == 20.0
    assert sorted(record.clients) == [2, 3, 5]
    assert (record.num_sent, record.num_accepted, record.num_late, record.num_lost) == (5, 3, 2, 0)
    # 10 + 15 + 20 s count; the stragglers 1 and 4 worked for 20 s each and had sent nothing.
    assert (record.device_secs_used, record.device_secs_wasted) == (45.0, 40.0)
    assert record.wasted_by_reason == {"late": 40.0}
    assert (record.down_bytes, record.up_bytes) == (5 * 400, 3 * 400)
    # Clients 2, 3, 5 have 3, 4, 6 examples and losses 2, 3, 5.
    assert record.loss == pytest.approx((3 * 2 + 4 * 3 + 6 * 5) / 13)
    assert record.metrics == {"accuracy": 0.1} and record.complete


@dataclass(frozen=True)
class Remembers(Uniform):
    """Keeps the reports of the last version in its state."""

    def observe(self, state, now_ns, reports):
        return {"client": reports["client"], "secs": reports["took_secs"]}


def test_reports_say_how_long_each_task_took():
    for algorithm in (sync(cohort=3, over_commit=1.6), fedbuff().but(pace=Buffered(3, 5))):
        run = simulation(algorithm.but(select=Remembers()), five(), ToyPlane(), Limits(rounds=2))
        for record in list(run)[1:3]:
            assert record.num_accepted == 3
        told = run.state.select
        expected = [float(DURATIONS[client]) for client in told["client"].tolist()]
        assert told["secs"].tolist() == expected


def test_if_client_5_goes_away_the_round_takes_longer():
    run = list(
        simulation(sync(cohort=3, over_commit=1.6), five(loss=lost_after({5: 14})), limits=Limits(rounds=1))
    )
    record = run[1]
    assert (record.now_secs, sorted(record.clients)) == (30.0, [1, 2, 3])
    assert (record.num_lost, record.num_late) == (1, 1)
    # 14 s of client 5 and 30 s of client 4 (the first half of its upload begins at 30 s) are wasted.
    assert (record.device_secs_used, record.device_secs_wasted) == (60.0, 44.0)
    assert record.wasted_by_reason == {"dropped": 14.0, "late": 30.0}
    # Client 5's upload lasts from 11.25 s on (3.75 + 7.5; whole: 3.75 s): 2.75 s of it were sent.
    assert record.up_bytes == 3 * 400 + round(400 * 2.75 / 3.75)


def test_bytes_of_a_half_finished_upload():
    # Client 0 takes 8 s. Client 1 takes 10 s: up from 7.5 s on, so a fifth of its upload is through at 8 s.
    world = ToyWorld(2, secs({0: 8, 1: 10}))
    record = list(simulation(sync(cohort=1, over_commit=2.0), world, limits=Limits(rounds=1)))[1]
    assert (record.down_bytes, record.up_bytes) == (800, 400 + 80)
    assert (record.device_secs_used, record.device_secs_wasted) == (8.0, 8.0)


def test_a_timeline_tells_the_legs_of_each_task_of_the_clients_asked_for():
    # Legs are a quarter, a half and a quarter. Client 0 takes 8 s; at 8 s client 1, of 12 s, still computes.
    world = ToyWorld(3, secs({0: 8, 1: 12, 2: 9}), lost_after({2: 1}))
    run = simulation(
        sync(cohort=1, over_commit=3.0), world, limits=Limits(rounds=2), timeline=np.array([0, 1])
    )
    _, first, second = run
    assert first.spans == (Span(0, 0.0, 2.0, 4.0, 2.0, "accepted"), Span(1, 0.0, 3.0, 5.0, 0.0, "late"))
    assert [span.sent_secs for span in second.spans] == [8.0, 8.0]
    run = list(simulation(sync(cohort=1, over_commit=3.0), world, timeline=np.array([2])))
    assert run[1].spans == (Span(2, 0.0, 1.0, 0.0, 0.0, "dropped"),)


def test_every_version_has_its_own_costs_and_the_untrained_model_has_none():
    run = list(simulation(sync(cohort=5), five(), limits=Limits(rounds=3)))
    assert [r.version for r in run] == [0, 1, 2, 3]
    assert [r.now_secs for r in run] == [0.0, 40.0, 80.0, 120.0]
    assert timeless(run[0]) == Record(0, 0.0, 0.0, metrics={"accuracy": 0.0}, num_online=5)
    for record in run[1:]:
        assert (record.num_sent, record.num_accepted, record.device_secs_used) == (5, 5, 115.0)
        assert (record.up_bytes, record.down_bytes) == (2000, 2000)


def test_a_refused_update_arrived_and_does_not_count():
    run = list(simulation(sync(cohort=5), five(), ToyPlane(refuse=(4, 5)), Limits(rounds=1)))
    assert (run[1].num_accepted, run[1].num_refused) == (3, 2)
    assert sorted(run[1].clients) == [1, 2, 3]
    assert run[1].loss == pytest.approx((2 * 1 + 3 * 2 + 4 * 3) / 9)


def test_if_all_are_refused_there_is_no_loss():
    run = list(simulation(sync(cohort=5), five(), ToyPlane(refuse=(1, 2, 3, 4, 5)), Limits(rounds=1)))
    assert (run[1].version, run[1].num_accepted, run[1].num_refused, run[1].loss) == (1, 0, 5, None)


@pytest.mark.parametrize(
    ("rounds", "every", "evaluated"),
    [(4, 1, [0, 1, 2, 3, 4]), (5, 2, [0, 2, 4, 5]), (4, 2, [0, 2, 4]), (3, 100, [0, 3])],
)
def test_the_last_version_is_always_evaluated_and_once(rounds, every, evaluated):
    plane = ToyPlane()
    limits = Limits(rounds=rounds, evaluate_every=every)
    run = list(simulation(sync(cohort=2), five(), plane, limits))
    assert plane.evaluated == evaluated
    assert [r.version for r in run if r.metrics] == evaluated


def test_the_end_of_virtual_time_has_a_record_of_what_was_under_way():
    plane = ToyPlane()
    limits = Limits(virtual_ns=100 * SECOND, evaluate_every=5)
    run = simulation(sync(cohort=5), five(), plane, limits)
    records = list(run)
    assert [r.version for r in records] == [0, 1, 2, 3]
    assert [r.complete for r in records] == [True, True, True, False]
    last = records[-1]
    assert (last.now_secs, last.num_sent, last.num_accepted) == (100.0, 5, 0)
    assert (last.num_discarded, last.num_late) == (5, 0)
    # 20 s into the round: those of 10, 15 and 20 s are through, those of 30 and 40 s are computing.
    assert last.device_secs_wasted == 10 + 15 + 20 + 20 + 20
    assert (last.down_bytes, last.up_bytes) == (2000, 1200)
    # Version 2 was not due, but it is the last there is.
    assert plane.evaluated == [0, 2] and last.metrics == {"accuracy": 0.2}
    assert (run.ended.status, run.ended.why) == ("virtual_secs", "the virtual clock reached 100 s")


def test_a_target_ends_the_run_with_the_model_that_met_it():
    plane = ToyPlane()
    run = simulation(
        sync(cohort=5), five(), plane, Limits(rounds=9), outside=Outside(metric="accuracy", target=0.2)
    )
    records = list(run)
    assert [r.version for r in records] == [0, 1, 2] and records[-1].complete
    assert plane.version == 2 and run.state.version == 2
    assert (run.ended.status, run.ended.why) == ("target", "accuracy 0.2000 reached the target 0.2")
    assert run.state.stopped and len(run.state.tasks) == 0


@pytest.mark.parametrize(
    ("metric", "target", "metrics", "reached"),
    [
        ("accuracy", 0.5, {"accuracy": 0.5}, True),
        ("accuracy", 0.5, {"accuracy": 0.49}, False),
        ("accuracy", 0.5, {"accuracy": float("nan")}, False),
        ("accuracy", 0.5, {}, False),
        ("accuracy", None, {"accuracy": 1.0}, False),
        ("loss", 0.5, {"loss": 0.4}, True),
        ("loss", 0.5, {"loss": 0.6}, False),
        ("loss", 0.0, {"loss": 0.0}, True),
    ],
)
def test_losses_fall_to_a_target_and_all_else_rises(metric, target, metrics, reached):
    assert Outside(metric=metric, target=target).reached(metrics) is reached


def test_what_was_under_way_when_a_target_was_met_is_accounted_for():
    # FedBuff, four at work: 0 and 1 report after 10 s and 20 s, 2 and 3 would after 100 s.
    world = ToyWorld(4, secs({0: 10, 1: 20, 2: 100, 3: 100}))
    algorithm = fedbuff().but(pace=Buffered(size=2, concurrency=4))
    run = simulation(algorithm, world, outside=Outside(metric="accuracy", target=0.1))
    records = list(run)
    # Client 0 reports at 10 s, is sent again, and reports at 20 s together with client 1 but before it.
    assert records[1].now_secs == 20.0 and records[1].clients == (0, 0)
    last = records[-1]
    assert (last.version, last.complete, last.num_accepted) == (2, False, 0)
    # Left: client 1, through, but not yet taken; 2 and 3, 20 s in; and whoever was sent anew at 20 s.
    assert last.num_discarded == 4
    assert last.device_secs_wasted == 60.0
    # Sending 2 and 3 the model takes 25 s.
    assert (last.down_bytes, last.up_bytes) == (400 + 2 * 320, 400)


def test_wall_time_ends_the_run_and_the_last_model_is_evaluated(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("muster.sim.simulation.time.perf_counter", lambda: now[0])

    class Slow(ToyPlane):
        def advance(self, *args):
            now[0] += 10.0
            return super().advance(*args)

    plane = Slow()
    limits = Limits(rounds=99, evaluate_every=50)
    run = simulation(sync(cohort=5), five(), plane, limits, outside=Outside(wall_secs=25.0), wall_before=4.0)
    records = list(run)
    assert [(r.version, r.wall_secs) for r in records] == [(0, 4.0), (1, 14.0), (2, 24.0), (3, 34.0)]
    assert plane.evaluated == [0, 3] and records[-1].metrics == {"accuracy": 0.3} and records[-1].complete
    assert (run.ended.status, run.ended.why) == ("wall_secs", "34.0 s of wall time are over")


def test_when_the_clock_passes_the_limit_while_a_version_is_recorded_it_is_still_evaluated(monkeypatch):
    now = [0.0]

    def ticking():
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("muster.sim.simulation.time.perf_counter", ticking)
    for wall_secs in range(1, 12):
        plane = ToyPlane()
        limits = Limits(rounds=50, evaluate_every=50)
        outside = Outside(wall_secs=wall_secs + 0.5)
        records = list(simulation(sync(cohort=5), five(), plane, limits, outside=outside))
        assert plane.evaluated[-1] == plane.version == records[-1].version
        assert records[-1].metrics == {"accuracy": plane.version / 10}


def test_when_nobody_can_be_reached_the_run_ends_with_a_reason_and_what_it_cost():
    world = five(loss=lost_after(dict.fromkeys(range(6), 2)))
    run = simulation(sync(cohort=5), world)
    records = list(run)
    assert (records[-1].complete, records[-1].version) == (False, 1)
    assert run.ended.status == "stalled"
    # Five tasks in each of twenty rounds, 2 s each; then waits of 1, 2, 4, ... s, 3,600 s at most.
    assert (records[-1].num_sent, records[-1].num_lost, records[-1].device_secs_wasted) == (100, 100, 200.0)
    assert records[-1].now_secs == 20 * 2 + (2**12 - 1) + 7 * 3600


def test_fedbuff_by_hand():
    # Two at work out of two clients: 0 takes 10 s, 1 takes 25 s; every two reports make a version.
    world = ToyWorld(2, secs({0: 10, 1: 25}))
    plane = ToyPlane()
    algorithm = fedbuff().but(pace=Buffered(size=2, concurrency=2))
    records = list(simulation(algorithm, world, plane, Limits(rounds=3)))
    # 0 at 10, 20 | 1 at 25, 0 at 30 | 0 at 40, 0 at 50 (and 1 at 50, not yet) ...
    assert [r.now_secs for r in records] == [0.0, 20.0, 30.0, 50.0]
    assert [asked[:2] for asked in plane.asked] == [([0, 0], [0, 0]), ([1, 0], [1, 0]), ([0, 0], [0, 0])]
    assert [r.clients for r in records[1:]] == [(0, 0), (1, 0), (0, 0)]
    # What is still out was sent at version 0; then at version 1 by client 1 (at 25 s); the same again.
    assert [asked[2] for asked in plane.asked] == [{0}, {1}, {1}]
    assert [r.num_sent for r in records] == [0, 3, 2, 2]
    assert [r.num_discarded for r in records] == [0, 0, 0, 1]
    assert records[3].device_secs_wasted == 25.0


def test_the_log_has_every_table_in_order_of_time():
    log = []
    list(simulation(sync(cohort=3, over_commit=1.6), five(), limits=Limits(rounds=2), log=log.append))
    kinds = [[Kind(k).name for k in events.table["kind"]] for events in log]
    assert kinds == [["STARTED"], ["ARRIVED"] * 3, ["ADVANCED"], ["ARRIVED"] * 3, ["ADVANCED"]]
    assert [int(e.table["now"][-1]) // SECOND for e in log] == [0, 20, 20, 40, 40]
    assert (
        log[2].reports["client"].tolist()
        == log[1].table["client"][np.argsort(log[1].table["ticket"])].tolist()
    )


def test_deadlines_and_waits_are_the_worlds_time():
    # Two of five report within 16 s.
    record = list(simulation(sync(cohort=5, deadline_secs=16), five(), limits=Limits(rounds=1)))[1]
    assert (record.now_secs, sorted(record.clients), record.num_late) == (16.0, [2, 5], 3)


@pytest.mark.parametrize("algorithm", [sync(cohort=3, over_commit=1.6), fedbuff().but(pace=Buffered(2, 3))])
def test_a_run_goes_on_from_any_of_its_records(algorithm):
    world = five(loss=lambda c, a: SECOND if (c + a) % 4 == 0 else None)
    whole = [timeless(r) for r in simulation(algorithm, world, limits=Limits(rounds=6))]
    for stop in range(1, 6):
        first = simulation(algorithm, world, limits=Limits(rounds=6))
        told = []
        for record in first:
            told.append(timeless(record))
            if record.version == stop:
                break
        state = load_state(*save_state(first.state))
        rest = Simulation(algorithm, 5, world, ToyPlane(version=stop), state)
        assert told + [timeless(r) for r in rest] == whole


def test_records_say_when_losses_are_surrogates():
    assert all(r.surrogate for r in simulation(sync(cohort=5), five(), surrogate=True))


def test_reasons_are_counted_apart():
    # Version 1 needs both reports of client 0; client 1's first (25 s) is one version late: discarded.
    world = ToyWorld(2, secs({0: 10, 1: 25}))
    algorithm = fedbuff().but(pace=Buffered(size=2, concurrency=2, max_staleness=0))
    records = list(simulation(algorithm, world, limits=Limits(rounds=2)))
    assert [replace(r, wall_secs=0).num_discarded for r in records] == [0, 0, 1 + 1]
    assert [r.num_late for r in records] == [0, 0, 0]
    # 25 s of client 1's first task; its second was 15 s old when the run ended with client 0's fourth.
    assert [set(r.wasted_by_reason) for r in records] == [set(), set(), {"stale", "stopped"}]
    assert records[2].wasted_by_reason == {"stale": 25.0, "stopped": 15.0}


@dataclass(frozen=True)
class ThrowsAway(Sync):
    """Waits for a cohort as FedAvg does, and then takes none of it."""

    def plan(self, state, view):
        state, plan = super().plan(state, view)
        if not plan.advance:
            return state, plan
        everything = np.concatenate([plan.accept, plan.discard])
        return state, replace(plan, accept=everything[:0], discard=everything, reason=Reason.STALE)


def test_a_pace_may_advance_with_nothing_accepted():
    plane = ToyPlane()
    algorithm = fedavg().but(pace=ThrowsAway(cohort=2))
    records = list(simulation(algorithm, ToyWorld(3, secs([1, 2, 3])), plane, Limits(rounds=2)))
    assert [(r.version, r.num_accepted, r.num_discarded, r.loss) for r in records] == [
        (0, 0, 0, None),
        (1, 0, 2, None),
        (2, 0, 2, None),
    ]
    assert plane.asked == [([], [], set()), ([], [], set())]


@dataclass(frozen=True)
class AsksAll(Uniform):
    """Asks everybody who is free, and draws the one that says the largest loss."""

    def ask(self, state, k, free, rng):
        return free.among(np.arange(free.num_clients))

    def told(self, state, now_ns, measured):
        return {"worst": measured["client"][measured["loss"].argmax()]}

    def draw(self, state, k, free, rng):
        return np.array([state["worst"]])


def test_answers_take_time_and_bytes_and_count_as_used():
    # Answers take 2, 4 and (lost after 1 s) 8 s; then client 1, the worst of the two, trains for 4 s.
    world = ToyWorld(3, secs([2, 4, 8]), lost_after({2: 1}))
    algorithm = fedavg().but(select=AsksAll(), pace=Sync(cohort=1))
    record = list(simulation(algorithm, world, limits=Limits(rounds=1), timeline=np.arange(3)))[1]
    assert record.now_secs == 4 + 4 and record.clients == (1,)
    assert (record.num_sent, record.num_measured, record.num_accepted, record.num_lost) == (4, 2, 1, 1)
    assert (record.device_secs_used, record.device_secs_wasted) == (2 + 4 + 4, 1)
    assert record.up_bytes == 2 * 64 + 400
    assert record.down_bytes == 3 * 400 + 200  # who was lost after 1 s had half of what takes 2 s
    outcomes = [(span.client, span.outcome) for span in record.spans]
    assert outcomes == [(0, "measured"), (1, "measured"), (2, "dropped"), (1, "accepted")]
