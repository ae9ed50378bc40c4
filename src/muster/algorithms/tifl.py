"""TiFL: clients of like speed train together, and tiers that do badly get their turn more often.

Z. Chai, A. Ali, S. Zawad, S. Truex, A. Anwar, N. Baracaldo, Y. Zhou, H. Ludwig, F. Yan, Y. Cheng: TiFL: A
Tier-based Federated Learning System. HPDC 2020, arXiv:2001.09249, algorithm 2.

    tiers: clients by how long a task takes, so many of each
    each round: a tier t by p_t among those with credits left, credits_t ← credits_t - 1; uniform in it
    every I rounds, if the tier at hand has not become better over them: p_t ∝ its rank, the worst the highest

The paper has all clients of a tier measure accuracy for this. Here a tier is as good as the losses that its
clients last reported are small: nobody is asked beside training. Where speeds are not known, tiers are drawn
at random until tasks have been timed; a tier in which nobody is there does not hold a round up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Select, State
from muster.core.population import Free, Population
from muster.core.tables import Ids, Table, frozen

from .fedavg import fedavg


@dataclass(frozen=True)
class Tiered(Select):
    """A tier of like speed, then clients uniformly in it."""

    num_tiers: int = 5
    interval: int = 10
    """Rounds after which chances may change (the paper's I)."""
    credits: int | None = None
    """How often each tier may be drawn; null: without end."""

    reads: ClassVar[tuple[str, ...]] = ("loss", "refused", "took_secs")
    foresees: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("num_tiers", at_least=1, at_most=100)
        self.check_number("interval", at_least=1)
        self.check_number("credits", at_least=1)

    def init(self, population: Population) -> State:
        """Everybody's seconds and losses as far as they are known; equal chances."""
        count, expected = population.num_clients, population.task_secs
        return {
            "round": 0,
            "secs": frozen(np.full(count, np.nan) if expected is None else np.array(expected, np.float64)),
            "loss": frozen(np.full(count, np.nan)),
            "chances": frozen(np.full(self.num_tiers, 1 / self.num_tiers)),
            "spent": frozen(np.zeros(self.num_tiers, np.int64)),
            "before": frozen(np.full(self.num_tiers, np.inf)),
        }

    def tiers(self, secs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """i64[C]: each client's tier, 0 the fastest; who has not been timed is in the middle of all."""
        known = np.where(np.isnan(secs), np.nanmedian(secs) if not np.isnan(secs).all() else 0.0, secs)
        rank = np.empty(len(secs), np.int64)
        rank[np.argsort(known, kind="stable")] = np.arange(len(secs))
        return np.asarray(rank * self.num_tiers // max(len(secs), 1), np.int64)

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """Notes who took how long and did how well; every so many rounds chances may change."""
        secs, loss, number = state["secs"].copy(), state["loss"].copy(), int(state["round"]) + 1
        good = reports[(reports["refused"] == 0) & np.isfinite(reports["loss"])]
        secs[reports["client"]], loss[good["client"]] = reports["took_secs"], good["loss"]
        after = {**state, "round": number, "secs": frozen(secs), "loss": frozen(loss)}
        if len(reports) == 0:
            return after
        tier = self.tiers(state["secs"])
        mine = int(np.bincount(tier[reports["client"]]).argmax())  # those that filled up do not count
        spent = state["spent"].copy()
        spent[mine] += 1
        after["spent"] = frozen(spent)
        if number % self.interval:
            return after
        now = np.array([_mean(loss[tier == t]) for t in range(self.num_tiers)])
        if not now[mine] < state["before"][mine]:
            rank = np.empty(self.num_tiers)
            rank[np.argsort(now, kind="stable")] = np.arange(1, self.num_tiers + 1)
            after["chances"] = frozen(rank / rank.sum())
        return {**after, "before": frozen(now)}

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """`k` of one tier; what it lacks comes from the others, in the order in which they were drawn."""
        left = state["spent"] < (np.inf if self.credits is None else self.credits)
        chances = np.where(left, state["chances"], 0.0) if left.any() else state["chances"]
        with np.errstate(divide="ignore"):
            order = np.argsort(rng.exponential(size=self.num_tiers) / chances, kind="stable")
        place = np.empty(self.num_tiers)
        place[order] = np.arange(self.num_tiers)
        behind = place[self.tiers(state["secs"])] + rng.random(free.num_clients)
        return free.best(np.arange(free.num_clients), -behind, k)


def _mean(values: npt.NDArray[np.float64]) -> float:
    """The mean of the numbers among them; infinite if there are none: nobody knows how bad it is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("inf")


def tifl() -> Algorithm:
    """TiFL: tiers of like speed, the worse more often (Chai et al. 2020)."""
    return fedavg().but(name="tifl", select=Tiered())
