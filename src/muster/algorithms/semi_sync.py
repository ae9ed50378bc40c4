"""SemiSync: every learner trains for the same time, set by the slowest one's epochs.

D. Stripelis, P. M. Thompson, J. L. Ambite: Semi-Synchronous Federated Learning for Energy-Efficient
Training and Accelerated Convergence in Cross-Silo Settings. ACM TIST 2022, arXiv:2102.02849.

    t_max = λ · max_k (time of an epoch at k)            fixed before training
    each round: learner k makes B_k = max(1, ⌊t_max / c_k⌋) steps, c_k the time of one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, State, View
from muster.core.errors import UserError
from muster.core.population import Population
from muster.core.tables import Ids, to_ns

from .fedavg import fedavg
from .leased import Beliefs, Leased, foreseen_beliefs


@dataclass(frozen=True)
class SemiSync(Leased):
    """Rounds in which everybody computes for one hyper-period."""

    epochs: float = 1.0
    """The paper's λ: the hyper-period in tasks of the slowest learner (whose length `train` says)."""
    period_secs: float | None = None
    """The hyper-period itself; needed where the learners' speeds are not known beforehand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_number("epochs", above=0, at_most=1e6)
        self.check_number("period_secs", above=0, at_most=1e9)

    @property
    def foresees(self) -> bool:  # type: ignore[override]
        """Whether the population says how long the slowest takes."""
        return self.period_secs is None

    def init(self) -> State:
        """The hyper-period (ns), and what is known of the learners."""
        return {"period_ns": to_ns(self.period_secs or 0.0), **super().init()}

    def believe(self, state: State, population: Population) -> State:
        """The population's times, and the hyper-period that follows."""
        if self.period_secs is not None:
            return state
        if population.foreseen is None:
            raise UserError("semi_sync needs algorithm.pace.period_secs: the learners' speeds are not known")
        slowest = float(population.foreseen.train_secs.max())
        return {"period_ns": to_ns(self.epochs * slowest), **foreseen_beliefs(population).state()}

    def steps_for(self, state: State, known: Beliefs, view: View, asks: npt.NDArray[np.bool_]) -> Ids:
        """After the first step, as many more as fill the period; after those, none."""
        done = view.tasks["done"]
        each = np.maximum(known.compute[known.at(view.tasks["client"])], 1)
        return np.asarray(np.maximum(int(state["period_ns"]) // each - done, 0) * (done == 1), np.int64)


def semi_sync() -> Algorithm:
    """SemiSync: everybody computes for as long as the slowest one's epochs take (Stripelis et al. 2021)."""
    return replace(fedavg(), name="semi_sync", pace=SemiSync())
