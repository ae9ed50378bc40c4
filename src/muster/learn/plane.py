"""The data plane: train what was accepted, gate it, fold it, move the model.

It holds the model, the server optimiser's state, a snapshot of each older version that a task still
refers to, and the clients' lasting states. In memory that is one model, one working model and one
accumulator a worker, however many clients take part.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Array, Info
from muster.core.errors import UserError
from muster.core.params import ParamSpec, Vector
from muster.core.store import ClientStore
from muster.core.tables import REPORT, Ids, Table, rows

from .crew import Crew

KEPT_AT_ONCE = 64
"""Lasting states that are in memory at a time: each may be as large as the model."""


@dataclass(frozen=True)
class Moment:
    """The data plane at the end of a version. Its arrays are never written to again."""

    version: int
    params: Vector
    opt: Mapping[str, Array]
    snapshots: Mapping[int, Vector]


class DataPlane:
    """The model and what moves it.

    Args:
        algorithm: Its data-plane parts.
        spec: Layout of the model.
        crew: Trains and evaluates.
        store: The clients' lasting states.
        num_clients: Size of the population.
        max_weight: What the combination's weights are divided by before they are summed.
        initial: The untrained model, f32[spec.size].

    """

    def __init__(
        self,
        algorithm: Algorithm,
        spec: ParamSpec,
        crew: Crew,
        store: ClientStore,
        num_clients: int,
        max_weight: float,
        initial: Vector,
    ) -> None:
        self._algorithm, self._crew, self.store = algorithm, crew, store
        self._num_clients, self._max_weight = num_clients, max_weight
        self.spec = spec
        opt = algorithm.server.init(initial[: spec.trained])
        self.moment = Moment(0, initial, opt, {0: initial})

    @property
    def version(self) -> int:
        """The newest version."""
        return self.moment.version

    @property
    def params(self) -> Vector:
        """The newest model, f32[spec.size]."""
        return self.moment.params

    def advance(self, tasks: Table, staleness: Ids, keep: Collection[int]) -> Table:
        """Makes the next version from the accepted tasks.

        Args:
            tasks: TASK rows in the order in which they were accepted.
            staleness: i64[K], versions that each is late.
            keep: Versions that tasks still out refer to; other snapshots are dropped.

        Returns:
            REPORT rows in the order of `tasks`. If all updates were refused, the version advances
            with the model unchanged.

        """
        before = self.moment
        self._crew.clear()
        reports = rows(REPORT, len(tasks))
        size = KEPT_AT_ONCE if self._algorithm.local.keeps else max(len(tasks), 1)
        for group in waves(tasks["client"], size):
            reports[group] = self._train(tasks[group], staleness[group].tolist())
        params, opt = self._move(before, reports[reports["refused"] == 0])
        version = before.version + 1
        snapshots = {v: x for v, x in before.snapshots.items() if v in keep} | {version: params}
        self.moment = Moment(version, params, opt, snapshots)
        return reports

    def _train(self, tasks: Table, staleness: list[int]) -> Table:
        """Trains tasks, no client twice, and writes down what the clients keep; returns REPORT rows."""
        sent = {int(v): self.moment.snapshots[int(v)] for v in np.unique(tasks["version"])}
        kept = {}
        if self._algorithm.local.keeps:
            found = ((int(c), self.store.read(int(c))) for c in tasks["client"])
            kept = {c: state for c, state in found if state is not None}
        reports, states = self._crew.train(tasks, staleness, sent, kept)
        for client, state in sorted(states.items()):
            self.store.write(client, state)
        return reports

    def _move(self, before: Moment, good: Table) -> tuple[Vector, Mapping[str, Array]]:
        """The next parameters and optimiser state, from the reports of the updates that count."""
        divisor = math.fsum(self._algorithm.combine.divisors(good))  # exact: no order, no rounding
        if divisor <= 0.0:
            return before.params, before.opt
        delta = self._crew.total().mean(divisor / self._max_weight)
        trained = self.spec.trained
        info = Info(before.version + 1, self._num_clients, len(good))
        moved, opt = self._algorithm.server.apply(before.params[:trained], delta[:trained], before.opt, info)
        rule = type(self._algorithm.server).__name__
        if np.shape(moved) != (trained,):
            raise UserError(f"{rule}.apply returned shape {np.shape(moved)}, but must return ({trained},)")
        params = before.params + delta  # buffers: plain mean
        params[:trained] = moved
        if not np.isfinite(params).all():
            raise UserError(
                f"version {info.version}: {rule} moved the model to infinity or NaN, where nothing can "
                "be trained; lower algorithm.server.lr, or the clients' rate, algorithm.local.lr"
            )
        return params, opt

    def evaluate(self) -> dict[str, float]:
        """Metrics of the newest model over all test examples."""
        return self._crew.evaluate(self.version, self.params)

    def mark(self) -> Moment:
        """The end of a version: what a checkpoint saves."""
        self.store.mark()
        return self.moment

    def peak_rss_bytes(self) -> int:
        """Of the workers."""
        return self._crew.peak_rss_bytes()

    def close(self) -> None:
        """Ends the workers and lets go of the clients' states."""
        self._crew.close()
        self.store.close()


def waves(clients: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Indices in groups of at most `size` such that no client is twice in one.

    So a client's second task sees what its first has kept.
    """
    order = np.argsort(clients, kind="stable")
    grouped = clients[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(clients) else order
    lengths = np.diff(np.r_[starts, len(clients)])
    rank = np.empty(len(clients), np.int64)
    rank[order] = np.arange(len(clients)) - np.repeat(starts, lengths)
    whole = (np.flatnonzero(rank == r) for r in range(int(rank.max(initial=-1)) + 1))
    return [wave[start : start + size] for wave in whole for start in range(0, len(wave), size)]


def save_moment(moment: Moment) -> tuple[dict[str, Any], dict[str, Vector]]:
    """A moment as JSON data and tensors; each distinct snapshot is written once."""
    tensors = {f"opt.{k}": np.asarray(v) for k, v in moment.opt.items()}
    tensors |= {f"model.{version}": vector for version, vector in moment.snapshots.items()}
    return {"version": moment.version}, tensors


def load_moment(control: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Moment:
    """The inverse of `save_moment`."""
    opt = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith("opt.")}
    snapshots = {int(k.partition(".")[2]): v for k, v in tensors.items() if k.startswith("model.")}
    version = int(control["version"])
    return Moment(version, snapshots[version], opt, snapshots)
