"""REFL: those who will soon be gone are asked first, and what comes late still counts.

A. M. Abdelmoniem, A. N. Sahu, M. Canini, S. A. Fahmy: REFL: Resource-Efficient Federated Learning. EuroSys
2023, arXiv:2111.01108.

    select: the clients that are least likely to be there in the next round
    weights: fresh 1;  stale (1 - β) / (τ + 1) + β (1 - e^(-Λ_s / Λ_max));  Δ = Σ w Δ / Σ w
    Λ_s = ‖ū - (u_s + n ū) / (n + 1)‖² / ‖ū‖², ū the mean of the n fresh ones: how much s departs from them

The paper has each client foretell its own presence. Here a client's chance of being there at an hour of the
day is how often it was there at that hour in the days before the run. Rounds are those of `late_rounds.py`:
nobody's task ends with a round. Without fresh ones nothing departs, and Λ is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from muster.core.algorithm import Algorithm, Array, Select, State, Vectors
from muster.core.population import Free, Population
from muster.core.tables import SECOND, Ids, Table, frozen

from .fedavg import fedavg
from .late_rounds import LateRounds
from .together import Floats, Together, weighted

HOUR = 3600 * SECOND
DAY = 24


@dataclass(frozen=True)
class LeastAvailable(Select):
    """Who is least likely to be there when the next round begins; of equals any."""

    history_days: int = 3
    """Days before the run from which the chances are learnt."""

    def __post_init__(self) -> None:
        self.check_number("history_days", at_least=1, at_most=30)

    def init(self, population: Population) -> State:
        """How often each client was there at each hour of the day, u8[24, C]."""
        count = population.num_clients
        there = np.zeros((DAY, count), np.uint8)
        if population.availability is not None:
            everybody = np.arange(count)
            for hour in range(DAY):
                for day in range(1, self.history_days + 1):
                    there[hour] += population.availability.online(everybody, (hour - day * DAY) * HOUR)
        return {"there": frozen(there), "now_ns": 0, "round_ns": HOUR}

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """Notes the instant, and how long a round takes: a quarter of the last, the rest of those before."""
        lasted = now_ns - int(state["now_ns"])
        return {**state, "now_ns": now_ns, "round_ns": (3 * int(state["round_ns"]) + lasted) // 4}

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """The `k` of least chance at the hour when the next round is to begin."""
        then = (int(state["now_ns"]) + int(state["round_ns"]) + HOUR // 2) // HOUR % DAY
        chance = state["there"][then] + rng.random(free.num_clients)
        return free.best(np.arange(free.num_clients), -chance, k)


@dataclass(frozen=True)
class ReflMean(Together):
    """The mean in which late updates count less the later they are, and more the more they add."""

    beta: float = 0.35
    """Weight of what a stale update adds against its age (the paper's β)."""

    needs_products: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("beta", at_least=0, at_most=1)

    def relate(self, products: Floats, reports: Table, state: Vectors) -> Floats:
        """The shares of the updates: weights over their sum."""
        late = reports["staleness"]
        fresh = late == 0
        weights = np.where(fresh, 1.0, (1 - self.beta) / (late + 1.0))
        if fresh.any() and not fresh.all():
            mean = fresh / fresh.sum()
            length = float(mean @ products @ mean)
            away = np.maximum(length - 2 * products @ mean + np.diagonal(products), 0.0)
            departs = away[~fresh] / ((fresh.sum() + 1.0) ** 2 * length) if length > 0 else away[~fresh]
            most = departs.max()
            if most > 0:
                weights[~fresh] += self.beta * (1 - np.exp(-departs / most))
        return np.asarray(weights / weights.sum(), np.float64)

    def fold(self, updates: Array, related: Floats) -> Array:
        """The mean by these shares."""
        return weighted(updates, related)


def refl() -> Algorithm:
    """REFL: those who will be gone first, and late updates by what they add (Abdelmoniem et al. 2023)."""
    return fedavg().but(name="refl", select=LeastAvailable(), pace=LateRounds(), combine=ReflMean())
