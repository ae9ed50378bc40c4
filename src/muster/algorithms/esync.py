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

from muster.core.algorithm import Algorithm, State, View
from muster.core.population import Population
from muster.core.tables import Ids, Lease, to_ns

from .esync_rule import RULES, Rule, more_steps, slowest
from .fedavg import SGD, Add, Mean, Uniform
from .leased import Beliefs, Leased, foreseen_beliefs


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
class ESync(Leased):
    """Rounds in which each worker makes as many steps as fit before the slowest has sent its one."""

    rule: Rule = "paper"
    """`paper` compares computing and sending; `compute_only` computing alone, as the first code did."""
    margin_secs: float = 0.0
    """Stop so long before the straggler is expected: fewer steps, less risk that it waits. Below 0: a step
    may end so long after it, where steps that fit exactly would be lost to what messages take."""
    beliefs: Literal["measured", "population"] = "measured"
    """How fast workers are: `measured` from their own first steps, or known from the `population`."""
    leases: bool = False
    """Answer with as many steps as fit at once, so that fast workers need not ask after each."""
    max_steps: int = 10_000
    """Steps after which a worker sends whatever the straggler does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("rule", RULES)
        self.check_number("margin_secs", at_least=-1e9, at_most=1e9)
        self.check_choice("beliefs", ("measured", "population"))
        self.check_number("max_steps", at_least=1, at_most=1_000_000_000)

    @property
    def foresees(self) -> bool:  # type: ignore[override]
        """Whether the population says how fast workers are."""
        return self.beliefs == "population"

    def believe(self, state: State, population: Population) -> State:
        """The population's times, if they are to be believed."""
        return foreseen_beliefs(population).state() if self.foresees else state

    def steps_for(self, state: State, known: Beliefs, view: View, asks: npt.NDArray[np.bool_]) -> Ids:
        """What the rule says, of those that are left, to each that asks."""
        tasks, rows = view.tasks, known.at(view.tasks["client"])
        workers = [
            Seen(
                rank=int(task["client"]),
                iteration=int(task["done"]),
                compute_ns=int(known.compute[row]),
                send_ns=int(known.send[row]),
                stamp_ns=int(task["sent_at"] + known.load[row]),
                synced=bool(task["arrived"] or task["lease"] != Lease.TRAINING),
            )
            for task, row in zip(tasks, rows, strict=True)
        ]
        straggler, margin = slowest(workers, self.rule), to_ns(self.margin_secs)
        assert straggler is not None, "a round has workers"
        more = np.zeros(len(tasks), np.int64)
        for i in np.flatnonzero(asks).tolist():
            more[i] = more_steps(workers[i], straggler, view.now_ns, margin, self.rule)
        most = self.max_steps if self.leases else 1
        room = np.maximum(self.max_steps - tasks["steps"], 0)
        return np.asarray(np.minimum(np.minimum(more, most), room), np.int64)


def esync() -> Algorithm:
    """ESync: the fast make as many steps as fit before the slowest makes one (Li et al. 2020)."""
    return Algorithm("esync", Uniform(), ESync(), SGD(), Mean(), Add())
