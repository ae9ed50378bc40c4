"""`step`, driven by hand: what is told to it, and what it asks for, in seconds and tickets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.algorithms.fedavg import Sync, Uniform, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.algorithm import Select
from muster.core.errors import UserError
from muster.core.population import Everyone, Population
from muster.core.randomness import rng
from muster.core.state import Limits, initial_state, load_state, save_state
from muster.core.step import appetite, end, step
from muster.core.tables import EVENT, REPORT, SECOND, Events, Kind, Reason, frozen, rows, to_ns

steady = settings(deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class First(Select):
    """Draws the free clients with the lowest numbers, so that a test can say who gets what."""

    def draw(self, state, k, free, rng):
        return free.among(np.arange(free.num_clients))[:k]


@dataclass(frozen=True)
class Nobody(Select):
    def draw(self, state, k, free, rng):
        return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Coming:
    """Candidates who come at known seconds and stay; client i at `times[i]`, never if that is None."""

    times: tuple
    now_ns: int

    @property
    def num_clients(self):
        return len(self.times)

    def _ids(self, now_ns):
        return np.array(
            [c for c, t in enumerate(self.times) if t is not None and to_ns(t) <= now_ns], np.int64
        )

    def sample(self, k, rng, but):
        return rng.permutation(np.setdiff1d(self._ids(self.now_ns), but))[:k]

    def among(self, ids):
        return ids[np.isin(ids, self._ids(self.now_ns))]

    def everybody(self):
        return np.isin(np.arange(self.num_clients), self._ids(self.now_ns))

    def when(self, n, but):
        times = sorted(to_ns(t) for t in self.times if t is not None)
        return next(
            (
                t
                for t in [self.now_ns, *times]
                if t >= self.now_ns and len(np.setdiff1d(self._ids(t), but)) >= n
            ),
            None,
        )


def bits(state):
    scalars, columns = save_state(state)
    return repr(scalars), {k: v.tobytes() for k, v in columns.items()}


class Server:
    """Keeps the state between calls. Answers are tuples; `wake` remembers the newest timer's number.

    Every call checks that nothing that went in was changed, and that all that could be is read-only.
    """

    def __init__(self, algorithm, num_clients=6, limits=Limits(), times=None, select=First()):
        self.algorithm = algorithm.but(select=select)
        ones = np.ones(num_clients, np.float32)
        population = Population(np.ones(num_clients, np.int32), ones, ones, ones)
        self.state = initial_state(self.algorithm, population, limits)
        self.num_clients, self.times = num_clients, times
        self.newest = None

    def tell(self, events):
        before, state = bits(self.state), self.state
        told = events.table.tobytes(), events.reports.tobytes()
        frozen(events.table)
        now = int(events.table["now"][-1])
        present = Everyone(self.num_clients, now) if self.times is None else Coming(self.times, now)
        self.state, commands = step(self.algorithm, 5, state, events, present)
        assert bits(state) == before and (events.table.tobytes(), events.reports.tobytes()) == told
        assert not self.state.tasks.flags.writeable
        return [self.plain(command) for command in commands]

    def plain(self, command):
        values = vars(command)
        for array in values.values():
            assert not isinstance(array, np.ndarray) or not array.flags.writeable
        match type(command).__name__:
            case "Train":
                tasks = values["tasks"]
                assert (tasks["sent_at"] == self.state.now_ns).all()
                assert (tasks["version"] == self.state.version).all()
                return "train", dict(zip(tasks["ticket"].tolist(), tasks["client"].tolist(), strict=True))
            case "Accept":
                return "accept", values["tickets"].tolist(), values["staleness"].tolist()
            case "Discard":
                return "discard", values["tickets"].tolist(), values["reason"].name.lower()
            case "WakeAt":
                self.newest = values["number"]
                return "wake", values["time_ns"] / SECOND
            case "Stop":
                self.why = values["why"]
                return "stop", values["status"]
            case name:
                return name.lower(), values["version"]

    def start(self):
        return self.tell(Events.one(Kind.STARTED, 0))

    def advanced(self, reports=None):
        return self.tell(Events.one(Kind.ADVANCED, self.state.now_ns, self.state.version, reports))

    def woke(self, secs, number=None):
        return self.tell(Events.one(Kind.WOKE, to_ns(secs), self.newest if number is None else number))

    def rows(self, *listed):
        return self.tell(events(*listed))

    def arrived(self, secs, ticket):
        return self.rows((secs, "arrived", ticket))

    def lost(self, secs, ticket):
        return self.rows((secs, "lost", ticket))


def events(*listed):
    """(seconds, "arrived" or "lost", ticket) or (seconds, "left" or "joined", client), in order."""
    table = rows(EVENT, len(listed))
    for row, (secs, kind, number) in zip(table, listed, strict=True):
        row["now"], row["kind"] = to_ns(secs), Kind[kind.upper()]
        row["client" if kind in ("left", "joined") else "ticket"] = number
        row["client" if kind in ("arrived", "lost") else "ticket"] = -1
    return Events(table)


def sync(**settings):
    return fedavg().but(pace=Sync(**settings))


def buffered(**settings):
    return fedbuff().but(pace=Buffered(**settings))


def test_a_round_of_fedavg_with_over_commitment_a_loss_and_a_late_one():
    server = Server(sync(cohort=2, over_commit=2.0))
    assert server.start() == [("train", {0: 0, 1: 1, 2: 2, 3: 3})]
    assert server.lost(5, 1) == []
    assert server.arrived(6, 3) == []
    assert server.arrived(7, 0) == [("accept", [0, 3], [0, 0]), ("discard", [2], "late"), ("advance", 1)]
    assert server.advanced() == [("evaluate", 1), ("train", {4: 0, 5: 1, 6: 2, 7: 3})]
    assert server.arrived(8, 2) == [], "the late one comes in vain"
    # A client's tasks are counted: the second task of 0 to 3 is their attempt 1.
    assert server.state.tasks["attempt"].tolist() == [1, 1, 1, 1]
    assert server.state.tally.counts().tolist() == [2, 2, 2, 2, 0, 0]


def test_the_same_round_in_one_delivery():
    server = Server(sync(cohort=2, over_commit=2.0))
    server.start()
    told = server.rows((5, "lost", 1), (6, "arrived", 3), (7, "arrived", 0))
    assert told == [("accept", [0, 3], [0, 0]), ("discard", [2], "late"), ("advance", 1)]


def test_a_round_closes_with_the_last_loss():
    server = Server(sync(cohort=3))
    server.start()
    assert server.arrived(1, 0) == server.lost(2, 1) == []
    assert server.lost(3, 2) == [("accept", [0], [0]), ("advance", 1)]


def test_a_deadline_with_enough_reports():
    server = Server(sync(cohort=3, deadline_secs=10, min_reports=2))
    assert server.start() == [("train", {0: 0, 1: 1, 2: 2}), ("wake", 10)]
    assert server.rows((3, "arrived", 2), (4, "arrived", 1)) == []
    assert server.woke(10) == [("accept", [1, 2], [0, 0]), ("discard", [0], "late"), ("advance", 1)]
    assert server.advanced() == [("evaluate", 1), ("train", {3: 0, 4: 1, 5: 2}), ("wake", 20)]


def test_a_deadline_with_too_few_reports_backs_off_1_2_4_s():
    server = Server(sync(cohort=3, deadline_secs=10, min_reports=2))
    server.start()
    assert server.arrived(4, 1) == []
    assert server.woke(10) == [("discard", [1, 0, 2], "abandoned"), ("wake", 11)]
    assert server.woke(11) == [("train", {3: 0, 4: 1, 5: 2}), ("wake", 21)]
    assert server.woke(21) == [("discard", [3, 4, 5], "abandoned"), ("wake", 23)]
    assert server.arrived(22, 4) == [], "abandoned; and no work goes out before the wait is over"
    assert server.woke(23) == [("train", {6: 0, 7: 1, 8: 2}), ("wake", 33)]
    assert server.woke(33) == [("discard", [6, 7, 8], "abandoned"), ("wake", 37)]
    # A round that succeeds lets the next failure begin with 1 s again.
    server.woke(37)
    assert server.rows((38, "arrived", 9), (38, "arrived", 10), (38, "arrived", 11))[-1] == ("advance", 1)
    server.advanced()
    assert server.woke(48) == [("discard", [12, 13, 14], "abandoned"), ("wake", 49)]


def test_a_round_with_a_deadline_fails_with_its_last_loss_before_it():
    server = Server(sync(cohort=2, deadline_secs=10))
    server.start()
    assert server.lost(2, 0) == []
    assert server.lost(3, 1) == [("wake", 4)], "it backs off"


@dataclass(frozen=True)
class Coins(First):
    """Draws nobody the first two times, then as its parent does."""

    may_draw_nobody = True

    def observe(self, state, now_ns, reports):
        return {"made": state.get("made", 0) + 1}

    def draw(self, state, k, free, rng):
        return super().draw(state, k, free, rng)[: 9 * (state.get("made", 0) > 1)]


def test_to_draw_nobody_may_be_an_answer_and_makes_a_version_of_its_own():
    server = Server(sync(cohort=2), select=Coins())
    assert server.start() == [("wake", 1)]
    assert server.rows((0.5, "joined", 5)) == [], "nobody is drawn twice for one version"
    assert server.woke(1) == [("advance", 1)]
    assert server.advanced() == [("evaluate", 1), ("wake", 2)]
    assert server.woke(2) == [("advance", 2)]
    assert server.advanced() == [("evaluate", 2), ("train", {0: 0, 1: 1})]


def test_a_deadline_does_not_outlive_its_round():
    server = Server(sync(cohort=1, deadline_secs=10))
    server.start()
    old = server.newest
    assert server.arrived(4, 0) == [("accept", [0], [0]), ("advance", 1)]
    assert server.advanced() == [("evaluate", 1), ("train", {1: 0}), ("wake", 14)]
    assert server.woke(10, old) == [], "the first round's timer"
    assert server.woke(14) == [("discard", [1], "abandoned"), ("wake", 15)]


def test_after_twenty_failed_rounds_it_stops():
    server = Server(sync(cohort=1))
    told, now, waits = server.start(), 0.0, []
    for ticket in range(20):
        assert told[0] == ("train", {ticket: 0})
        told = server.lost(now + 0.5, ticket)
        if ticket < 19:
            ((_, time),) = told
            waits.append(time - now - 0.5)
            now = time
            told = server.woke(now)
    assert waits == [2**k for k in range(12)] + [3600] * 7
    assert told == [("evaluate", 0), ("stop", "stalled")]
    assert server.why == "20 rounds in a row failed: too few clients reported"
    assert server.state.stopped


def test_a_round_waits_for_enough_clients():
    server = Server(sync(cohort=3), 4, times=(0, 50, 30, 0))
    assert server.start() == [("wake", 30)]
    assert server.arrived(10, 77) == [], "a stranger changes nothing"
    assert server.woke(30) == [("train", {0: 0, 1: 2, 2: 3})]


def test_a_round_starts_with_fewer_if_it_may():
    server = Server(sync(cohort=3, over_commit=2, min_start=2), 6, times=(0, 50, 30, 0, 99, 99))
    assert server.start() == [("train", {0: 0, 1: 3})]


def test_a_round_that_waited_sends_to_all_it_wants():
    server = Server(sync(cohort=2, over_commit=2), 6, times=(20, 20, 20, 20, 20, 90))
    assert server.start() == [("wake", 20)]
    assert server.woke(20) == [("train", {0: 0, 1: 1, 2: 2, 3: 3})]


def test_a_population_that_never_has_as_many_ends_the_run():
    server = Server(sync(cohort=3), 4, times=(0, 10, None, None))
    assert server.start() == [("evaluate", 0), ("stop", "stalled")]
    assert server.why == "no work can go out: it needs 3 clients, but the population never has as many"


def test_a_select_that_chooses_nobody_ends_the_run():
    server = Server(sync(cohort=2), select=Nobody())
    assert server.start() == [("evaluate", 0), ("stop", "stalled")]
    assert server.why == "no work can go out: it needs 2 clients, but the population let 0 be chosen"


def test_a_timer_that_is_not_the_newest_rings_in_vain():
    server = Server(sync(cohort=2, deadline_secs=10))
    server.start()
    before = server.state
    assert server.woke(10, server.newest - 1) == server.woke(10, server.newest + 1) == []
    assert bits(server.state) == bits(replace(before, now_ns=10 * SECOND))


@pytest.mark.parametrize("ticket", [99, -1, 3])
@pytest.mark.parametrize("kind", ["arrived", "lost"])
def test_strangers_are_known_by_their_ticket(kind, ticket):
    server = Server(sync(cohort=3))
    server.start()
    tasks = server.state.tasks.tobytes()
    assert server.rows((1, kind, ticket)) == []
    assert server.state.tasks.tobytes() == tasks and server.state.num_lost == 0


def test_the_client_named_in_a_row_does_not_matter():
    server = Server(sync(cohort=1))
    server.start()
    row = rows(EVENT, 1, now=SECOND, kind=Kind.ARRIVED, ticket=0, client=5)
    assert server.tell(Events(row)) == [("accept", [0], [0]), ("advance", 1)]


@pytest.mark.parametrize("again", ["arrived", "lost"])
def test_what_has_arrived_cannot_arrive_again_or_be_lost(again):
    server = Server(sync(cohort=3))
    server.start()
    assert server.arrived(1, 0) == server.rows((2, again, 0)) == []
    assert server.rows((3, "arrived", 1), (3, again, 1)) == []
    assert server.state.tasks["arrived"].tolist() == [True, True, False]
    assert server.arrived(4, 2) == [("accept", [0, 1, 2], [0, 0, 0]), ("advance", 1)]


def test_what_was_lost_cannot_arrive():
    server = Server(sync(cohort=3))
    server.start()
    assert server.rows((1, "lost", 0), (1, "arrived", 0)) == server.arrived(2, 0) == []
    assert server.state.tasks["ticket"].tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["left", "joined"])
def test_who_leaves_or_joins_anew_loses_its_task(kind):
    server = Server(sync(cohort=3))
    server.start()
    assert server.arrived(1, 0) == []
    assert server.rows((2, kind, 1)) == []
    assert server.rows((2, kind, 0)) == [], "its report is in: that one counts"
    assert server.rows((2, kind, 5)) == [], "it had no task"
    assert server.arrived(3, 1) == [], "by the old ticket"
    assert server.arrived(4, 2) == [("accept", [0, 2], [0, 0]), ("advance", 1)]


def test_when_the_last_one_leaves_the_round_has_failed():
    server = Server(sync(cohort=1))
    server.start()
    assert server.rows((5, "left", 0)) == [("wake", 6)]
    assert server.woke(6) == [("train", {1: 0})]


def test_fedbuff_refills_at_once_and_says_how_late_each_update_is():
    server = Server(buffered(size=2, concurrency=3))
    assert server.start() == [("train", {0: 0, 1: 1, 2: 2})]
    assert server.arrived(5, 1) == [("accept", [1], [0]), ("train", {3: 1})]
    assert server.lost(6, 0) == [("train", {4: 0})]
    assert server.arrived(7, 2) == [("accept", [2], [0]), ("advance", 1)], "and no work goes out"
    assert server.advanced() == [("evaluate", 1), ("train", {5: 2})]
    assert server.arrived(8, 3) == [("accept", [3], [1]), ("train", {6: 1})]
    assert server.arrived(9, 5) == [("accept", [5], [0]), ("advance", 2)]
    assert server.advanced() == [("evaluate", 2), ("train", {7: 2})]
    assert server.arrived(10, 4) == [("accept", [4], [2]), ("train", {8: 0})]
    assert server.state.pace == {"buffered": 1}
    assert server.state.tasks["version"].tolist() == [1, 2, 2]


def test_fedbuff_discards_what_is_too_stale_and_does_not_count_it():
    server = Server(buffered(size=1, concurrency=2, max_staleness=1))
    server.start()
    for version in (1, 2):
        server.arrived(version, {1: 0, 2: 2}[version])
        server.advanced()
    assert server.state.tasks["version"].tolist() == [0, 2]
    assert server.arrived(3, 1) == [("discard", [1], "stale"), ("train", {4: 1})]
    assert server.state.version == 2 and server.state.pace == {"buffered": 0}


def test_an_update_as_stale_as_is_allowed_counts():
    server = Server(buffered(size=1, concurrency=2, max_staleness=1))
    server.start()
    server.arrived(1, 0)
    server.advanced()
    assert server.arrived(2, 1) == [("accept", [1], [1]), ("advance", 2)]


def test_fedbuff_takes_who_comes_later():
    server = Server(buffered(size=2, concurrency=3), 4, times=(0, 20, 40, 60))
    assert server.start() == [("train", {0: 0}), ("wake", 20)]
    assert server.woke(20) == [("train", {1: 1}), ("wake", 40)]
    assert server.arrived(30, 0) == [("accept", [0], [0]), ("train", {2: 0})]
    assert server.woke(40) == [("train", {3: 2})], "three are at work: nobody else is waited for"


def test_too_many_losses_in_a_row_stop_the_run_and_an_arrival_breaks_the_row():
    server = Server(buffered(size=10**6, concurrency=3))
    server.start()
    for ticket in range(99):
        assert server.lost(1 + ticket, ticket)[0][0] == "train"
    assert server.arrived(100, 99)[0][0] == "accept"
    for ticket in range(100, 199):
        assert server.lost(1 + ticket, ticket)[0][0] == "train"
    told = server.lost(200, 199)
    assert told == [("discard", [200, 201], "stopped"), ("evaluate", 0), ("stop", "stalled")]
    assert server.why == "100 tasks in a row were lost: no client reports any more"


def test_many_at_work_may_lose_more():
    server = Server(buffered(size=10**6, concurrency=10), 10)
    server.start()
    assert appetite(server.algorithm, server.state).num_losses == 200
    for ticket in range(50):
        server.lost(1, ticket)
    assert appetite(server.algorithm, server.state).num_losses == 150


def test_how_many_may_be_lost_goes_by_the_most_ever_at_work():
    # Two tasks of a first round; six of the next, of which all but one then stay away for good.
    server = Server(sync(cohort=6, min_start=1), 6, times=(0, 0, 10, 10, 10, 10))
    server.start()
    assert appetite(server.algorithm, server.state).num_losses == 100
    server.rows((10, "arrived", 0), (10, "arrived", 1))
    assert len(server.advanced()[1][1]) == 6
    assert appetite(server.algorithm, server.state).num_losses == 120
    server.rows(*[(11, "arrived", ticket) for ticket in range(2, 8)])
    server.times = (0, None, None, None, None, None)
    assert len(server.advanced()[1][1]) == 1
    assert appetite(server.algorithm, server.state).num_losses == 120


def test_virtual_time_ends_the_run():
    server = Server(sync(cohort=2), limits=Limits(virtual_ns=10 * SECOND))
    assert server.start() == [("train", {0: 0, 1: 1}), ("wake", 10)]
    assert server.arrived(9, 1) == []
    told = server.woke(10)
    assert told == [("discard", [0, 1], "stopped"), ("evaluate", 0), ("stop", "virtual_secs")]
    assert server.why == "the virtual clock reached 10 s"


def test_who_arrives_at_the_last_instant_is_in_time():
    server = Server(sync(cohort=2), limits=Limits(virtual_ns=10 * SECOND))
    server.start()
    told = server.rows((10, "arrived", 0), (10, "arrived", 1))
    assert told == [("accept", [0, 1], [0, 0]), ("advance", 1)]


def test_a_deadline_before_the_limit_and_one_after_it():
    server = Server(sync(cohort=2, deadline_secs=6), limits=Limits(virtual_ns=10 * SECOND))
    assert server.start()[-1] == ("wake", 6)
    server.arrived(1, 0)
    # The deadline is over, so the next thing to ring is the limit, before and after the new work.
    assert server.woke(6)[-2:] == [("advance", 1), ("wake", 10)]
    assert server.advanced() == [("evaluate", 1), ("train", {2: 0, 3: 1})]
    assert server.woke(10)[-1] == ("stop", "virtual_secs")


def test_the_last_round_is_evaluated_and_nothing_is_sent_after_it():
    server = Server(sync(cohort=1), limits=Limits(rounds=3, evaluate_every=2))
    server.start()
    told = []
    for version in (1, 2, 3):
        server.arrived(version, version - 1)
        told.append([command for command in server.advanced() if command[0] != "train"])
    assert told == [[], [("evaluate", 2)], [("evaluate", 3), ("stop", "rounds")]]
    assert server.why == "3 rounds are done"


def test_what_is_out_at_the_end_is_discarded():
    server = Server(buffered(size=1, concurrency=3), limits=Limits(rounds=1))
    server.start()
    server.arrived(1, 1)
    assert server.advanced() == [("discard", [0, 2], "stopped"), ("evaluate", 1), ("stop", "rounds")]
    assert len(server.state.tasks) == 0


def test_a_shell_can_end_a_run():
    server = Server(sync(cohort=2))
    server.start()
    before = server.state
    after, commands = end(before, "target", "it is good")
    told = [server.plain(c) for c in commands]
    assert told == [("discard", [0, 1], "stopped"), ("evaluate", 0), ("stop", "target")]
    assert after.stopped and not before.stopped and len(before.tasks) == 2


def test_a_run_that_has_ended_and_time_that_runs_back_are_bugs():
    server = Server(sync(cohort=2))
    server.start()
    server.arrived(5, 0)
    with pytest.raises(AssertionError, match="time runs forward"):
        server.arrived(4, 1)
    server.state, _ = end(server.state, "target", "")
    with pytest.raises(AssertionError, match="stopped"):
        server.arrived(6, 1)


def test_a_thousand_calls_at_one_instant_that_bring_nothing_end_the_run():
    server = Server(sync(cohort=2))
    server.start()
    server.arrived(1, 0)
    for _ in range(999):
        assert server.arrived(1, 77) == []
    assert server.arrived(1, 77)[-1] == ("stop", "stalled")
    assert server.why == "1000 steps at 1 s brought no update"


def test_draws_are_keyed_by_their_number():
    server = Server(sync(cohort=3), 50, select=Uniform())
    drawn = [list(server.start()[0][1].values())]
    for version in (1, 2):
        tickets = server.state.tasks["ticket"].tolist()
        server.rows(*[(version, "arrived", ticket) for ticket in tickets])
        drawn.append(list(server.advanced()[1][1].values()))
    nobody = np.zeros(0, np.int64)
    assert drawn == [Everyone(50, 0).sample(3, rng(5, "select", n), nobody).tolist() for n in range(3)]


def test_a_select_learns_from_the_reports():
    class Counts(First):
        def init(self, population):
            return {"loss": 0.0, "at": -1}

        def observe(self, state, now_ns, reports):
            return {"loss": float(reports["loss"].sum()), "at": now_ns}

    server = Server(sync(cohort=1), select=Counts())
    server.start()
    server.arrived(4, 0)
    server.advanced(rows(REPORT, 2, loss=[1.5, 2.0]))
    assert server.state.select == {"loss": 3.5, "at": 4 * SECOND}


ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["arrived", "arrived", "lost", "left", "joined"]),
        st.integers(-1, 5),
    ),
    min_size=1,
    max_size=12,
)


@steady
@given(ROWS, st.data())
def test_rows_in_one_table_or_in_many_leave_the_same_tasks(listed, data):
    """Of a round that cannot close: what comes of each task depends on the rows, not on their tables."""
    listed = sorted(listed, key=lambda row: row[0])
    whole, cut = (Server(sync(cohort=5, deadline_secs=100), 8) for _ in range(2))
    whole.start(), cut.start()
    keep = [(s, k, n) for s, k, n in listed if not (k != "joined" and n == 4)]  # task 4 stays out
    keep = [row for row in keep if row[1:] not in (("left", 4), ("joined", 4))]
    if not keep:
        return
    assert whole.rows(*keep) == []
    while keep:
        size = data.draw(st.integers(1, len(keep)))
        assert cut.rows(*keep[:size]) == []
        keep = keep[size:]
    assert whole.state.tasks.tolist() == cut.state.tasks.tolist()
    assert whole.state.num_lost == cut.state.num_lost


def test_reasons_have_values_that_logs_can_rely_on():
    assert [r.name for r in Reason] == [
        *("NONE", "DROPPED", "REJOINED", "LEFT", "LATE", "STALE", "ABANDONED", "STOPPED", "OFFLINE"),
    ]


@dataclass(frozen=True)
class Says(Select):
    """Draws what it is told to, whoever is free."""

    answer: object

    def draw(self, state, k, free, rng):
        return self.answer


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "must return the ids of clients as integers"),
        ([0.5, 1.0], "must return the ids of clients as integers"),
        ([[0, 1]], "must return the ids of clients as integers"),
        ([0, 1, 2, 3], "returned 4 clients, but at most 3 are wanted"),
        ([0, 5], "client 0 to 5, but ids go from 0 to 4"),
        ([-1, 2], "client -1 to 2, but ids go from 0 to 4"),
        ([2, 1, 2], "a client twice"),
    ],
)
def test_a_select_that_breaks_its_contract_is_told_how(answer, said):
    algorithm = fedavg().but(select=Says(answer), pace=Sync(cohort=3))
    ones = np.ones(5, np.float32)
    population = Population(ones.astype(np.int32), ones, ones, ones)
    state = initial_state(algorithm, population, Limits())
    with pytest.raises(UserError, match=said):
        step(algorithm, 0, state, Events.one(Kind.STARTED, 0), Everyone(5, 0))


def test_a_select_may_not_draw_who_is_at_work():
    algorithm = fedbuff().but(select=Says([2]), pace=Buffered(size=5, concurrency=2))
    ones = np.ones(5, np.float32)
    population = Population(ones.astype(np.int32), ones, ones, ones)
    state, _ = step(
        algorithm,
        0,
        initial_state(algorithm, population, Limits()),
        Events.one(Kind.STARTED, 0),
        Everyone(5, 0),
    )
    lost = rows(EVENT, 1, now=SECOND, kind=Kind.LEFT, client=4, ticket=-1)
    with pytest.raises(UserError, match="at work"):
        step(algorithm, 0, state, Events(lost), Everyone(5, SECOND))


def resting(secs, **limits):
    return Limits(rest_ns=to_ns(secs), **limits)


def test_who_has_had_a_task_rests_from_its_end_on_whatever_became_of_it():
    """Client 0 arrives at 3 s and rests until 13, 1 is lost at 4 (14), 2 is too late at 5 (15)."""
    server = Server(sync(cohort=1, over_commit=3.0, min_start=1), limits=resting(10))
    assert server.start() == [("train", {0: 0, 1: 1, 2: 2})]
    assert server.lost(4, 1) == []
    told = server.arrived(5, 0)
    assert told == [("accept", [0], [0]), ("discard", [2], "late"), ("advance", 1)]
    assert server.advanced() == [("evaluate", 1), ("train", {3: 3, 4: 4, 5: 5})]
    assert server.arrived(6, 4)[-1] == ("advance", 2)
    # All six rest: the first to be there again is client 1, at 14 s.
    assert server.advanced() == [("evaluate", 2), ("wake", 14)]
    assert server.woke(14) == [("train", {6: 1})]
    assert [row["attempt"] for row in server.state.tasks] == [1]


def test_a_round_waits_until_enough_have_rested():
    server = Server(sync(cohort=2), num_clients=3, limits=resting(10))
    assert server.start() == [("train", {0: 0, 1: 1})]
    assert server.arrived(1, 0) == []
    assert server.arrived(2, 1)[-1] == ("advance", 1)
    assert server.advanced() == [("evaluate", 1), ("wake", 11)], "client 2 alone is not enough"
    assert server.woke(11) == [("train", {2: 0, 3: 2})]


def test_an_arrival_told_in_a_batch_rests_from_its_own_instant_and_once():
    server = Server(sync(cohort=2), num_clients=2, limits=resting(10))
    server.start()
    server.rows((1, "arrived", 0), (2, "arrived", 0), (2, "arrived", 1))
    assert server.state.rests.tolist() == [(0, 11 * SECOND), (1, 12 * SECOND)]


def test_asynchronous_work_goes_to_who_has_rested():
    server = Server(buffered(concurrency=2, size=2), num_clients=3, limits=resting(10))
    assert server.start() == [("train", {0: 0, 1: 1})]
    assert server.arrived(1, 0) == [("accept", [0], [0]), ("train", {2: 2})]
    assert server.arrived(2, 2)[-1] == ("advance", 1)
    assert server.advanced() == [("evaluate", 1), ("wake", 11)], "1 works, 0 and 2 rest"
    assert server.woke(11) == [("train", {3: 0})]


def test_who_rests_is_saved():
    server = Server(sync(cohort=2), num_clients=4, limits=resting(10))
    server.start()
    server.rows((1, "arrived", 0), (2, "arrived", 1))
    assert bits(load_state(*save_state(server.state))) == bits(server.state)
    assert load_state(*save_state(server.state)).rests.tolist() == server.state.rests.tolist()
