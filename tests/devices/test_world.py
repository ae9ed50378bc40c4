"""The clock by hand: secs = down + compute + up; who is lost, when, and in which order rows come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.population import Everyone, Online, Population
from muster.core.tables import EVENT, SECOND, TASK, Kind, Lease, Purpose, Reason, rows
from muster.core.work import Work
from muster.devices.availability import Availability, Intervals
from muster.devices.clocks import Clock
from muster.devices.mobile import Mobile
from muster.devices.world import World, rounded


def world(work=Work(), dropout=0.0, down_bytes=1_000_000, up_bytes=500_000, seed=0, **columns):
    given = {
        "num_examples": [45, 7],
        "ms_per_example": [10, 4],
        "down_kbps": [8_000, 100],
        "up_kbps": [1_000, 50],
    }
    kinds = {"num_examples": np.int32}
    made = {k: np.array(v, kinds.get(k, np.float32)) for k, v in (given | columns).items()}
    return World(Population(**made), work, down_bytes, up_bytes, dropout, seed)


def tasks(*clients, sent_at=0):
    count = len(clients)
    return rows(TASK, count, ticket=np.arange(count), client=clients, sent_at=sent_at)


@pytest.mark.parametrize(
    ("work", "trained"),
    [
        (Work(epochs=1, batch_size=20), (45, 7)),
        (Work(epochs=2, batch_size=0), (90, 14)),
        (Work(steps=4, batch_size=20), (65, 28)),
    ],
)
def test_three_legs_by_hand(work, trained):
    timing = world(work).timing(tasks(0, 1))
    # 8 million bits at 8 Mbit/s: 1 s; at 0.1 Mbit/s: 80 s. 4 million bits at 1 Mbit/s: 4 s; at 0.05: 80 s.
    assert timing["down"].tolist() == [1 * SECOND, 80 * SECOND]
    assert timing["up"].tolist() == [4 * SECOND, 80 * SECOND]
    # Training costs three forward passes: 3 x 45 x 10 ms = 1.35 s, 3 x 7 x 4 ms = 84 ms.
    assert timing["compute"].tolist() == [trained[0] * 30_000_000, trained[1] * 12_000_000]


@pytest.mark.parametrize(
    ("ms", "kbps", "kbit", "steps", "compute", "link"),
    [
        # Rows of the published device trace with a model of 666,786.03125 kbit and one of 350,886.7421875.
        (153, 2209.6159823294856, 666786.03125, 4, 36.72, 603.5311444000703),
        (39, 18437.311985652217, 666786.03125, 4, 9.36, 72.33006978120109),
        (22, 22915.494847737755, 666786.03125, 4, 5.28, 58.195211203639005),
        (153, 2209.6159823294856, 350886.7421875, 1, 9.18, 317.5997503580491),
    ],
)
def test_the_published_examples_of_the_clock(ms, kbps, kbit, steps, compute, link):
    # Batches of 20, from a client that has enough; both ways together are `link`. Columns are float32.
    size = round(kbit * 1000 / 8)
    at = world(
        Work(steps=steps, batch_size=20),
        down_bytes=size,
        up_bytes=size,
        num_examples=[1000],
        ms_per_example=[ms],
        down_kbps=[kbps],
        up_kbps=[kbps],
    )
    timing = at.timing(tasks(0))
    assert timing["compute"][0] / SECOND == pytest.approx(compute, abs=1e-9)
    assert (timing["down"] + timing["up"])[0] / SECOND == pytest.approx(link, rel=1e-7)


def test_a_task_without_examples_or_bytes_lasts_a_nanosecond():
    nothing = world(down_bytes=0, up_bytes=0, num_examples=[0, 0], dropout=0.0)
    assert [sum(row) for row in nothing.timing(tasks(0, 1)).tolist()] == [1, 1]
    assert nothing.outcomes(tasks(0, 1, sent_at=7))["now"].tolist() == [8, 8]
    lost = world(down_bytes=0, up_bytes=0, num_examples=[0, 0], dropout=1.0)
    assert lost.outcomes(tasks(0, 1, sent_at=7))["now"].tolist() == [8, 8]


def test_who_reports_does_so_when_all_legs_are_over():
    told = world().outcomes(tasks(1, 0, sent_at=10 * SECOND))
    assert told.dtype == EVENT
    assert told["client"].tolist() == [0, 1] and told["ticket"].tolist() == [1, 0]
    assert told["now"].tolist() == [10 * SECOND + 6_350_000_000, 10 * SECOND + 160_084_000_000]
    assert told["kind"].tolist() == [Kind.ARRIVED] * 2
    assert told["steps"].tolist() == [3, 1]
    assert told["secs"].tolist() == [1.35, 0.084]
    assert told["reason"].tolist() == [Reason.NONE] * 2


def test_who_is_lost_has_done_no_steps_and_says_why():
    told = world(dropout=1.0).outcomes(tasks(0, 1))
    assert told["kind"].tolist() == [Kind.LOST] * 2
    assert told["reason"].tolist() == [Reason.DROPPED] * 2
    assert told["steps"].tolist() == [0, 0] and told["secs"].tolist() == [0.0, 0.0]
    for row in told:
        assert 0 < row["now"] < {0: 6_350_000_000, 1: 160_084_000_000}[int(row["client"])]


@pytest.mark.parametrize("dropout", [0.06, 0.5, 0.9])
def test_the_share_of_lost_tasks_and_where_they_are_lost(dropout):
    count = 50_000
    many = rows(
        TASK, count, ticket=np.arange(count), client=np.arange(count) % 2, attempt=np.arange(count) // 2
    )
    told = world(dropout=dropout).outcomes(many)
    lost = told[told["kind"] == Kind.LOST]
    assert len(lost) / count == pytest.approx(dropout, abs=4 * np.sqrt(dropout * (1 - dropout) / count))
    # Evenly over the way: mean 1/2, deviation 1/sqrt(12).
    share = lost["now"] / np.array([6_350_000_000, 160_084_000_000])[lost["client"]]
    assert share.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * len(lost)))
    assert share.std() == pytest.approx(1 / np.sqrt(12), rel=0.03)


def test_a_task_is_lost_or_not_by_client_and_attempt_whatever_its_ticket():
    some = rows(TASK, 40, ticket=np.arange(40), client=np.arange(40) % 2, attempt=np.arange(40) // 2)
    other = some.copy()
    other["ticket"] += 1000
    other["version"] = 9
    one, two = (world(dropout=0.5).outcomes(table) for table in (some, other))
    assert (one["kind"] == two["kind"]).all() and (one["now"] == two["now"]).all()
    assert 5 < np.count_nonzero(one["kind"] == Kind.LOST) < 35
    third = world(dropout=0.5, seed=1).outcomes(some)
    assert sorted(third[["now", "client"]].tolist()) != sorted(one[["now", "client"]].tolist())


def test_bytes_do_not_change_who_is_lost():
    some = rows(TASK, 40, ticket=np.arange(40), client=np.arange(40) % 2, attempt=np.arange(40) // 2)
    lost = []
    for size in (1, 10**7):
        told = world(dropout=0.5, down_bytes=size).outcomes(some)
        lost.append(sorted(told["ticket"][told["kind"] == Kind.LOST].tolist()))
    assert lost[0] == lost[1]


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_rows_come_in_key_order_and_are_the_same_however_tasks_are_grouped(listed, random, dropout):
    phones = Mobile().draw(np.full(31, 20, np.int32), 1)
    at = World(phones, Work(), 2600, 2600, dropout, 4)
    clients, attempts, sent = (list(column) for column in zip(*listed, strict=True))
    table = rows(TASK, len(listed), ticket=range(len(listed)), client=clients, attempt=attempts)
    table["sent_at"] = np.array(sent) * SECOND
    before = table.tobytes()
    told = at.outcomes(table)
    assert table.tobytes() == before
    keys = told[["now", "kind", "client"]].tolist()
    assert keys == sorted(keys)
    order = random.sample(range(len(table)), len(table))
    cut = random.randint(0, len(table))
    apart = [at.outcomes(table[part]) for part in (order[:cut], order[cut:])]
    assert sorted(np.concatenate(apart).tolist()) == sorted(told.tolist())


def test_who_reports_at_the_same_instant_comes_in_order_of_client_arrivals_first():
    at = world(down_kbps=[8_000] * 6, up_kbps=[8_000] * 6, num_examples=[0] * 6, ms_per_example=[1] * 6)
    assert at.outcomes(tasks(3, 0, 5, 1, 4, 2))["client"].tolist() == [0, 1, 2, 3, 4, 5]
    # Tasks of one nanosecond are lost and arrive at the same instant.
    short = replace(at, down_bytes=0, up_bytes=0, dropout=0.5).outcomes(tasks(3, 0, 5, 1, 4, 2))
    kinds = short["kind"].tolist()
    assert set(short["now"].tolist()) == {1} and set(kinds) == {Kind.ARRIVED, Kind.LOST}
    assert kinds == sorted(kinds)
    for kind in (Kind.ARRIVED, Kind.LOST):
        clients = short["client"][short["kind"] == kind].tolist()
        assert clients == sorted(clients)


def test_everyone_is_there():
    assert world().present(5) == Everyone(2, 5)


def coming_and_going(**settings):
    """`world()`, whose client 0 is online in [0, 5] s and [10, 16.35] s of 20 s, and client 1 always."""
    starts, ends = np.array([0, 10_000, 0]), np.array([5_000, 16_350, 20_000])
    period = np.full(2, 20 * SECOND)
    intervals = Intervals(starts * 1_000_000, ends * 1_000_000, np.array([0, 2, 3]), period)
    there = Availability(intervals, np.array([0, 1], np.int32), np.zeros(2, np.int64))
    plain = world(**settings)
    return replace(plain, population=replace(plain.population, availability=there))


def test_a_client_that_goes_before_its_task_ends_is_lost_at_that_instant():
    at = coming_and_going()
    # Client 0 takes 1 + 1.35 + 4 = 6.35 s; at 0 s it stays for 5 s, at 10 s it just makes it.
    early, right, late = (at.outcomes(tasks(0, sent_at=t))[0] for t in (0, 10 * SECOND, 10 * SECOND + 1))
    assert (early["now"], early["kind"], early["reason"]) == (5 * SECOND + 1, Kind.LOST, Reason.OFFLINE)
    assert (early["steps"], early["secs"]) == (0, 0)
    assert (right["now"], right["kind"], right["reason"]) == (16_350_000_000, Kind.ARRIVED, Reason.NONE)
    assert (late["now"], late["kind"], late["reason"]) == (16_350_000_001, Kind.LOST, Reason.OFFLINE)
    always = at.outcomes(tasks(1))
    assert always["kind"].tolist() == [Kind.ARRIVED]
    # Sent to one that is not there: lost at once, but not in no time.
    away = at.outcomes(tasks(0, sent_at=7 * SECOND))[0]
    assert (away["now"], away["kind"]) == (7 * SECOND + 1, Kind.LOST)


def test_who_would_drop_out_and_also_goes_is_lost_by_what_comes_first():
    at = coming_and_going(dropout=1.0)
    plain = world(dropout=1.0).outcomes(tasks(0))[0]
    told = at.outcomes(tasks(0))[0]
    dropped_first = plain["now"] <= 5 * SECOND
    assert told["reason"] == (Reason.DROPPED if dropped_first else Reason.OFFLINE)
    assert told["now"] == (plain["now"] if dropped_first else 5 * SECOND + 1)


def test_who_is_present_follows_availability():
    at = coming_and_going()
    assert isinstance(at.present(0), Online)
    both = np.array([1, 0])
    assert at.present(5 * SECOND).among(both).tolist() == [1, 0]
    assert at.present(7 * SECOND).among(both).tolist() == [1]
    assert at.present(7 * SECOND).when(2, np.zeros(0, np.int64)) == 10 * SECOND
    assert at.present(7 * SECOND).sample(2, np.random.default_rng(0), np.zeros(0, np.int64)).tolist() == [1]


def test_how_many_are_online_by_hand():
    at = coming_and_going()
    assert [at.num_online(5 * SECOND), at.num_online(7 * SECOND), world().num_online(0)] == [2, 1, 2]


def test_of_many_clients_how_many_are_online_is_estimated(monkeypatch):
    at = coming_and_going()  # trace 0 is online at 7 s, trace 1 is not, or the other way round
    there = at.population.availability
    row = np.tile(there.row, 50_000)
    many = replace(at.population.availability, row=row, shift=np.tile(there.shift, 50_000))
    wide = replace(at, population=replace(at.population, num_examples=np.ones(100_000, np.int32),
                                          availability=many))  # fmt: skip
    assert wide.num_online(7 * SECOND) == pytest.approx(50_000, rel=0.05)


def test_what_each_clients_first_task_is_expected_to_take():
    assert world().expected_secs().tolist() == [1 + 1.35 + 4, 80 + 0.084 + 80]


@pytest.mark.parametrize("work", [Work(epochs=2), Work(steps=5, batch_size=0)])
@pytest.mark.parametrize(
    "clock", [Clock(), Clock(jitter=0.4, changes=((60.0, 2.0, 0.5),)), Clock("fedscale")]
)
def test_a_task_alone_has_the_outcome_that_it_has_among_others(work, clock):
    """One row goes a way of its own, in Python's numbers."""
    examples = np.arange(1, 301, dtype=np.int32)
    who = Mobile(availability="diurnal").draw(examples, 2)
    at = World(who, work, 1_000_000, 2_000_000, 0.3, 2, clock)
    draw = np.random.default_rng(0)
    many = tasks(*range(300))
    many["sent_at"] = draw.integers(0, 10**15, 300)
    many["sent_at"][:150] = who.availability.next_online(many["client"][:150], many["sent_at"][:150])
    many["attempt"], many["steps"] = draw.integers(0, 9, 300), draw.integers(0, 3, 300)
    together = np.sort(at.outcomes(many), order="ticket")
    assert {0, 1, 8} == set(together["reason"].tolist())
    for row, task in zip(together, many, strict=True):
        assert at.outcomes(np.array([task])).tobytes() == row.tobytes()


def test_a_clients_stay_alone_is_that_among_others():
    """Traces that are online all the time, over the end of their period, or never."""
    trace = np.array([0, 1, 1, 2, 2, 3, 5])
    starts, ends = np.array([0, 0, 70, 10, 40, 90, 0]), np.array([100, 20, 100, 20, 50, 100, 30])
    there = Availability(
        Intervals.joined(trace, starts, ends, np.array([100, 100, 100, 100, 100, 60])),
        np.arange(6, dtype=np.int32),
        np.array([0, 5, -3, 7, 0, 11]),
    )
    for now in range(0, 250):
        together = there.online_until(np.arange(6), now).tolist()
        assert [there.online_until(np.array([c]), now).tolist()[0] for c in range(6)] == together
        online = there.online(np.arange(6), now).tolist()
        assert [there.online(np.array([c]), now).tolist()[0] for c in range(6)] == online


@pytest.mark.parametrize("compute", ["examples", "flops", "fedscale"])
def test_who_measures_makes_one_forward_pass_and_sends_a_few_bytes(compute):
    it = replace(world(Work(epochs=5, batch_size=15)), clock=Clock(compute=compute))
    table = tasks(0, 0)
    table["work"][1] = Purpose.MEASURE
    trains, measures = it.timing(table)
    # 45 examples of 10 ms; training costs three passes, five times over.
    assert (trains["compute"], measures["compute"]) == (15 * 450_000_000, 450_000_000)
    kbit = 1024 if compute == "fedscale" else 1000
    assert measures["up"] == round(64 * 8 / (1000 * kbit) * SECOND)
    assert trains["down"] == measures["down"] and it.timing(table[1:])[0] == measures


def test_by_chance_a_forward_pass_is_a_third_of_training_on_as_much():
    it = replace(world(Work(steps=1, batch_size=0)), clock=Clock(compute="fedscale_lognormal"))
    table = tasks(0, 0)
    table["work"][1] = Purpose.MEASURE
    compute = it.timing(table)["compute"]
    assert compute[1] == pytest.approx(compute[0] / 3, abs=1)


def test_six_digits_in_whole_nanoseconds():
    ns = np.array([0.0, 0.4, 1.6, 99_999.4, 11_666_666.98, 35_000_000.94, 4_999_999.88])
    assert rounded(ns).tolist() == [0, 1, 2, 99_999, 11_666_700, 35_000_000, 5_000_000]


@given(st.integers(1, 999), st.sampled_from([1, 10, 60, 100, 1000]), st.integers(2, 150))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_leased_steps_of_speeds_that_people_write_last_as_long_as_one_of_so_much_slower(ms, part, ratio):
    """Speeds are f32: 3 x 0.7 s would be more than 2.1 s. Ratios beyond 150 may need a seventh digit."""
    speeds = [ms / part, ratio * ms / part]
    at_work = world(Work(), num_examples=[100, 100], ms_per_example=speeds, down_kbps=[8, 8], up_kbps=[8, 8])
    leased = tasks(0, 1)
    leased["lease"], leased["steps"] = Lease.TRAINING, [ratio, 1]
    fast, slow = at_work.timing(leased)["compute"].tolist()
    assert fast == slow == pytest.approx(60e6 * ratio * ms / part, rel=1e-5)
    own, one = at_work.foreseen().step_secs
    assert round(own * SECOND) * ratio == round(one * SECOND)
