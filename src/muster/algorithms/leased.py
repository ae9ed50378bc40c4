"""What rounds have in common in which each worker is told, step by step, how many more to make.

A round's tasks are sent with one step each. Who has made its steps asks, and makes more or sends; the round
closes when all that are left have sent. How fast workers are is learnt from their own steps, or foreseen.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Pace, Plan, State, View
from muster.core.errors import UserError
from muster.core.population import Population
from muster.core.tables import SECOND, Appetite, Ids, Lease, Table

from .fedavg import close_round

UNKNOWN = 0


@dataclass(frozen=True)
class Beliefs:
    """What is believed of the workers, a row each, ascending by client; ns, UNKNOWN where not known."""

    clients: Ids
    load: Ids
    compute: Ids
    send: Ids

    @classmethod
    def of(cls, state: State) -> Beliefs:
        """From a pace's state."""
        return cls(*(np.asarray(state[name], np.int64) for name in ("clients", "load", "compute", "send")))

    def state(self) -> State:
        """As a pace's state."""
        return dict(vars(self))

    def at(self, clients: Ids) -> Ids:
        """Their rows; every one must be known."""
        return np.asarray(self.clients.searchsorted(clients), np.int64)

    def with_clients(self, clients: Ids) -> Beliefs:
        """With rows for clients that were not there."""
        new = np.setdiff1d(clients, self.clients)
        if len(new) == 0:
            return self
        place = np.searchsorted(self.clients, new)
        unknown = np.full(len(new), UNKNOWN)
        return Beliefs(
            np.insert(self.clients, place, new),
            *(np.insert(column, place, unknown) for column in (self.load, self.compute, self.send)),
        )

    def learnt(self, progress: Table, tasks: Table) -> Beliefs:
        """With what `Progressed` rows say: the last measurement counts, no mean."""
        if len(progress) == 0:
            return self
        at = self.at(progress["client"])
        load, compute, send = self.load.copy(), self.compute.copy(), self.send.copy()
        compute[at] = np.rint(progress["secs"] * SECOND)
        send[at] = np.rint(progress["send_secs"] * SECOND)
        task = tasks[tasks["ticket"].searchsorted(progress["ticket"])]
        first = task["since"] == task["sent_at"]  # what was not computing was loading the model
        begun = task["sent_at"] + np.rint(progress["wait_secs"] * SECOND).astype(np.int64)
        loaded = progress["now"] - begun - compute[at] * task["steps"]
        load[at[first]] = np.maximum(loaded[first], 0)
        return Beliefs(self.clients, load, compute, send)


def foreseen_beliefs(population: Population) -> Beliefs:
    """What the population's devices are known to take.

    Raises:
        UserError: It is one of real clients, of whom nothing is known beforehand.
    """
    legs = population.foreseen
    if legs is None:
        raise UserError(
            "algorithm.pace.beliefs is population, but how fast real clients are is not known beforehand: "
            "say algorithm.pace.beliefs=measured"
        )
    columns = (legs.load_secs, legs.step_secs, legs.send_secs)
    ns = (np.rint(column * SECOND).astype(np.int64) for column in columns)
    return Beliefs(np.arange(population.num_clients), *ns)


NOBODY = Beliefs(*(np.zeros(0, np.int64) for _ in range(4)))


@dataclass(frozen=True)
class Leased(Pace):
    """Rounds of leased tasks; `steps_for` says how many more steps those that ask make."""

    cohort: int = 4
    """Workers of a round."""
    min_start: int | None = None
    """Wait until so many are free before a round starts, and begin with those; default: the cohort."""
    min_reports: int = 1
    """With fewer when a round closes, since the others were lost, the round has failed."""

    def __post_init__(self) -> None:
        self.check_number("cohort", at_least=1)
        self.check_number("min_reports", at_least=1, at_most=self.cohort)
        self.check_number("min_start", at_least=self.min_reports, at_most=self.cohort)

    @abstractmethod
    def steps_for(self, state: State, known: Beliefs, view: View, asks: npt.NDArray[np.bool_]) -> Ids:
        """For each of the view's tasks: how many more steps it makes if it `asks`; 0: it sends."""

    def init(self) -> State:
        """Nothing is known of anybody."""
        return NOBODY.state()

    @property
    def max_accepts(self) -> int:
        """The cohort."""
        return self.cohort

    @property
    def max_out(self) -> int:
        """The cohort."""
        return self.cohort

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """An instant at a time: whoever asks then is answered knowing what the others have said."""
        return Appetite(self.cohort, whole_instant=True)

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Opens a round, answers those who ask, and closes it when all that are left have sent."""
        tasks = view.tasks
        if len(tasks) == 0:
            if view.num_lost > 0:
                return state, Plan(failed=True)
            start = self.cohort if self.min_start is None else self.min_start
            return state, Plan(send=self.cohort, min_start=start, steps=1, leased=True)
        out = view.out
        if len(out) == 0:
            return state, close_round(view.arrived["ticket"], out["ticket"], self.min_reports)
        known = Beliefs.of(state).with_clients(tasks["client"]).learnt(view.progress, tasks)
        asks = ~tasks["arrived"] & (tasks["lease"] == Lease.TRAINING) & (tasks["done"] == tasks["steps"])
        more = self.steps_for(state, known, view, asks)
        on, end = asks & (more > 0), asks & (more == 0)
        plan = Plan(go_on=tasks["ticket"][on], go_on_steps=more[on], finish=tasks["ticket"][end])
        return {**state, **known.state()}, plan
