"""What the server knows between two calls of `step`: small, immutable, saved and restored whole."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Mapping

import numpy as np
import numpy.typing as npt

from .algorithm import Algorithm, State
from .errors import UserError
from .population import Population
from .rests import NOBODY, REST
from .tables import TASK, Ids, Table, frozen, rows


@dataclass(frozen=True)
class Tally:
    """How many tasks each client has had: a column of counts with a short log of additions on top.

    Adding one client must not copy a column of ten million. So additions go into `recent`, and are
    merged into a new `base` when that has grown to a few thousand.
    """

    base: npt.NDArray[np.int32]  # [C]
    recent: Ids  # clients, one entry an addition

    MERGE_AT = 4096

    def of(self, clients: Ids) -> npt.NDArray[np.int32]:
        """The counts of `clients` (i64[K], distinct)."""
        late = np.zeros(len(clients), np.int32)
        if len(clients) == 1:
            late += np.count_nonzero(self.recent == clients[0])
        elif len(self.recent):
            order = np.argsort(clients, kind="stable")
            place = np.searchsorted(clients, self.recent, sorter=order)
            place = order[np.minimum(place, max(len(clients) - 1, 0))] if len(clients) else place[:0]
            hit = clients[place] == self.recent if len(clients) else np.zeros(0, bool)
            np.add.at(late, place[hit], 1)
        return self.base[clients] + late

    def add(self, clients: Ids) -> Tally:
        """One more for each of `clients`; this object stays as it is."""
        recent = np.concatenate([self.recent, clients])
        if len(recent) <= self.MERGE_AT:
            return Tally(self.base, frozen(recent))
        base = self.base.copy()
        np.add.at(base, recent, 1)
        return Tally(frozen(base), recent[:0])

    def counts(self) -> npt.NDArray[np.int32]:
        """The whole column, i32[C]."""
        added = np.bincount(self.recent, minlength=len(self.base)).astype(np.int32)
        return np.asarray(self.base + added, np.int32)


@dataclass(frozen=True)
class Limits:
    """When a run ends by its own measure, and how often it is evaluated."""

    rounds: int | None = None
    """Versions to make."""
    virtual_ns: int | None = None
    """Instant at which the run ends, whatever is out."""
    evaluate_every: int = 1
    """Evaluate every so many versions, and always the last one."""
    rest_ns: int = 0
    """Whose task has ended is not asked for so long."""


@dataclass(frozen=True)
class ServerState:
    """The whole state of the control plane. Arrays in it are read-only; `step` makes new ones."""

    tasks: Table
    """TASK rows: what is out, and what has arrived and waits for a decision."""
    tally: Tally
    select: State
    pace: State
    rests: Table = field(default_factory=lambda: NOBODY)
    """REST rows: who is not to be asked before when."""
    limits: Limits = field(default_factory=Limits)
    now_ns: int = 0
    version: int = 0
    next_ticket: int = 0
    num_draws: int = 0
    """Selections drawn so far: they key the randomness of the next one."""
    timer: int = -1
    """The number of the newest WakeAt; older ones ring in vain."""
    wake_ns: int | None = None
    """When it rings: the earliest of the three below and the limit of virtual time."""
    deadline_ns: int | None = None
    """The pace's own."""
    retry_ns: int | None = None
    """More clients are present then."""
    hold_ns: int | None = None
    """No work goes out before, after a failed round."""
    num_failed: int = 0
    """Rounds that failed in a row."""
    num_lost: int = 0
    """Tasks lost in a row."""
    peak_out: int = 0
    num_stalled: int = 0
    """Calls in a row at one instant that brought no news of any task."""
    stopped: bool = False

    def but(self, **changes: Any) -> ServerState:
        """The same with some fields replaced: `dataclasses.replace`, which is slow for this many fields."""
        made = object.__new__(ServerState)
        made.__dict__.update(self.__dict__, **changes)
        return made


def initial_state(algorithm: Algorithm, population: Population, limits: Limits) -> ServerState:
    """The state before `Started`.

    Raises:
        UserError: A part begins with a state that a checkpoint cannot keep.
    """
    select = algorithm.select.init(population)
    pace = algorithm.pace.believe(algorithm.pace.init(), population)
    check_kept(type(algorithm.select).__name__, select)
    check_kept(type(algorithm.pace).__name__, pace)
    return ServerState(
        tasks=frozen(rows(TASK, 0)),
        tally=Tally(frozen(np.zeros(population.num_clients, np.int32)), np.zeros(0, np.int64)),
        select=select,
        pace=pace,
        limits=limits,
    )


def check_kept(owner: str, state: object) -> None:
    """Refuses a part's state that would not come back from a checkpoint as it was.

    Raises:
        UserError: It is no mapping by strings of arrays of numbers, and JSON data: numbers, strings,
            booleans, None, lists of those and mappings by strings (a tuple would come back as a list).
    """
    if not isinstance(state, Mapping):
        raise UserError(f"the state of {owner} is {type(state).__name__}, but must be a dict")
    for key, value in state.items():
        whole = isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
        if not isinstance(key, str) or not (whole or _is_json(value)):
            raise UserError(
                f"the state of {owner} has {key!r}: {type(value).__name__}, which a checkpoint cannot keep; "
                "allowed, by names that are strings: arrays of numbers, numbers, strings, booleans, None, "
                "and lists and dicts of those"
            )


def _is_json(value: object) -> bool:
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(inner) for key, inner in value.items())
    return value is None or type(value) in (bool, int, float, str)


def save_state(state: ServerState) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """The state as JSON data and named columns; `load_state` is the inverse, to the bit.

    Raises:
        UserError: The select's or the pace's state is not such data.
    """
    scalars: dict[str, Any] = {}
    columns: dict[str, npt.NDArray[Any]] = {}
    for f in fields(state):
        value = getattr(state, f.name)
        if f.name in ("tasks", "rests"):
            columns |= _columns(f.name, value)
        elif f.name == "tally":
            columns["tally"] = value.counts()
        elif f.name == "limits":
            scalars[f.name] = {g.name: getattr(value, g.name) for g in fields(value)}
        elif f.name in ("select", "pace"):
            check_kept(f.name, value)
            columns |= {f"{f.name}.{k}": v for k, v in value.items() if isinstance(v, np.ndarray)}
            scalars[f.name] = {k: v for k, v in value.items() if not isinstance(v, np.ndarray)}
        else:
            scalars[f.name] = value
    return scalars, columns


def load_state(scalars: Mapping[str, Any], columns: Mapping[str, npt.NDArray[Any]]) -> ServerState:
    """The state that `save_state` took apart."""
    parts = {
        part: {
            **scalars[part],
            **{
                k.partition(".")[2]: frozen(np.array(v))
                for k, v in columns.items()
                if k.startswith(f"{part}.")
            },
        }
        for part in ("select", "pace")
    }
    plain = {k: v for k, v in scalars.items() if k not in ("select", "pace", "limits")}
    return ServerState(
        tasks=_table(TASK, "tasks", columns),
        tally=Tally(frozen(np.array(columns["tally"], np.int32)), np.zeros(0, np.int64)),
        select=parts["select"],
        pace=parts["pace"],
        rests=_table(REST, "rests", columns),
        limits=Limits(**scalars["limits"]),
        **plain,
    )


def _columns(name: str, table: Table) -> dict[str, npt.NDArray[Any]]:
    """A table's columns by `name.column`."""
    return {f"{name}.{column}": np.ascontiguousarray(table[column]) for column in table.dtype.names or ()}


def _table(kind: np.dtype[Any], name: str, columns: Mapping[str, npt.NDArray[Any]]) -> Table:
    """The table whose columns `_columns` took apart."""
    own = {column: columns[f"{name}.{column}"] for column in kind.names or ()}
    return frozen(rows(kind, len(next(iter(own.values()))), **own))
