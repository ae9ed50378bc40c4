"""`step` with a select that asks before it draws, by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from muster.algorithms.fedavg import Sync, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.core.algorithm import Select
from muster.core.errors import UserError
from muster.core.population import Everyone
from muster.core.state import Limits, initial_state, load_state, save_state
from muster.core.step import appetite, end, step
from muster.core.tables import (
    EVENT,
    MEASURED,
    SECOND,
    Discard,
    Events,
    Kind,
    Measure,
    Purpose,
    Reason,
    Train,
    rows,
)
from worlds.toy import toy_population


@dataclass(frozen=True)
class AsksLast(Select):
    """Asks the free clients with the highest numbers, and draws those of them that said the largest loss."""

    count: int = 3

    def ask(self, state, k, free, rng):
        return free.among(np.arange(free.num_clients)[::-1])[: self.count]

    def told(self, state, now_ns, measured):
        order = np.argsort(-measured["loss"], kind="stable")
        return {"best": measured["client"][order], "times": state.get("times", 0) + 1}

    def draw(self, state, k, free, rng):
        return free.among(state["best"])[:k]


class Server:
    def __init__(self, algorithm, select=AsksLast(), limits=Limits()):
        self.algorithm = algorithm.but(select=select)
        self.state = initial_state(self.algorithm, toy_population((1,) * 6), limits)

    def tell(self, events):
        now = int(events.table["now"][-1])
        self.state, commands = step(self.algorithm, 5, self.state, events, Everyone(6, now))
        return [self.plain(command) for command in commands]

    def plain(self, command):
        match command:
            case Train(tasks):
                word = {int(Purpose.TRAIN): "train", int(Purpose.MEASURE): "ask"}[int(tasks["work"][0])]
                return word, dict(zip(tasks["ticket"].tolist(), tasks["client"].tolist(), strict=True))
            case Measure(version, tickets, took):
                return "measure", version, tickets.tolist(), took.tolist()
            case Discard(tickets, reason):
                return "discard", tickets.tolist(), reason
            case _:
                return type(command).__name__.lower()

    def start(self):
        return self.tell(Events.one(Kind.STARTED, 0))

    def said(self, secs, kind, *tickets):
        table = rows(EVENT, len(tickets), now=secs * SECOND, kind=kind, client=-1, ticket=tickets)
        return self.tell(Events(table))

    def measured(self, losses):
        table = rows(MEASURED, len(losses), client=list(losses), loss=list(losses.values()))
        return self.tell(Events.answer(self.state.now_ns, self.state.version, table))

    def wants(self):
        wanted = appetite(self.algorithm, self.state)
        return wanted.num_arrivals, wanted.stop_at_loss


def sync(**settings):
    return Server(fedavg().but(pace=Sync(**settings)))


def test_who_is_asked_answers_before_anybody_is_drawn():
    server = sync(cohort=2)
    assert server.start() == [("ask", {0: 5, 1: 4, 2: 3})]
    assert server.wants() == (2, True)
    assert server.said(4, Kind.ARRIVED, 1) == []
    assert server.said(5, Kind.ARRIVED, 2) == []
    assert server.wants() == (1, True)
    assert server.said(7, Kind.ARRIVED, 0) == [("measure", 0, [0, 1, 2], [7.0, 4.0, 5.0])]
    assert len(server.state.tasks) == 0
    assert server.measured({5: 0.5, 4: 2.0, 3: 1.0}) == [("train", {3: 4, 4: 3})]
    assert server.wants() == (2, False)
    assert server.state.tasks["attempt"].tolist() == [1, 1]  # the answer was its first task


def test_a_lost_one_is_not_waited_for_and_the_last_word_may_be_a_loss():
    server = sync(cohort=2)
    server.start()
    assert server.said(3, Kind.LOST, 0) == []
    assert server.said(4, Kind.ARRIVED, 2) == []
    assert server.said(6, Kind.LOST, 1) == [("measure", 0, [2], [4.0])]


def test_when_all_who_were_asked_are_lost_the_draw_follows_at_once():
    server = sync(cohort=2, min_start=1)
    server.start()
    server.said(3, Kind.LOST, 0)
    server.said(4, Kind.LOST, 1)
    assert server.said(4, Kind.LOST, 2) == ["evaluate", "stop"]  # told of nobody, this select draws nobody
    assert server.state.select["times"] == 1 and server.state.select["best"].tolist() == []


def test_who_leaves_does_not_answer():
    server = sync(cohort=2)
    server.start()
    server.said(1, Kind.ARRIVED, 0)
    table = rows(EVENT, 2, now=2 * SECOND, kind=Kind.LEFT, client=[4, 3], ticket=-1)
    assert server.tell(Events(table)) == [("measure", 0, [0], [1.0])]


def test_a_round_of_its_own_is_asked_for_each_draw():
    server = sync(cohort=1)
    server.start()
    server.said(1, Kind.ARRIVED, 0, 1, 2)
    server.measured({5: 1.0, 4: 0.0, 3: 0.0})
    assert server.said(2, Kind.ARRIVED, 3) == ["accept", "advance"]
    assert server.tell(Events.one(Kind.ADVANCED, 2 * SECOND, 1)) == [
        "evaluate",
        ("ask", {4: 5, 5: 4, 6: 3}),
    ]


def test_asynchronous_work_goes_on_while_clients_are_asked():
    """Nobody is drawn meanwhile; who asks again when a version is made answers for the model it was sent."""
    server = Server(fedbuff().but(pace=Buffered(size=2, concurrency=2)))
    server.start()
    server.said(1, Kind.ARRIVED, 0, 1, 2)
    assert server.measured({5: 1.0, 4: 2.0, 3: 0.0}) == [("train", {3: 4, 4: 5})]
    assert server.said(3, Kind.ARRIVED, 3) == ["accept", ("ask", {5: 4, 6: 3, 7: 2})]
    assert server.said(4, Kind.ARRIVED, 5) == []
    assert server.said(5, Kind.ARRIVED, 4) == ["accept", "advance"]
    assert server.tell(Events.one(Kind.ADVANCED, 5 * SECOND, 1)) == ["evaluate"]
    assert server.said(6, Kind.ARRIVED, 6) == []
    assert server.said(6, Kind.ARRIVED, 7) == [("measure", 0, [5, 6, 7], [1.0, 3.0, 3.0])]
    assert server.measured({4: 0.0, 3: 3.0, 2: 1.0}) == [("train", {8: 3, 9: 2})]  # both that were missing


def test_the_end_discards_only_those_who_have_not_answered():
    server = sync(cohort=2)
    server.start()
    server.said(1, Kind.ARRIVED, 1)
    _, commands = end(server.state, "target", "reached")
    assert server.plain(commands[0]) == ("discard", [0, 2], Reason.STOPPED)


def test_what_is_being_asked_is_saved():
    server = sync(cohort=2)
    server.start()
    server.said(1, Kind.ARRIVED, 1)
    scalars, columns = save_state(server.state)
    server.state = load_state(scalars, columns)
    server.said(2, Kind.ARRIVED, 0)
    assert server.said(3, Kind.ARRIVED, 2) == [("measure", 0, [0, 1, 2], [2.0, 1.0, 3.0])]


def test_nobody_is_asked_for_a_round_that_cannot_begin():
    server = Server(fedavg().but(pace=Sync(cohort=7)))
    assert server.start() == ["evaluate", "stop"]


@dataclass(frozen=True)
class AsksTwice(AsksLast):
    def ask(self, state, k, free, rng):
        return np.array([1, 1])


def test_a_client_is_asked_once():
    with pytest.raises(UserError, match=r"AsksTwice.ask returned a client twice"):
        Server(fedavg().but(pace=Sync(cohort=2)), AsksTwice()).start()
