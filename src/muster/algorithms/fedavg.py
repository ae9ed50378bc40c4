"""FedAvg, and the grammar that every other algorithm changes a word of.

H. B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas: Communication-Efficient Learning of
Deep Networks from Decentralized Data. AISTATS 2017, arXiv:1602.05629.

    for each round:
        S = clients drawn uniformly                                select: Uniform
        wait for `cohort` of them, or for the deadline             pace:   Sync
        each i in S: y_i = x, then SGD over its own examples       local:  SGD
        Δ = Σ n_i (y_i - x) / Σ n_i                                combine: Mean
        x ← x + lr Δ                                               server: Add

Over-commitment (send to more than are needed, close with the first `cohort`) and the deadline are
those of K. Bonawitz et al.: Towards Federated Learning at Scale, MLSys 2019, arXiv:1902.01046.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from muster.core.algorithm import (
    Algorithm,
    Array,
    Combine,
    Info,
    Local,
    Pace,
    Plan,
    Select,
    Server,
    State,
    Vectors,
    View,
)
from muster.core.population import Draw, Free, FreeInTurn, Population
from muster.core.tables import Appetite, Ids, Reason, Table, to_ns


@dataclass(frozen=True)
class Uniform(Select):
    """Every client that is present and free is as likely as any other."""

    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """`k` clients without replacement."""
        return free.sample(k, rng)

    def draw_in_turn(self, state: State, free: FreeInTurn, rngs: Draw) -> Ids:
        """The same, one at each turn."""
        return free.sample(rngs)


@dataclass(frozen=True)
class Sync(Pace):
    """Rounds: send to a cohort, wait, advance; what comes after the round closed is late."""

    cohort: int = 10
    """Updates that close a round."""
    over_commit: float = 1.0
    """Tasks sent for each update wanted: 1.3 sends 130 for a cohort of 100."""
    deadline_secs: float | None = None
    """Close the round after so long with what has arrived."""
    min_reports: int = 1
    """Fewer than this when a round closes, and the round has failed."""
    min_start: int | None = None
    """Wait until so many clients are free before a round starts; default: the cohort."""

    def __post_init__(self) -> None:
        self.check_number("cohort", at_least=1)
        self.check_number("over_commit", at_least=1)
        self.check_number("deadline_secs", above=0, at_most=1e9)  # 30 years; the clock holds 290
        self.check_number("min_reports", at_least=1, at_most=self.cohort)
        self.check_number("min_start", at_least=self.min_reports, at_most=self.max_out)

    @property
    def max_accepts(self) -> int:
        """The cohort: the round closes with it."""
        return self.cohort

    @property
    def max_out(self) -> int:
        """The cohort and what is sent beyond it."""
        return ceil(self.cohort * self.over_commit - 1e-9)

    def appetite(self, state: State, tasks: Table) -> Appetite:
        """All rows up to the arrival that closes the round."""
        return Appetite(self.cohort - int(np.count_nonzero(tasks["arrived"])))

    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """Opens a round when there is none; closes it on the cohort, the deadline or the last loss."""
        arrived, out = view.arrived["ticket"], view.out["ticket"]
        if len(view.tasks) == 0:
            start = self.cohort if self.min_start is None else self.min_start
            deadline = None if self.deadline_secs is None else to_ns(self.deadline_secs)
            if view.num_lost > 0:  # the last of the round's tasks has just been lost
                return state, Plan(failed=True)
            return state, Plan(send=self.max_out, min_start=start, wake_after_ns=deadline)
        if len(arrived) < self.cohort and len(out) > 0 and not view.due:
            return state, Plan()
        return state, close_round(arrived, out, self.min_reports)


def close_round(arrived: Ids, out: Ids, min_reports: int) -> Plan:
    """The end of a round: with what has arrived, if that is enough; what is still out is late."""
    if len(arrived) < min_reports:
        both = np.concatenate([arrived, out])
        return Plan(discard=both, reason=Reason.ABANDONED, failed=True)
    return Plan(accept=arrived, discard=out, reason=Reason.LATE, advance=True)


@dataclass(frozen=True)
class SGD(Local):
    """Mini-batch SGD on the mean loss, as torch.optim.SGD does it, fresh for every task."""

    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    """Scale a step's gradient down to this Euclidean norm (before weight decay)."""

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)
        self.check_number("momentum", at_least=0, below=1)
        self.check_number("weight_decay", at_least=0)
        self.check_number("clip_norm", above=0)

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """At the model sent, at rest."""
        return sent["model"], {"velocity": sent["model"] * 0} if self.momentum else {}

    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """g ← clip(g) + wd·y;  v ← momentum·v + g;  y ← y - lr·v."""
        if self.clip_norm is not None:
            xp = array_namespace(gradient)
            norm = xp.sqrt(xp.sum(gradient * gradient, axis=-1, keepdims=True))
            gradient *= self.clip_norm / xp.clip(norm, min=self.clip_norm)
        if self.weight_decay:
            gradient += self.weight_decay * params
        if self.momentum:
            velocity = self.momentum * memory["velocity"] + gradient
            params -= self.lr * velocity
            return params, {**memory, "velocity": velocity}
        gradient *= self.lr
        params -= gradient
        return params, memory

    def stride(self, norm: Callable[[], float]) -> float | None:
        """lr, or lr clip_norm / ‖g‖, if there is neither momentum nor weight decay."""
        if type(self).step is not SGD.step or self.momentum or self.weight_decay:
            return None
        return self.lr if self.clip_norm is None else self.lr * self.clip_norm / max(norm(), self.clip_norm)

    def worth(self, num_steps: int) -> float:
        """Momentum lets each gradient act again: k ← momentum·k + 1 a step, ‖a‖₁ = Σ k."""
        return worth(num_steps, self.momentum, 1.0)


def worth(num_steps: int, momentum: float, shrink: float) -> float:
    """‖a‖₁ of FedNova: k ← momentum·k + 1, A ← shrink·A + k a step; a proximal term shrinks by 1 - lr·μ."""
    reach = total = 0.0
    for _ in range(num_steps):
        reach = momentum * reach + 1.0
        total = shrink * total + reach
    return total


MOST_STEPS = float(1 << 20)
"""A task of more steps is refused where steps are weights."""


@dataclass(frozen=True)
class Mean(Combine):
    """Weighted mean of the deltas."""

    by: Literal["examples", "uniform", "steps"] = "examples"
    """Weigh by `examples` (the client's number of them), `uniform`, or by the `steps` of the task."""

    def __post_init__(self) -> None:
        self.check_choice("by", ("examples", "uniform", "steps"))

    def max_weight(self, population: Population) -> float:
        """The largest client's number of examples, MOST_STEPS, or 1."""
        most = {"examples": float(population.num_examples.max()), "steps": MOST_STEPS}
        return most.get(self.by, 1.0)

    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """n_i, τ_i or 1."""
        if self.by == "uniform":
            return np.ones(len(reports))
        return np.asarray(reports["num_steps" if self.by == "steps" else "num_examples"], np.float64)

    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """The weights themselves."""
        return self.weights(reports)


@dataclass(frozen=True)
class Add(Server):
    """x ← x + lr·Δ."""

    lr: float = 1.0

    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("lr", above=0)

    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """One step along the mean delta."""
        moved = self.lr * delta
        moved += params
        return moved, opt


def fedavg() -> Algorithm:
    """FedAvg: the mean of a cohort's models, weighted by examples (McMahan et al. 2017)."""
    return Algorithm("fedavg", Uniform(), Sync(), SGD(), Mean(), Add())
