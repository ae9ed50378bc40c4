"""The data plane: train what was accepted, gate it, fold it, move the model.

It holds the model, the server optimiser's state, a snapshot of each older version that a task still
refers to, and the clients' lasting states. In memory that is one model, one working model and one
accumulator a worker, however many clients take part. Where the sum is made in parts, and the rules treat
each coordinate by itself, the next version is made in parts too: there is no mean beside it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Algorithm, Combine, Info, Server, Vectors
from muster.core.errors import UserError
from muster.core.memory import trim
from muster.core.params import ParamSpec, Vector
from muster.core.population import Population
from muster.core.storage import IN_MEMORY, Storage, parts, release
from muster.core.store import ClientStore
from muster.core.sums import BLOCK
from muster.core.tables import MEASURED, REPORT, Ids, Table, joined, rows, taken

from .accumulator import Folding
from .ahead import Ahead, Seer
from .crew import Crew, InParts
from .later import Later
from .learner import Matrix, Sent
from .shares import over_clients, side_by_side
from .spill import Spill

MODEL, OPT = "model", "opt."
"""Under what names room is reserved for the next version."""

KEPT_AT_ONCE = 64
"""Lasting states that are in memory at a time: each may be as large as the model."""


@dataclass(frozen=True)
class Moment:
    """The data plane at the end of a version. Its arrays are never written to again."""

    version: int
    params: Vector
    opt: Vectors
    """The server part's state."""
    snapshots: Mapping[int, Sent]
    """Version -> what travels to clients that start from it: the model, and what `local.down` names."""
    state: Vectors = field(default_factory=dict)
    """The combination's own."""


class DataPlane:
    """The model and what moves it.

    Args:
        algorithm: Its data-plane parts.
        spec: Layout of the model.
        crew: Trains and evaluates.
        store: The clients' lasting states.
        population: The clients.
        folding: How the crew weighs and adds.
        initial: The untrained model, f32[spec.size].
        each: Whether clients are evaluated one by one too.
        storage: Where new versions are kept that are made in parts.

    """

    def __init__(
        self,
        algorithm: Algorithm,
        spec: ParamSpec,
        crew: Crew,
        store: ClientStore,
        population: Population,
        folding: Folding,
        initial: Vector,
        each: bool = False,
        storage: Storage = IN_MEMORY,
    ) -> None:
        self._algorithm, self._crew, self.store = algorithm, crew, store
        self._storage, self._room = storage, dict[str, Vector]()
        self._num_clients, self._folding = population.num_clients, folding
        self._num_examples = population.num_examples
        self.spec, self._each = spec, each
        # Where clients keep something, a task must see what the one before it has left: no look-ahead.
        self._ahead: Ahead | None = None
        if isinstance(crew, Seer) and not self._keeps:
            self._ahead = Ahead(crew, 4 * len(algorithm.local.up) * spec.size)
        self.num_calls = self.num_trained = 0
        self._spill = None if folding.spill is None else Spill(Path(folding.spill), spec.size)
        start = initial[: spec.trained]
        opt, state = self._initial_opt(start), algorithm.combine.init(population, start)
        self.moment = Moment(0, initial, opt, {0: self._snapshot(initial, opt)}, state)

    @property
    def in_parts(self) -> bool:
        """Whether versions are made a part after another: the rules, and how the sum is made, allow it."""
        crew = self._crew
        return by_coordinate(self._algorithm) and isinstance(crew, InParts) and crew.by_blocks

    def reserve(self) -> None:
        """Makes sure that the next version has room on disk, if that is where it goes; may be called again.

        Raises:
            OSError: The disk is full.
        """
        if self._storage.folder is None or not self.in_parts:
            return
        state = {OPT + name: np.asarray(vector) for name, vector in self.moment.opt.items()}
        for name, like in {MODEL: self.moment.params, **state}.items():
            if name not in self._room:
                self._room[name] = self._storage.empty(len(like), like.dtype)

    @property
    def version(self) -> int:
        """The newest version."""
        return self.moment.version

    @property
    def params(self) -> Vector:
        """The newest model, f32[spec.size]."""
        return self.moment.params

    @property
    def result(self) -> Vector:
        """The model that is evaluated and saved, f32[spec.size]: the newest, or what the server part says."""
        before = self.moment.params[: self.spec.trained]
        reported = self._algorithm.server.reported(before, self.moment.opt)
        if reported is before:
            return self.moment.params
        return np.concatenate([np.asarray(reported, np.float32), self.moment.params[self.spec.trained :]])

    @property
    def look_ahead(self) -> int:
        """How many of the tasks that will arrive next are worth knowing."""
        return 0 if self._ahead is None else self._ahead.reach

    @property
    def tasks_together(self) -> float | None:
        """Tasks trained in one call of the crew, on average; None: none was."""
        return self.num_trained / self.num_calls if self.num_calls else None

    def advance(
        self, tasks: Table, staleness: Ids, keep: Collection[int], coming: Table | None = None
    ) -> Table:
        """Makes the next version from the accepted tasks.

        Args:
            tasks: TASK rows in the order in which they were accepted.
            staleness: i64[K], versions that each is late.
            keep: Versions that tasks still out refer to; other snapshots are dropped.
            coming: TASK rows that are out, in the order in which they will arrive, as many as `look_ahead`
                asks for. It changes no bit: they may only be trained earlier.

        Returns:
            REPORT rows in the order of `tasks`. If all updates were refused, the version advances
            with the model unchanged, unless the combination moves it alone.

        """
        before = self.moment
        self._crew.clear()
        trim(self.spec.num_bytes)
        reports = rows(REPORT, len(tasks))
        size = KEPT_AT_ONCE if self._keeps else max(len(tasks), 1)
        now = self._now(tasks)
        if self.look_ahead and coming is not None and 0 < len(tasks) < self.look_ahead:
            reports[:] = self._train_ahead(tasks, staleness, now, coming, keep)
        else:
            for group in waves(tasks["client"], size):
                group = group[self._longest_first(tasks[group])]
                reports[group] = self._train(tasks[group], staleness[group], now)
        params, opt, state = self._move(before, reports[reports["refused"] == 0], now)
        version = before.version + 1
        snapshots = {v: x for v, x in before.snapshots.items() if v in keep}
        snapshots[version] = self._snapshot(params, opt)
        self.moment = Moment(version, params, opt, snapshots, state)
        trim(self.spec.num_bytes)
        return reports

    def _longest_first(self, tasks: Table) -> npt.NDArray[np.int64]:
        """An order in which workers end together and chunks hold tasks of like size, whatever came first."""
        examples = self._num_examples[tasks["client"]]
        return np.lexsort((tasks["ticket"], tasks["version"], -examples, -tasks["steps"].astype(np.int64)))

    @property
    def _keeps(self) -> bool:
        """Whether anything is kept of clients."""
        compress = self._folding.compress
        unsent = compress is not None and compress.keeps
        return self._algorithm.local.keeps or self._algorithm.combine.keeps or unsent

    def _snapshot(self, params: Vector, opt: Vectors) -> Sent:
        """What travels to the clients that start from a version."""
        return {"model": params, **{name: np.asarray(opt[name]) for name in self._algorithm.local.down[1:]}}

    def _now(self, tasks: Table) -> Sent:
        """What the combination's rule may look at while updates come in; nothing if it looks at nothing."""
        combine, now = self._algorithm.combine, {}
        if combine.shifts:
            now = {"model": self.moment.params, **self.moment.state}
        if combine.needs_all:
            now["tickets"] = np.sort(tasks["ticket"])
        return now

    def _train_ahead(
        self, tasks: Table, staleness: Ids, now: Sent, coming: Table, keep: Collection[int]
    ) -> Table:
        """Trains what has not been trained yet, and some that come, and folds; returns REPORT rows."""
        assert self._ahead is not None
        added = self._ahead.added(tasks, coming, keep)
        if len(added):
            added = taken(added, self._longest_first(added))
            self._ahead.learn(added, self._given(added)[0])
            self.num_calls, self.num_trained = self.num_calls + 1, self.num_trained + len(added)
        return self._ahead.fold(tasks, staleness, self._given(tasks)[0], now)

    def _train(self, tasks: Table, staleness: Ids, now: Sent) -> Table:
        """Trains tasks, no client twice, and writes down what is kept of them; returns REPORT rows."""
        sent, kept = self._given(tasks)
        reports, states = self._crew.train(tasks, staleness, sent, kept, now)
        self.num_calls, self.num_trained = self.num_calls + 1, self.num_trained + len(tasks)
        for client, state in sorted(states.items()):
            self.store.write(client, state)
        return reports

    def _given(self, tasks: Table) -> tuple[Mapping[int, Sent], Mapping[int, bytes]]:
        """What travelled to the clients of TASK rows, by version; and what they have kept."""
        sent = {int(v): self.moment.snapshots[int(v)] for v in np.unique(tasks["version"])}
        if not self._keeps:
            return sent, {}
        return sent, self._kept(tasks["client"])

    def _kept(self, clients: Ids) -> dict[int, bytes]:
        """What these clients have kept, of those that have."""
        found = ((client, self.store.read(client)) for client in clients.tolist())
        return {client: state for client, state in found if state is not None}

    def _move(self, before: Moment, good: Table, now: Sent) -> tuple[Vector, Vectors, Vectors]:
        """The next parameters, optimiser state and rule's state, from the reports of what counts."""
        if self.in_parts:
            return self._moved_in_parts(before, good)
        *both, opt, state = self._moved(before, good, now)  # the means are free by now
        params = both[0] if len(both[1]) == 0 else np.concatenate(both)
        for at in range(0, len(params), BLOCK):
            self._check(params[at : at + BLOCK], before.version + 1)
        return params, opt, state

    def _check(self, params: Vector, version: int) -> None:
        """Raises UserError if a part of a model is not finite."""
        if not np.isfinite(params).all():
            raise UserError(
                f"version {version}: {type(self._algorithm.server).__name__} moved the model to "
                "infinity or NaN, where nothing can be trained; lower algorithm.server.lr, or the clients' "
                "rate, algorithm.local.lr"
            )

    def _initial_opt(self, start: Vector) -> Vectors:
        """The server part's state before the first version."""
        if not self.in_parts:
            return self._algorithm.server.init(start)
        opt: dict[str, Vector] = {}
        for part in parts(len(start), start):
            self._write(opt, self._algorithm.server.init(start[part]), part)
        return opt

    def _write(self, opt: dict[str, Vector], made: Vectors, part: slice) -> None:
        """Writes a part of an optimiser's state to its place."""
        for name, vector in made.items():
            if name not in opt:
                opt[name] = self._taken(OPT + name, self.spec.trained, vector.dtype)
            opt[name][part] = vector

    def _taken(self, name: str, size: int, dtype: npt.DTypeLike = np.float32) -> Vector:
        """A vector to write to: what was reserved under this name, or a new one."""
        reserved = self._room.pop(name, None)
        if reserved is not None and (len(reserved), reserved.dtype) == (size, dtype):
            return reserved
        return self._storage.empty(size, dtype)

    def _moved_in_parts(self, before: Moment, good: Table) -> tuple[Vector, Vectors, Vectors]:
        """As `_move`, to the same bits; what is in memory beside both versions is a part of each vector."""
        combine, server, crew = self._algorithm.combine, self._algorithm.server, self._crew
        divisor = math.fsum(combine.divisors(good))  # exact: no order, no rounding
        if divisor <= 0.0:
            return before.params, before.opt, before.state
        assert isinstance(crew, InParts)
        size, trained = self.spec.size, self.spec.trained
        info = Info(before.version + 1, self._num_clients, len(good), self._folding.seed)
        params, opt = self._taken(MODEL, size), dict[str, Vector]()
        divisor /= self._folding.max_weight
        old, new = before.opt.values(), opt.values()
        for part in parts(trained, before.params, params, *old):
            mean = {n: crew.part(i, part, divisor) for i, n in enumerate(self._algorithm.local.up)}
            folded = {**mean, **combine.finish(mean, good, before.state, info)[0]}
            had = {name: vector[part] for name, vector in before.opt.items()}
            told = replace(info, folded=folded)
            moved, made = server.apply(before.params[part], folded["delta"], had, told)
            self._check_shape(moved, part.stop - part.start)
            params[part] = moved
            self._check(params[part], info.version)
            self._write(opt, made, part)
            for vector in new:
                release(vector[part])
        for part in parts(size, before.params, params, start=trained):
            np.add(before.params[part], crew.part(0, part, divisor), out=params[part])  # plain mean
            self._check(params[part], info.version)
        return params, opt, before.state

    def _check_shape(self, moved: Vector, size: int) -> None:
        if np.shape(moved) != (size,):
            rule = type(self._algorithm.server).__name__
            raise UserError(f"{rule}.apply returned shape {np.shape(moved)}, but must return ({size},)")

    def _moved(self, before: Moment, good: Table, now: Sent) -> tuple[Vector, Vector, Vectors, Vectors]:
        """As `_move`; what is trained, f32[trained], and the buffers, f32[size - trained], apart."""
        combine, trained = self._algorithm.combine, self.spec.trained
        means = self._folded(good, before.state, now) if len(good) else None
        if means is None and combine.moves_alone:
            means = np.zeros((len(self._algorithm.local.up), self.spec.size), np.float32)
        if means is None:
            return before.params, before.params[:0], before.opt, before.state
        info = Info(before.version + 1, self._num_clients, len(good), self._folding.seed)
        mean = {name: row[:trained] for name, row in zip(self._algorithm.local.up, means, strict=True)}
        made, state = combine.finish(mean, good, before.state, info)
        folded = {**mean, **made}
        info = replace(info, folded=folded)
        moved, opt = self._algorithm.server.apply(before.params[:trained], folded["delta"], before.opt, info)
        self._check_shape(moved, trained)
        buffers = before.params[trained:] + means[0, trained:]  # plain mean
        return np.asarray(moved, np.float32), buffers, opt, state

    def _folded(self, good: Table, state: Vectors, now: Sent) -> Matrix | None:
        """What the updates that count come to, f32[U, size]; None if they weigh nothing."""
        combine = self._algorithm.combine
        if combine.needs_all:
            good = good[np.argsort(good["ticket"])]  # an order that arrivals do not change
            return self._fold_all(good, np.searchsorted(now["tickets"], good["ticket"]), state)[None]
        divisor = math.fsum(combine.divisors(good))  # exact: no order, no rounding
        if divisor <= 0.0:
            return None
        total = self._crew.total().take(divisor / self._folding.max_weight)
        return total.reshape(len(self._algorithm.local.up), -1)

    def _fold_all(self, good: Table, places: npt.NDArray[np.int64], state: Vectors) -> Vector:
        """One vector from all updates, a block of coordinates after another."""
        combine, trained = self._algorithm.combine, self.spec.trained
        spill = self._spill
        assert spill is not None
        products = np.zeros((0, 0))
        if combine.needs_products:
            products = spill.products(places, trained)
        related = combine.relate(products, good, state)
        delta = self.spec.zeros()
        for part, block in spill.blocks(places):
            delta[part] = combine.fold(block, related)
        spill.clear()
        return delta

    def measure(self, tasks: Table) -> Table:
        """MEASURED rows of TASK rows: how good the model that each was sent is on its client's examples."""
        size = KEPT_AT_ONCE if self._keeps else max(len(tasks), 1)
        parts = (tasks[start : start + size] for start in range(0, len(tasks), size))
        return joined(rows(MEASURED, 0), *(self._crew.measure(part, *self._given(part)) for part in parts))

    def evaluate(self) -> Mapping[str, float]:
        """Metrics of the model that is reported over all test examples; see `Crew.evaluate`."""
        result = self.result
        found = self._crew.evaluate(self.version, result)
        if self._each:
            return self._with_each(found, result)
        return dict(found) if self._keeps else found  # what clients keep belongs to a version that is told

    def _with_each(self, found: Mapping[str, float], result: Vector) -> Mapping[str, float]:
        """The metrics, and what is told of all clients that have examples."""
        clients = np.flatnonzero(self._num_examples > 0)
        counts = self._num_examples[clients].astype(np.int64)
        if not self._keeps:
            each = self._crew.evaluate_each(self.version, result, clients, {})
            if isinstance(found, Later) and isinstance(each, Later):
                later = found, each
                return Later(
                    lambda: {**found, **over_clients(each, counts)}, lambda: all(part.ready for part in later)
                )
            return {**found, **over_clients(each, counts)}
        parts = []
        for start in range(0, len(clients), KEPT_AT_ONCE):
            some = clients[start : start + KEPT_AT_ONCE]
            parts.append(dict(self._crew.evaluate_each(self.version, result, some, self._kept(some))))
        return {**found, **over_clients(side_by_side(parts), counts)}

    def mark(self) -> Moment:
        """The end of a version: what a checkpoint saves."""
        self.store.mark()
        return self.moment

    def peaks(self) -> tuple[int, ...]:
        """Peak RSS of each worker in bytes."""
        return self._crew.peaks()

    def close(self) -> None:
        """Ends the workers and lets go of the clients' states."""
        self._crew.close()
        if self._spill is not None:
            self._spill.close()
        self.store.close()


def by_coordinate(algorithm: Algorithm) -> bool:
    """Whether the rules that make a version treat each coordinate by itself, so that parts can be made."""
    combine = algorithm.combine
    finish = type(combine).finish is Combine.finish or _elementwise(combine, "finish")
    whole = combine.shifts or combine.needs_all or combine.moves_alone
    return finish and not whole and _elementwise(algorithm.server, "init", "apply")


def _elementwise(part: Combine | Server, *methods: str) -> bool:
    """Whether a rule says that it is, of these methods: a class below may have written one anew."""
    order = [vars(cls) for cls in type(part).__mro__]
    said = next(i for i, own in enumerate(order) if "elementwise" in own)
    written = (next(i for i, own in enumerate(order) if method in own) for method in methods)
    return part.elementwise and all(said <= at for at in written)


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
    tensors |= {f"state.{k}": np.asarray(v) for k, v in moment.state.items()}
    for version, vectors in moment.snapshots.items():
        tensors |= {f"sent.{version}.{k}": np.asarray(v) for k, v in vectors.items()}
    return {"version": moment.version}, tensors


def load_moment(control: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Moment:
    """The inverse of `save_moment`."""
    parts: dict[str, dict[str, Any]] = {"opt": {}, "state": {}, "sent": {}}
    for key, vector in tensors.items():
        part, _, name = key.partition(".")
        parts[part][name] = vector
    snapshots: dict[int, dict[str, Vector]] = {}
    for key, vector in parts["sent"].items():
        number, _, name = key.partition(".")
        snapshots.setdefault(int(number), {})[name] = vector
    version = int(control["version"])
    return Moment(version, snapshots[version]["model"], parts["opt"], snapshots, parts["state"])
