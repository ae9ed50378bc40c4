"""SSP: workers run apart by no more than so many clocks.

Q. Ho, J. Cipar, H. Cui, J. K. Kim, S. Lee, P. B. Gibbons, G. A. Gibson, G. R. Ganger, E. P. Xing: More
Effective Distributed ML via a Stale Synchronous Parallel Parameter Server. NeurIPS 2013.

    worker k at clock c_k may begin its next task iff  c_k ≤ min_j c_j + slack
    each update is added to the model when it arrives          slack 0: bulk-synchronous; ∞: asynchronous
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.algorithm import Algorithm, Pace, Plan, State, View
from muster.core.tables import Appetite, Reason, Table

from .fedavg import SGD, Add, Mean, Uniform


@dataclass(frozen=True)
class SSP(Pace):
    """A fixed set of workers, each of which may be `slack` clocks ahead of the slowest."""

    workers: int = 4
    """Workers at the same time."""
    slack: int = 3
    """Clocks by which the fastest may be ahead."""

    def __post_init__(self) -> None:
        self.check_number("workers", at_least=1)
        self.check_number("slack", at_least=0)

    def init(self) -> State:
        """No workers yet; `clients` ascend, `clocks` are theirs."""
        return {"clients": np.zeros(0, np.int64), "clocks": np.zeros(0, np.int64)}

    @property
    def max_accepts(self) -> int:
        """One update makes a version."""
        return 1

    @property
    def max_out(self) -> int:
        """The workers."""
        return self.workers

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """One row at a time."""
        return Appetite(1, stop_at_loss=True)

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Takes what arrives; then lets those go who are not too far ahead, and fills empty places."""
        tasks, arrived = view.tasks, view.arrived
        clients = np.asarray(state["clients"], np.int64)
        clocks = np.asarray(state["clocks"], np.int64)
        slowest = int(clocks.min()) if len(clocks) else 0
        if view.num_lost:  # neither at work nor waiting for the others: gone, and no longer waited for
            blocked = clocks > slowest + self.slack
            kept = np.isin(clients, tasks["client"]) | blocked
            clients, clocks = clients[kept], clocks[kept]
        new = np.setdiff1d(tasks["client"], clients)
        place = np.searchsorted(clients, new)
        slowest = int(clocks.min()) if len(clocks) else 0
        clocks = np.insert(clocks, place, slowest)
        clients = np.insert(clients, place, new)
        if len(arrived):
            clocks = clocks + np.isin(clients, arrived["client"])
            plan = Plan(accept=arrived["ticket"], reason=Reason.NONE, advance=True)
        else:
            idle = ~np.isin(clients, view.out["client"])
            go = idle & (clocks <= slowest + self.slack)
            wanted = int(np.count_nonzero(go)) + self.workers - len(clients)
            plan = Plan(send=wanted, named=clients[go], spared=clients, top_up=True)
        return {"clients": clients, "clocks": clocks}, plan


def ssp() -> Algorithm:
    """SSP: asynchronous, but nobody runs more than `slack` clocks ahead (Ho et al. 2013)."""
    return Algorithm("ssp", Uniform(), SSP(), SGD(), Mean(by="uniform"), Add())
