"""FedBuff: buffered asynchronous aggregation; nobody waits for the slow.

J. Nguyen, K. Malik, H. Zhan, A. Yousefpour, M. Rabbat, M. Malek, D. Huba: Federated Learning with
Buffered Asynchronous Aggregation. AISTATS 2022, arXiv:2106.06639.

    keep `concurrency` clients training; whenever one reports, another starts from the newest x
    buffer the deltas Δ_i, s_i versions late; when there are K of them:
        x ← x + lr (1/K) Σ Δ_i / √(1 + s_i)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Combine, Pace, Plan, State, View
from muster.core.population import Population
from muster.core.tables import Appetite, Reason, Table

from .fedavg import SGD, Add, Uniform


@dataclass(frozen=True)
class Buffered(Pace):
    """Keeps `concurrency` tasks out and advances with every `size` updates that are fresh enough."""

    size: int = 10
    """Updates that make a version (the paper's K)."""
    concurrency: int = 20
    """Tasks out at any time."""
    max_staleness: int | None = None
    """Discard updates that are more versions late than this; default: take all."""

    def __post_init__(self) -> None:
        self.check_number("size", at_least=1)
        self.check_number("concurrency", at_least=1)
        self.check_number("max_staleness", at_least=0)

    def init(self) -> State:
        """An empty buffer."""
        return {"buffered": 0}

    @property
    def max_accepts(self) -> int:
        """The buffer's size."""
        return self.size

    @property
    def max_out(self) -> int:
        """The concurrency."""
        return self.concurrency

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """One row at a time: each arrival and each loss is answered with a new task at its instant.

        While none is missing, all up to the end of the version may come together.
        """
        missing = self.concurrency - int(np.count_nonzero(~tasks["arrived"]))
        together = 1 if missing else self.size - int(state["buffered"])
        return Appetite(1, stop_at_loss=True, together=together)

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Accepts what is fresh, discards what is stale, and refills up to the concurrency."""
        arrived = view.arrived
        if len(arrived) > 1:  # in the order in which they came
            arrived = arrived[np.lexsort((arrived["client"], arrived["arrived_at"]))]
        late = view.version - arrived["version"]
        stale = np.zeros(len(late), bool) if self.max_staleness is None else late > self.max_staleness
        buffered = int(state["buffered"]) + int(np.count_nonzero(~stale))
        full = buffered >= self.size
        plan = Plan(
            accept=arrived["ticket"][~stale],
            discard=arrived["ticket"][stale],
            reason=Reason.STALE,
            advance=full,
            send=self.concurrency - (len(view.tasks) - len(arrived)) - full,  # the last one's waits for x
            in_turn=True,
            top_up=True,
        )
        return {"buffered": 0 if full else buffered}, plan


@dataclass(frozen=True)
class StaleMean(Combine):
    """Plain mean over the buffer of deltas that are discounted by 1 / (1 + staleness)^exponent."""

    exponent: float = 0.5

    def __post_init__(self) -> None:
        self.check_number("exponent", at_least=0)

    def max_weight(self, population: Population) -> float:
        """1: a fresh update's."""
        return 1.0

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """s(τ) = (1 + τ)^-exponent."""
        return np.asarray((1.0 + reports["staleness"]) ** -self.exponent, np.float64)

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """1 each: the sum is divided by the count, so stale updates move the model less."""
        return np.ones(len(reports))


def fedbuff() -> Algorithm:
    """FedBuff: a version for every K updates, however late they are (Nguyen et al. 2022)."""
    return Algorithm("fedbuff", Uniform(), Buffered(), SGD(), StaleMean(), Add())
