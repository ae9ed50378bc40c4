"""Power-of-choice: of some drawn at random, those whose loss is the largest.

Y. J. Cho, J. Wang, G. Joshi: Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice
Selection Strategies. 2020, arXiv:2010.01243; the variant rpow-d of its section 5.

    A = d clients drawn without replacement by p_i = n_i / Σ n;  S = the m of A with the largest loss
    Δ = (1/m) Σ Δ_i over S

The loss is the one that a client last reported, infinite for those that never did, so that nobody is asked
before it trains. The paper's other variants ask all d for the loss of the newest model first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from muster.core.algorithm import Algorithm, Select, State
from muster.core.population import Free, Population
from muster.core.tables import Ids, Table, frozen

from .fedavg import Mean, fedavg


@dataclass(frozen=True)
class PowerOfChoice(Select):
    """Those of the largest last loss, out of `candidates` times as many as are wanted."""

    candidates: float = 4.0
    """How many are drawn for each that is wanted (the paper's d / m)."""

    reads: ClassVar[tuple[str, ...]] = ("loss", "refused")

    def __post_init__(self) -> None:
        self.check_number("candidates", at_least=1)

    def init(self, population: Population) -> State:
        """Examples, and losses that are infinite to begin with."""
        count = population.num_clients
        return {
            "examples": frozen(population.num_examples.astype(np.float64)),
            "loss": frozen(np.full(count, np.inf)),
        }

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """The losses of those that reported; one that is refused or no number counts as none."""
        known = (reports["refused"] == 0) & np.isfinite(reports["loss"])
        loss = state["loss"].copy()
        loss[reports["client"]] = np.where(known, reports["loss"], 0.0)
        return {**state, "loss": frozen(loss)}

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """The `k` of largest loss; of equals those that were drawn first."""
        everybody = np.arange(free.num_clients)
        some = free.drawn(everybody, state["examples"], round(self.candidates * k), rng)
        return some[np.argsort(-state["loss"][some], kind="stable")[:k]]


def power_of_choice() -> Algorithm:
    """Clients of the largest loss among some drawn at random (Cho et al. 2020)."""
    return fedavg().but(name="power_of_choice", select=PowerOfChoice(), combine=Mean(by="uniform"))
