"""TiFL: clients that are about as fast train together, and tiers that lag behind get more turns.

Z. Chai, A. Ali, S. Zawad, S. Truex, A. Anwar, N. Baracaldo, Y. Zhou, H. Ludwig, F. Yan, Y. Cheng: TiFL: A
Tier-based Federated Learning System. HPDC 2020, arXiv:2001.09249, algorithm 2.

    profile: every client answers once; T tiers by how long that took; who does not answer is in none
    each round:
        every I rounds: A_t = accuracy at clients of tier t
            if A of the tier that trained last is not higher than I rounds ago:
                p_t ← (T, T - 1, ..., 1) / (T (T + 1) / 2), the lowest A_t first
        t drawn by p_t among the tiers with Credits_t > 0;  Credits_t ← Credits_t - 1
        S = clients of tier t, uniformly

Choices where the paper leaves one: tiers are equal in number; a profile is the time of loading the model,
one forward pass over the client's examples and answering; A_t is over the examples of `sample` clients
of the tier; a draw is paid for when the version is made that it led to. Where a tier has too few clients,
those of the tiers next to it fill up, and who is in none comes last; when all credits are spent, all tiers
are drawn again: so no run ends for want of clients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Select, State
from muster.core.errors import FieldError
from muster.core.population import Free, Population
from muster.core.tables import Ids, Table, frozen

from .fedavg import fedavg

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tiers(Select):
    """A tier by chance, then any of its clients."""

    tiers: int = 5
    interval: int = 10
    """Versions from one look at the tiers' accuracies to the next; 0: never, all tiers stay as likely."""
    sample: int = 10
    """Clients of each tier that are asked for the model's accuracy then."""
    credits: tuple[int, ...] | None = None
    """How often each tier may be drawn, the fastest first; default: as often as it comes."""

    def __post_init__(self) -> None:
        self.check_number("tiers", at_least=1, at_most=100)
        self.check_number("interval", at_least=0)
        self.check_number("sample", at_least=1)
        if (listed := self.credits) is None:
            return
        whole = isinstance(listed, (tuple, list)) and all(type(n) is int and n >= 0 for n in listed)
        if not whole or len(listed) != self.tiers:
            raise FieldError("tifl", "credits", listed, f"{self.tiers} whole numbers of at least 0")
        object.__setattr__(self, "credits", tuple(listed))

    def init(self, population: Population) -> State:
        """Nobody is in a tier (-1) yet."""
        return {
            "tier": frozen(np.full(population.num_clients, -1, np.int8)),
            "chances": frozen(np.zeros(0)),
            "credits": frozen(np.zeros(0)),
            "accuracy": frozen(np.zeros(0)),
            "version": 0,
            "looked": 0,
            "last": 0,
        }

    def ask(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """At first everybody; later, when it is time, some of each tier."""
        if len(state["chances"]) == 0:
            return free.sample(free.num_clients, rng)
        if self.interval == 0 or state["version"] - state["looked"] < self.interval:
            return np.zeros(0, np.int64)
        members = (np.flatnonzero(state["tier"] == t) for t in range(len(state["chances"])))
        return np.concatenate([free.best(ids, rng.random(len(ids)), self.sample) for ids in members])

    def told(self, state: State, now_ns: int, measured: Table) -> State:
        """Makes the tiers; or has a look at how they do, and at what that says of their chances."""
        if len(state["chances"]) == 0:
            return self._profiled(state, measured)
        found = accuracies(state["tier"][measured["client"]], measured, len(state["chances"]))
        accuracy = np.where(np.isnan(found), state["accuracy"], found)
        last = int(state["last"])
        risen = accuracy[last] > state["accuracy"][last]
        chances = state["chances"] if risen else frozen(by_rank(accuracy))
        return {**state, "chances": chances, "accuracy": frozen(accuracy), "looked": state["version"]}

    def _profiled(self, state: State, measured: Table) -> State:
        """The tiers, by how long the answers took; no answers, no tiers."""
        count = min(self.tiers, len(measured))
        order = np.lexsort((measured["client"], measured["took_secs"]))
        tier = state["tier"].copy()
        for number, members in enumerate(np.array_split(order, max(count, 1))):
            tier[measured["client"][members]] = number
        allowed = np.full(count, np.inf) if self.credits is None else np.array(self.credits[:count], float)
        return {
            **state,
            "tier": frozen(tier),
            "chances": frozen(np.full(count, 1 / max(count, 1))),
            "credits": frozen(allowed),
            "accuracy": frozen(accuracies(tier[measured["client"]], measured, count)),
            "looked": state["version"],
        }

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """Notes which tier has trained, which costs it a credit."""
        state = {**state, "version": state["version"] + 1}
        tiers = state["tier"][reports["client"]]
        if not (tiers >= 0).any():
            return state
        last = int(np.bincount(tiers[tiers >= 0]).argmax())
        left = state["credits"].copy()
        left[last] = max(left[last] - 1, 0)
        return {**state, "last": last, "credits": frozen(left)}

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """`k` clients of one tier, uniformly; of the nearest others where it has too few."""
        tier, count = state["tier"], len(state["chances"])
        away = np.full(len(tier), count)
        if count:
            able = state["chances"] * (state["credits"] > 0)
            able = able if able.any() else state["chances"]
            away = np.where(tier < 0, count, np.abs(tier - rng.choice(count, p=able / able.sum())))
        return free.best(np.arange(len(tier)), -(away + rng.random(len(tier))), k)


def accuracies(tiers: Ids, measured: Table, count: int) -> Floats:
    """f64[count]: mean accuracy over the examples of MEASURED rows of each tier; NaN: not known."""
    known = (tiers >= 0) & np.isfinite(measured["accuracy"])
    examples = measured["num_examples"][known].astype(np.float64)
    right = np.bincount(tiers[known], examples * measured["accuracy"][known], minlength=count)
    with np.errstate(invalid="ignore"):
        return np.asarray(right / np.bincount(tiers[known], examples, minlength=count), np.float64)


def by_rank(accuracy: Floats) -> Floats:
    """f64[T] chances: T, T - 1, ..., 1 over their sum, the lowest accuracy first; of equals the fastest."""
    chances = np.empty(len(accuracy))
    chances[np.argsort(accuracy, kind="stable")] = np.arange(len(accuracy), 0, -1)
    return np.asarray(chances / chances.sum(), np.float64)


def tifl() -> Algorithm:
    """TiFL: cohorts of like speed, tiers of low accuracy more often (Chai et al. 2020)."""
    return fedavg().but(name="tifl", select=Tiers())
