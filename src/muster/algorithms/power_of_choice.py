"""Power-of-choice: of some candidates those train at whom the model does worst.

Y. J. Cho, J. Wang, G. Joshi: Client Selection in Federated Learning: Convergence Analysis and
Power-of-Choice Selection Strategies. 2020, arXiv:2010.01243, section 4.

    A = d clients drawn without replacement, i with probability p_i = n_i / Σ n
    each i in A: say F_i(x), the loss of the current model over all its examples
    S = the m of A with the largest F_i
    x ← x + mean over S of Δ_i

The candidates' answers take time and bytes, as they would. Choices where the paper leaves one: if fewer than
m answer and are still there, others take their places, drawn by p_i.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from muster.core.algorithm import Algorithm, Select, State
from muster.core.population import Free, Population
from muster.core.tables import Ids, Table, frozen

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class PowerOfChoice(Select):
    """Those of some candidates who have the largest losses."""

    candidates: float = 2.0
    """Clients that are asked for each that is to train, the paper's d / m: 2 to 10 there."""

    def __post_init__(self) -> None:
        self.check_number("candidates", at_least=1)

    def init(self, population: Population) -> State:
        """A column of examples; nobody has been asked."""
        return {
            "num_examples": frozen(np.array(population.num_examples)),
            "asked": frozen(np.zeros(0, np.int64)),
            "loss": frozen(np.zeros(0)),
        }

    def ask(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """d of the free, by examples."""
        return self._by_examples(state, np.arange(free.num_clients), ceil(k * self.candidates), free, rng)

    def told(self, state: State, now_ns: int, measured: Table) -> State:
        """Keeps the losses; who has no examples comes last."""
        loss = np.where(np.isnan(measured["loss"]), -np.inf, measured["loss"])
        return {**state, "asked": frozen(measured["client"].copy()), "loss": frozen(loss)}

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """The `k` candidates with the largest losses; of equals the one drawn first."""
        worst = free.best(state["asked"], state["loss"], k)
        if len(worst) == k:
            return worst
        others = np.setdiff1d(np.arange(free.num_clients), worst, assume_unique=True)
        return np.concatenate([worst, self._by_examples(state, others, k - len(worst), free, rng)])

    @staticmethod
    def _by_examples(state: State, ids: Ids, n: int, free: Free, rng: np.random.Generator) -> Ids:
        return free.drawn(ids, state["num_examples"][ids].astype(np.float64), n, rng)


def power_of_choice() -> Algorithm:
    """Power-of-choice: of d candidates the m with the largest losses train (Cho et al. 2020)."""
    return fedavg().but(name="power_of_choice", select=PowerOfChoice(), combine=Mean(by="uniform"))
