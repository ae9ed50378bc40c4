"""Oort: clients whose data still teaches the model much, and who are fast enough.

F. Lai, X. Zhu, H. V. Madhyastha, M. Chowdhury: Oort: Efficient Federated Learning via Guided Participant
Selection. OSDI 2021, arXiv:2010.06081, algorithm 1.

    U_i = |B_i| √(mean of loss² over the samples trained)           statistical utility, of the last task
    score_i = (clipped, min-max normalised U_i + √(0.1 ln R / L_i)) × (T / t_i)^α where t_i > T, else × 1
    every W rounds: if ΣU over [R-2W, R-W) > ΣU over [R-W, R): T += Δ                       the pacer
    ε ← max(ε_min, 0.98 ε) each round
    exploit: (1-ε)K drawn ∝ score among those that score ≥ c × the (1-ε)K-th
    explore: εK of the untried, drawn by speed
    a client that took part in 10 rounds is left alone

R is the round, L_i the last one that i took part in, t_i how long its task takes. Choices where the paper
leaves one: U is normalised before the bonus is added, which would be nothing beside it; T is a percentile of
the known t_i, and Δ so many points; the blacklisted come back when nobody else is there, so that no run
ends for want of clients. A refused update, or one whose loss is not a number, is worth nothing.

`variant: fedscale` scores, cuts off, explores and paces as FedScale v0.5 does (F. Lai et al., ICML 2022),
to be compared with; its mistakes (too few explored clients end its run) are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Select, State
from muster.core.population import Free, Population, exponentials, top
from muster.core.tables import Ids, Table, frozen

from .fedavg import fedavg

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DEFAULTS = {
    "paper": {"min_exploration": 0.2, "clip": 0.95, "cutoff": 0.95, "blacklist_after": 10},
    "fedscale": {"min_exploration": 0.3, "clip": 0.9, "cutoff": 0.05, "blacklist_after": 0},
}
WINDOW = 5
"""FedScale's: it explores among the best so many times as many untried clients as it needs."""


@dataclass(frozen=True)
class Oort(Select):
    """Guided selection by statistical utility and speed. Settings left null are the variant's own."""

    variant: Literal["paper", "fedscale"] = "paper"
    """`paper`: algorithm 1; `fedscale`: what FedScale's copy computes."""
    exploration: float = 0.9
    """Share of a cohort drawn from untried clients in the first round."""
    exploration_decay: float = 0.98
    """What that share is multiplied by each round."""
    min_exploration: float | None = None
    """Which it does not fall below; default 0.2, fedscale 0.3."""
    alpha: float = 2.0
    """Exponent of the penalty on tasks that take longer than preferred; 0 is none."""
    percentile: float = 30.0
    """The preferred duration to begin with: that of so many percent of the clients."""
    pacer_step: float = 5.0
    """Percent by which the pacer moves it."""
    pacer_rounds: int = 20
    """Rounds of a window of the pacer."""
    clip: float | None = None
    """Utilities above this quantile are cut down to it; default 0.95, fedscale 0.9."""
    cutoff: float | None = None
    """Who scores this share of the last exploited one's score may be drawn; default 0.95, fedscale 0.05."""
    blacklist_after: int | None = None
    """Rounds after which a client is left alone, 0: never; default 10, fedscale 0."""

    reads: ClassVar[tuple[str, ...]] = ("num_examples", "loss_sq_mean", "took_secs", "refused")
    foresees: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_choice("variant", tuple(DEFAULTS))
        for share in ("exploration", "exploration_decay", "min_exploration", "clip", "cutoff"):
            self.check_number(share, at_least=0, at_most=1)
        self.check_number("alpha", at_least=0)
        self.check_number("percentile", above=0, at_most=100)
        self.check_number("pacer_step", at_least=0, at_most=100)
        self.check_number("pacer_rounds", at_least=1)
        self.check_number("blacklist_after", at_least=0)

    def setting(self, name: str) -> Any:
        """A setting, or the variant's own where it is null."""
        value = getattr(self, name)
        return DEFAULTS[self.variant][name] if value is None else value

    def init(self, population: Population) -> State:
        """A column each: utility, seconds of a task, last round (0: untried) and number of rounds."""
        count, expected = population.num_clients, population.task_secs
        utility = population.num_examples.astype(np.float64)  # FedScale's guess of an untried one's
        return {
            "round": 1,
            "percentile": float(self.percentile),
            "utility": frozen(utility),
            "secs": frozen(np.full(count, np.nan) if expected is None else np.array(expected, np.float64)),
            "last": frozen(np.zeros(count, np.int32)),
            "times": frozen(np.zeros(count, np.int32)),
            "gains": frozen(np.zeros(0)),
        }

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """Utilities and durations of those that reported; then the pacer's turn."""
        who, number = reports["client"], int(state["round"])
        columns = {name: state[name].copy() for name in ("utility", "secs", "last", "times")}
        worth = utilities(reports)
        columns["utility"][who], columns["secs"][who] = worth, reports["took_secs"]
        columns["last"][who] = number
        np.add.at(columns["times"], who, 1)
        gain = worth.mean() if self.variant == "fedscale" and len(worth) else worth.sum()
        columns["gains"] = np.append(state["gains"], gain)[-2 * self.pacer_rounds :]
        percentile = self._paced(state, number, columns["gains"])
        frozen_ones = {name: frozen(column) for name, column in columns.items()}
        return {"round": number + 1, "percentile": percentile, **frozen_ones}

    def _paced(self, state: State, number: int, gains: Floats) -> float:
        """The percentile of the preferred duration, once `number` rounds are over."""
        at, window = float(state["percentile"]), self.pacer_rounds
        if number < 2 * window or number % window:
            return at
        before, lately = float(gains[:window].sum()), float(gains[window:].sum())
        up, down = before > lately, False
        if self.variant == "fedscale":
            up, down = abs(lately - before) <= 0.1 * before, abs(lately - before) >= 5 * before
        if up:
            return min(100.0, at + self.pacer_step)
        return max(self.pacer_step, at - self.pacer_step) if down else at

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """Explores, exploits, and fills up from whom there still is."""
        tried, most = state["last"] > 0, int(self.setting("blacklist_after"))
        barred = (state["times"] >= most) if most else np.zeros(len(tried), bool)
        known = np.flatnonzero(tried & ~barred)
        decayed = self.exploration * self.exploration_decay ** (int(state["round"]) - 1)
        wanted = int(k * max(self.setting("min_exploration"), decayed))
        explored = self._explore(state, ~tried, wanted, free, rng)
        exploited = self._exploit(state, known, k - len(explored), free, rng)
        drawn = np.concatenate([explored, exploited])
        if len(drawn) < k:
            rest = ~tried
            rest[explored] = False
            drawn = np.concatenate([drawn, self._explore(state, rest, k - len(drawn), free, rng)])
        if len(drawn) < k:
            resting = np.flatnonzero(tried & barred)
            drawn = np.concatenate([drawn, free.drawn(resting, np.ones(len(resting)), k - len(drawn), rng)])
        return drawn

    def _exploit(self, state: State, ids: Ids, n: int, free: Free, rng: np.random.Generator) -> Ids:
        """`n` of `ids`, which have been tried, by score."""
        if n <= 0 or len(ids) == 0:
            return ids[:0]
        scores = self.scores(state, ids)
        # FedScale takes the score after the n-th for the measure, and never considers fewer than 10 n + 1.
        count, at = (10 * n + 1, n) if self.variant == "fedscale" else (n, n - 1)
        best = free.best(ids, scores, count)
        if len(best) <= at:
            return best
        of_best = scores[np.searchsorted(ids, best)]
        pool = scores >= min(self.setting("cutoff") * of_best[at], of_best[-1])
        return free.drawn(ids[pool], scores[pool], n, rng)

    def scores(self, state: State, ids: Ids) -> Floats:
        """f64[M] >= 0 of clients `ids` (i64[M]) that have been tried."""
        number = float(state["round"])
        bonus = np.sqrt(0.1 * np.log(number) / np.arange(1, int(number) + 1))[state["last"][ids] - 1]
        of = normalised(state["utility"][ids], self.setting("clip"), to_clip=self.variant == "paper")
        return np.asarray((of + bonus) * self._penalty(state, ids), np.float64)

    def _penalty(self, state: State, ids: Ids) -> Floats:
        """f64[M]: (T / t)^α for those whose tasks take longer than the preferred duration T, else 1."""
        known, secs = state["secs"], state["secs"][ids]
        if np.isnan(known.min()):
            known = known[~np.isnan(known)]
        if state["percentile"] >= 100 or len(known) == 0:
            return np.ones(len(ids))
        at = min(int(len(known) * state["percentile"] / 100), len(known) - 1)
        preferred = max(float(np.partition(known, at)[at]), 1e-4)
        if len(known) < len(state["secs"]):
            secs[np.isnan(secs)] = preferred
        np.maximum(secs, preferred, out=secs)
        np.divide(preferred, secs, out=secs)
        return np.asarray(secs**self.alpha)

    def _explore(self, state: State, untried: Flags, n: int, free: Free, rng: np.random.Generator) -> Ids:
        """`n` of those that `untried` flags: the faster, the likelier; all alike if speeds are unknown."""
        if n <= 0:
            return np.zeros(0, np.int64)
        if self.variant == "fedscale":
            ids = np.flatnonzero(untried)
            weights = state["utility"][ids] * self._penalty(state, ids)
            best = free.best(ids, weights, WINDOW * n)
            return free.drawn(best, weights[np.searchsorted(ids, best)], n, rng)
        ids = free.among(np.flatnonzero(untried))
        speed = 1.0 / np.maximum(state["secs"][ids], 1e-4)
        speed[np.isnan(speed)] = 1.0
        return ids[top(-exponentials(speed, rng), n)]


def utilities(reports: Table) -> Floats:
    """f64[K]: |B| √(mean of loss²) of REPORT rows; 0 for those that are refused or not finite."""
    worth = reports["num_examples"] * np.sqrt(reports["loss_sq_mean"])
    return np.where((reports["refused"] == 0) & np.isfinite(worth), worth, 0.0)


def normalised(values: Floats, clip: float, *, to_clip: bool) -> Floats:
    """Min-max normalised values, f64[M]: what is above the quantile `clip` counts as that quantile.

    The least has a little more than 0, so that it may be drawn. `to_clip` scales by the clipped range, so
    that one outlier does not press all others together; without it by the whole range, as FedScale does.
    """
    at = min(int(len(values) * clip), len(values) - 1)
    most = float(np.partition(values, at)[at])
    low, high = float(values.min()) * 0.999, most if to_clip else float(values.max())
    return np.asarray((np.minimum(values, most) - low) / max(high - low, 1e-4), np.float64)


def oort() -> Algorithm:
    """Oort: clients by what their data still teaches and by speed (Lai et al. 2021)."""
    return fedavg().but(name="oort", select=Oort())
