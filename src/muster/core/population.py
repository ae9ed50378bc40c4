"""Who the clients are (`Population`) and which of them can take work at an instant (`Candidates`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .tables import Ids

Floats: TypeAlias = npt.NDArray[np.float64]


class Availability(Protocol):
    """When clients are online. Stateless: any client, any instant, in any order."""

    def online(self, clients: Ids, at_ns: Ids | int) -> npt.NDArray[np.bool_]:
        """bool[K]: whether each client is online at the instant (one for all, or i64[K])."""
        ...

    def everybody(self, at_ns: int) -> npt.NDArray[np.bool_]:
        """bool[C]: whether each client of the population is online at the instant; a new array."""
        ...

    def online_until(self, clients: Ids, at_ns: Ids | int) -> Ids:
        """i64[K]: the last instant of being online without a break since `at_ns`."""
        ...

    def next_online(self, clients: Ids, at_ns: Ids | int) -> Ids:
        """i64[K]: the first instant >= `at_ns` at which each client is online."""
        ...

    def when(self, n: int, at_ns: int, but: Ids) -> int | None:
        """First instant >= `at_ns` at which `n` clients outside `but` are online; None: never."""
        ...


class Links(Protocol):
    """How long transfers take over links whose speed varies in time. Stateless."""

    def down_ns(self, clients: Ids, at_ns: Ids, bits: float) -> Ids:
        """i64[K] ns that a download of `bits` takes each client, from the instant on."""
        ...

    def up_ns(self, clients: Ids, at_ns: Ids, bits: float | Floats) -> Ids:
        """The same of uploads."""
        ...


@dataclass(frozen=True)
class Foreseen:
    """What the legs of a task are expected to take on each client's device, f64[C] seconds each."""

    load_secs: npt.NDArray[np.float64]
    """Loading the model."""
    step_secs: npt.NDArray[np.float64]
    """One mini-batch step."""
    train_secs: npt.NDArray[np.float64]
    """All that the job's train section asks of one task."""
    send_secs: npt.NDArray[np.float64]
    """Sending the update."""


@dataclass(frozen=True)
class Population:
    """Facts about clients, a column each; a client is a row. Columns may be memory-mapped."""

    num_examples: npt.NDArray[np.int32]  # [C]
    ms_per_example: npt.NDArray[np.float32]  # [C], forward pass of one example
    down_kbps: npt.NDArray[np.float32]  # [C]
    up_kbps: npt.NDArray[np.float32]  # [C]
    availability: Availability | None = None
    """When clients are online; None: always."""
    links: Links | None = None
    """Links that vary in time, of which `down_kbps` and `up_kbps` are the means; None: they do not."""
    memory_mb: npt.NDArray[np.float32] | None = None
    """[C], main memory; None: not known."""
    task_secs: npt.NDArray[np.float64] | None = None
    """[C], what one task of this job is expected to take; None: not known. Only for selects that ask."""
    foreseen: Foreseen | None = None
    """The legs of tasks one by one; None: not known. Only for paces that ask."""

    @property
    def num_clients(self) -> int:
        """C, the number of rows."""
        return len(self.num_examples)


class Candidates(Protocol):
    """The clients that are present at an instant. A view: it lists everybody only for who asks for it."""

    @property
    def num_clients(self) -> int:
        """Size of the population, the absent included."""
        ...

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Up to `k` distinct present clients in random order, none of them in `but`."""
        ...

    def among(self, ids: Ids) -> Ids:
        """Those of `ids` that are present, in the order given."""
        ...

    def everybody(self) -> npt.NDArray[np.bool_]:
        """bool[C]: whether each client is present; a new array."""
        ...

    def when(self, n: int, but: Ids) -> int | None:
        """First instant (ns) at which `n` clients outside `but` are present; None: never."""
        ...

    def sample_in_turn(self, turns: Turns, draw: Draw) -> Ids:
        """What `sample(1, ...)` gives at each of the turns; it ends before the first at which nobody is free.

        Only where several rows are told at once: a shell that tells them one by one need not know the past.
        """
        ...


@dataclass(frozen=True)
class Turns:
    """Instants one after the other: at each a client gets free, then one is drawn and busy from then on."""

    at_ns: Ids  # [K], rising
    freed: Ids  # [K], clients
    busy: Ids
    """Before the first."""


Draw: TypeAlias = Callable[[int], np.random.Generator]
"""The generator of the i-th turn, at its beginning; it is good until the next call."""


def one_by_one(at: Callable[[int], Candidates], turns: Turns, draw: Draw) -> Ids:
    """`Candidates.sample_in_turn` as it is defined, of the candidates `at` an instant."""
    busy, drawn = set(turns.busy.tolist()), list[int]()
    for turn, (freed, at_ns) in enumerate(zip(turns.freed.tolist(), turns.at_ns.tolist(), strict=True)):
        busy.discard(freed)
        if not len(found := at(at_ns).sample(1, draw(turn), _ids(busy))):
            break
        drawn.append(int(found[0]))
        busy.add(drawn[-1])
    return _ids(drawn)


@dataclass(frozen=True)
class Everyone:
    """Candidates of a world in which every client is always present."""

    num_clients: int
    now_ns: int

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Uniform without replacement, in time and memory that grow with k + len(but) only."""
        wanted = min(self.num_clients, k + len(but))
        drawn = rng.choice(self.num_clients, wanted, replace=False)
        return drawn[~within(drawn, but)][:k] if len(but) else drawn[:k]

    def among(self, ids: Ids) -> Ids:
        """All of them."""
        return ids

    def everybody(self) -> npt.NDArray[np.bool_]:
        """All true."""
        return np.ones(self.num_clients, bool)

    def when(self, n: int, but: Ids) -> int | None:
        """Now, if there are enough clients at all."""
        return self.now_ns if n <= self.num_clients - len(but) else None

    def sample_in_turn(self, turns: Turns, draw: Draw) -> Ids:
        """One by one: the past is as the present."""
        return one_by_one(lambda _: self, turns, draw)


@dataclass(frozen=True)
class Online:
    """Candidates of a world in which clients come and go."""

    num_clients: int
    now_ns: int
    availability: Availability

    def sample(self, k: int, rng: np.random.Generator, but: Ids) -> Ids:
        """Uniform without replacement: draws from everybody, of which it keeps whom it may.

        The first k that are kept of a row of independent draws are a uniform sample in random order. When so
        few are online that this takes more draws than there are clients, it looks at everybody once;
        that is as uniform, since when it happens does not depend on who was drawn.
        """
        found = np.zeros(0, np.int64)
        num_drawn, batch = 0, 4 * k + FIRST
        while k > 0 and num_drawn + batch <= self.num_clients:
            able = self.among(rng.integers(0, self.num_clients, batch))
            able = able[~within(able, but)]
            found = able if len(found) == 0 else np.concatenate([found, able])
            if k > 1:
                found = _first(found)
            if len(found) >= k:
                return found[:k]
            num_drawn += batch
            missing = k - len(found)
            batch = FIRST + 5 * missing * num_drawn // (4 * max(len(found), 1))
        able = self.among(np.arange(self.num_clients))
        able = able[~within(able, but)]
        return rng.choice(able, min(k, len(able)), replace=False)

    def among(self, ids: Ids) -> Ids:
        """Those that are online, in the order given."""
        return ids[self.availability.online(ids, self.now_ns)]

    def everybody(self) -> npt.NDArray[np.bool_]:
        """Who is online."""
        return self.availability.everybody(self.now_ns)

    def when(self, n: int, but: Ids) -> int | None:
        """The first instant at which so many are online; exact."""
        return self.availability.when(n, self.now_ns, but)

    def sample_in_turn(self, turns: Turns, draw: Draw) -> Ids:
        """All that `sample` would ask first are asked at once, each whether it was online at its turn."""
        count = FIRST + 4 if self.num_clients >= FIRST + 4 else 0
        asked = np.array(
            [draw(turn).integers(0, self.num_clients, count) for turn in range(len(turns.at_ns))]
        )
        asked = asked.astype(np.int64, copy=False)
        online = self.availability.online(asked.ravel(), np.repeat(turns.at_ns, count)).reshape(asked.shape)
        busy, drawn = set(turns.busy.tolist()), list[int]()
        for turn, (freed, at_ns) in enumerate(zip(turns.freed.tolist(), turns.at_ns.tolist(), strict=True)):
            busy.discard(freed)
            able = asked[turn, online[turn]].tolist()
            found = next((client for client in able if client not in busy), None)
            if found is None:
                more = replace(self, now_ns=at_ns).sample(1, draw(turn), _ids(busy))
                if not len(more):
                    break
                found = int(more[0])
            drawn.append(found)
            busy.add(found)
        return _ids(drawn)


FIRST = 28
"""Independent draws beyond four for each wanted client, at first."""

ASK = 8
"""How many times as many as are wanted are asked whether they are present, if those are few."""

DEAR = 8
"""How many times as much it takes to ask one client alone as together with everybody."""

SMALL = 65_536
"""Pairs that are compared one with the other rather than sorted."""

SPARSE = 256
"""Flags a looked-up id that a table may have before sorting is cheaper."""


def within(ids: Ids, others: Ids) -> npt.NDArray[np.bool_]:
    """bool[K]: which of `ids` are in `others`."""
    if len(ids) * len(others) <= SMALL:
        return np.asarray((ids[:, None] == others).any(axis=1))
    few = int(others.max()) - int(others.min()) < SPARSE * len(ids)  # then a table of flags is the fastest
    return np.isin(ids, others, kind="table" if few else "sort")


def _ids(clients: Collection[int]) -> Ids:
    return np.fromiter(clients, np.int64, len(clients))


def exponentials(weights: Floats, rng: np.random.Generator) -> Floats:
    """f64[M]: exponential times with rates `weights`. Who comes first has been drawn first.

    P. Efraimidis, P. Spirakis: Weighted random sampling with a reservoir, IPL 97, 2006: the n smallest are
    drawn one after the other without replacement, each draw proportional to the weights.
    """
    with np.errstate(divide="ignore"):  # a weight of 0, or a number of 0: infinitely late
        times = np.log(rng.random(len(weights)))
        return np.negative(np.divide(times, weights, out=times), out=times)


def repeats(ids: Ids) -> bool:
    """Whether any is there twice."""
    ordered = np.sort(ids)
    return bool((ordered[1:] == ordered[:-1]).any())


def top(scores: Floats, n: int) -> Ids:
    """The places of the `n` largest of `scores` (f64[M]), the largest first; of equals the first."""
    at = _largest(scores, n)
    return at[np.argsort(-scores[at], kind="stable")][:n]


def _largest(scores: Floats, n: int) -> Ids:
    """The places, rising, of the `n` largest of `scores` (f64[M]), and of all that equal the n-th."""
    if n >= len(scores):
        return np.arange(len(scores))
    return np.flatnonzero(scores >= np.partition(scores, len(scores) - n)[len(scores) - n]) if n else _ids([])


def _first(ids: Ids) -> Ids:
    """Each id once, where it came first."""
    places = np.sort(ids << 31 | np.arange(len(ids)))  # by id, then by place: one plain sort is the fastest
    fresh = np.ones(len(ids), bool)
    fresh[1:] = places[1:] >> 31 != places[:-1] >> 31
    return ids[np.sort(places[fresh] & (2**31 - 1))]


@dataclass(frozen=True)
class Free:
    """What a select sees: the candidates less the busy ones."""

    present: Candidates
    busy: Ids

    @property
    def num_clients(self) -> int:
        """Size of the population, the busy and absent included."""
        return self.present.num_clients

    def sample(self, k: int, rng: np.random.Generator) -> Ids:
        """Up to `k` distinct clients that are present and free, in random order."""
        return self.present.sample(k, rng, self.busy)

    def among(self, ids: Ids) -> Ids:
        """Those of `ids` that are present and free, in the order given."""
        if DEAR * len(ids) > self.num_clients:
            return ids[self.everybody()[ids]]
        return self.present.among(ids[~within(ids, self.busy)])

    def best(self, ids: Ids, scores: Floats, n: int) -> Ids:
        """The `n` of `ids` that score highest of those present and free, the best first; of equals the first.

        Args:
            ids: i64[M], distinct.
            scores: f64[M], of each of them.
            n: How many; fewer come if no more are free.

        Of many clients few are asked whether they are present, the best first, if few are wanted.

        """
        few = ASK * n + FIRST
        some = few < len(ids) and DEAR * few <= self.num_clients
        if some:
            asked = _largest(scores, few)
            able = asked[self._there(ids[asked])]
        if not some or len(able) < n:
            able = np.flatnonzero(self._there(ids))
        return ids[able[top(scores[able], n)]]

    def _there(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """bool[K]: which of `ids` are present and free."""
        flags = np.zeros(self.num_clients, bool)
        flags[self.among(ids)] = True
        return flags[ids]

    def everybody(self) -> npt.NDArray[np.bool_]:
        """bool[C]: whether each client is present and free; for a select that ranks all of them."""
        flags = self.present.everybody()
        flags[self.busy] = False
        return flags

    def drawn(self, ids: Ids, weights: Floats, n: int, rng: np.random.Generator) -> Ids:
        """Up to `n` of `ids` that are present and free, one after the other without replacement, each draw
        proportional to `weights` (f64[M] >= 0): see `exponentials`.
        """
        return self.best(ids, -exponentials(weights, rng), n)

    def when(self, n: int) -> int | None:
        """First instant (ns) at which `n` clients are present and not busy now; None: never."""
        return self.present.when(n, self.busy)


@dataclass(frozen=True)
class FreeInTurn:
    """What a select sees that draws one client at each of several instants: its i-th `Free`, one a turn."""

    present: Candidates
    """At the last of them."""
    turns: Turns

    def sample(self, draw: Draw) -> Ids:
        """What `Free.sample(1, ...)` gives at each turn; it ends before the first at which nobody is free."""
        return self.present.sample_in_turn(self.turns, draw)
