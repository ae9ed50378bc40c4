"""ESync: fast workers make as many local steps as fit before the slowest has made one.

Z. Li, H. Zhou, T. Zhou, H. Yu, Z. Xu, G. Sun: ESync: Accelerating Intra-Domain Federated Learning in
Heterogeneous Data Centers. IEEE Transactions on Services Computing 2020, 10.1109/TSC.2020.3044043.

    straggler s = argmax_k c_k + m_k                 c: a step's computing time, m: sending an update
    worker k asks after each step, at time t:
        TRAIN  iff  k ≠ s, s has not made its step, and  t + c_k + m_k ≤ t_s + c_s + m_s
        SYNC   otherwise: it sends Δ_k = w_k - w
    when all have sent:  w ← w + lr Σ (n_k / n) Δ_k

`margin_secs` and `rule: compute_only` are those of the authors' first code (2019), which left m out. Times
are the server's own, so that clocks need not agree. What the paper leaves open: whose speed is not known
yet might be the slowest, so others go on until it is heard of; who is lost is no longer waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Pace, Plan, State, View
from muster.core.population import Population
from muster.core.tables import SECOND, Appetite, Ids, Lease, Table, to_ns

from .esync_rule import more_steps, slowest
from .fedavg import SGD, Add, Mean, Uniform, close_round

UNKNOWN = 0


@dataclass(frozen=True)
class Seen:
    """A worker of this round as `esync_rule` sees it; times in ns."""

    rank: int
    iteration: int
    compute_ns: int
    send_ns: int
    stamp_ns: int
    """When it began its first step: what follows is of no interest here."""
    synced: bool
    round: int = 0
    """All of a round are in it: they were sent its model at one instant."""


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
        waited = progress["now"] - task["sent_at"] - compute[at] * task["steps"]
        load[at[first]] = np.maximum(waited[first], 0)
        return Beliefs(self.clients, load, compute, send)


def foreseen_beliefs(population: Population) -> Beliefs:
    """What the population's devices are known to take."""
    legs = population.foreseen
    assert legs is not None, "a pace that foresees is told"
    columns = (legs.load_secs, legs.step_secs, legs.send_secs)
    ns = (np.rint(column * SECOND).astype(np.int64) for column in columns)
    return Beliefs(np.arange(population.num_clients), *ns)


NOBODY = Beliefs(*(np.zeros(0, np.int64) for _ in range(4)))


@dataclass(frozen=True)
class ESync(Pace):
    """Rounds in which each worker makes as many steps as fit before the slowest has sent its one."""

    cohort: int = 4
    """Workers of a round."""
    rule: Literal["paper", "compute_only"] = "paper"
    """`paper` compares computing and sending; `compute_only` computing alone, as the first code did."""
    margin_secs: float = 0.0
    """Stop so long before the straggler is expected: fewer steps, less risk that it waits."""
    beliefs: Literal["measured", "population"] = "measured"
    """How fast workers are: `measured` from their own first steps, or known from the `population`."""
    leases: bool = False
    """Answer with as many steps as fit at once, so that fast workers need not ask after each."""
    max_steps: int = 10_000
    """Steps after which a worker sends whatever the straggler does."""
    min_reports: int = 1
    """With fewer when a round closes, since the others were lost, the round has failed."""

    def __post_init__(self) -> None:
        self.check_number("cohort", at_least=1)
        self.check_choice("rule", ("paper", "compute_only"))
        self.check_number("margin_secs", at_least=0, at_most=1e9)
        self.check_choice("beliefs", ("measured", "population"))
        self.check_number("max_steps", at_least=1, at_most=1_000_000_000)
        self.check_number("min_reports", at_least=1, at_most=self.cohort)

    @property
    def foresees(self) -> bool:  # type: ignore[override]
        """Whether the population says how fast workers are."""
        return self.beliefs == "population"

    def init(self) -> State:
        """Nothing is known of anybody."""
        return NOBODY.state()

    def believe(self, state: State, population: Population) -> State:
        """The population's times, if they are to be believed."""
        return foreseen_beliefs(population).state() if self.foresees else state

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
        if len(view.tasks) == 0:
            if view.num_lost > 0:
                return state, Plan(failed=True)
            return state, Plan(send=self.cohort, min_start=self.cohort, steps=1, leased=True)
        out = view.out
        if len(out) == 0:
            return state, close_round(view.arrived["ticket"], out["ticket"], self.min_reports)
        known = Beliefs.of(state).with_clients(view.tasks["client"]).learnt(view.progress, view.tasks)
        return known.state(), self._answers(known, view)

    def _answers(self, known: Beliefs, view: View) -> Plan:
        """TRAIN or SYNC for each that has used up its lease."""
        tasks, rows = view.tasks, known.at(view.tasks["client"])
        asks = ~tasks["arrived"] & (tasks["lease"] == Lease.TRAINING) & (tasks["done"] == tasks["steps"])
        send = np.zeros(len(rows), np.int64) if self.rule == "compute_only" else known.send[rows]
        workers = [
            Seen(
                rank=int(task["client"]),
                iteration=int(task["done"]),
                compute_ns=int(known.compute[row]),
                send_ns=int(m),
                stamp_ns=int(task["sent_at"] + known.load[row]),
                synced=bool(task["arrived"] or task["lease"] != Lease.TRAINING),
            )
            for task, row, m in zip(tasks, rows, send, strict=True)
        ]
        straggler, margin = slowest(workers), to_ns(self.margin_secs)
        assert straggler is not None, "a round has workers"
        more = np.zeros(len(tasks), np.int64)
        for i in np.flatnonzero(asks).tolist():
            more[i] = more_steps(workers[i], straggler, view.now_ns, margin)
        most = self.max_steps if self.leases else 1
        more = np.minimum(np.minimum(more, most), np.maximum(self.max_steps - tasks["steps"], 0))
        return answers(tasks, asks, more)


def answers(tasks: Table, asks: npt.NDArray[np.bool_], more: Ids) -> Plan:
    """For each of TASK rows that asks: `more` steps, or to send what it has where that is 0."""
    on, end = asks & (more > 0), asks & (more == 0)
    return Plan(go_on=tasks["ticket"][on], go_on_steps=more[on], finish=tasks["ticket"][end])


def esync() -> Algorithm:
    """ESync: the fast make as many steps as fit before the slowest makes one (Li et al. 2020)."""
    return Algorithm("esync", Uniform(), ESync(), SGD(), Mean(), Add())
