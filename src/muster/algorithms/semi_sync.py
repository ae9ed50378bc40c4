"""SemiSync: every learner trains for the same time, set by the slowest one's epochs.

D. Stripelis, P. M. Thompson, J. L. Ambite: Semi-Synchronous Federated Learning for Energy-Efficient
Training and Accelerated Convergence in Cross-Silo Settings. ACM TIST 2022, arXiv:2102.02849.

    t_max = λ · max_k (time of an epoch at k)            fixed before training
    each round: learner k makes B_k = max(1, ⌊t_max / c_k⌋) steps, c_k the time of one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from muster.core.algorithm import Algorithm, Pace, Plan, State, View
from muster.core.errors import UserError
from muster.core.population import Population
from muster.core.tables import SECOND, Appetite, Lease, Table

from .esync import NOBODY, Beliefs, answers, foreseen_beliefs
from .fedavg import close_round, fedavg


@dataclass(frozen=True)
class SemiSync(Pace):
    """Rounds in which everybody computes for one hyper-period."""

    cohort: int = 4
    """Learners of a round."""
    epochs: float = 1.0
    """The paper's λ: the hyper-period in tasks of the slowest learner (whose length `train` says)."""
    period_secs: float | None = None
    """The hyper-period itself; needed where the learners' speeds are not known beforehand."""
    min_reports: int = 1
    """With fewer when a round closes, since the others were lost, the round has failed."""

    def __post_init__(self) -> None:
        self.check_number("cohort", at_least=1)
        self.check_number("epochs", above=0, at_most=1e6)
        self.check_number("period_secs", above=0, at_most=1e9)
        self.check_number("min_reports", at_least=1, at_most=self.cohort)

    @property
    def foresees(self) -> bool:  # type: ignore[override]
        """Whether the population says how long the slowest takes."""
        return self.period_secs is None

    def init(self) -> State:
        """The hyper-period (ns), and what is known of the learners."""
        secs = 0.0 if self.period_secs is None else self.period_secs
        return {"period_ns": round(secs * SECOND), **NOBODY.state()}

    def believe(self, state: State, population: Population) -> State:
        """The population's times, and the hyper-period that follows."""
        if self.period_secs is not None:
            return state
        if population.foreseen is None:
            raise UserError("semi_sync needs algorithm.pace.period_secs: the learners' speeds are not known")
        slowest = float(population.foreseen.train_secs.max())
        return {"period_ns": round(self.epochs * slowest * SECOND), **foreseen_beliefs(population).state()}

    @property
    def max_accepts(self) -> int:
        """The cohort."""
        return self.cohort

    @property
    def max_out(self) -> int:
        """The cohort."""
        return self.cohort

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """An instant at a time."""
        return Appetite(self.cohort, whole_instant=True)

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Opens a round with one step for each; who has made it is told how many more fill the period."""
        if len(view.tasks) == 0:
            if view.num_lost > 0:
                return state, Plan(failed=True)
            return state, Plan(send=self.cohort, min_start=self.cohort, steps=1, leased=True)
        out = view.out
        if len(out) == 0:
            return state, close_round(view.arrived["ticket"], out["ticket"], self.min_reports)
        tasks = view.tasks
        known = Beliefs.of(state).with_clients(tasks["client"]).learnt(view.progress, tasks)
        asks = ~tasks["arrived"] & (tasks["lease"] == Lease.TRAINING) & (tasks["done"] == tasks["steps"])
        each = np.maximum(known.compute[known.at(tasks["client"])], 1)
        wanted = np.maximum(int(state["period_ns"]) // each, 1)
        plan = answers(tasks, asks, np.maximum(wanted - tasks["done"], 0) * (tasks["done"] == 1))
        return {"period_ns": state["period_ns"], **known.state()}, plan


def semi_sync() -> Algorithm:
    """SemiSync: everybody computes for as long as the slowest one's epochs take (Stripelis et al. 2021)."""
    return replace(fedavg(), name="semi_sync", pace=SemiSync())
