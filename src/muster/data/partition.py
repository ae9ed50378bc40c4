"""Partitions: which client holds which training example.

A partition sees the labels and, where the data set has them, the natural clients; never the inputs.
All are vectorised: a million examples over ten thousand clients take less than a second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError
from muster.core.part import Part


@dataclass(frozen=True)
class Assignment:
    """Client i holds the examples `order[offsets[i]:offsets[i + 1]]`.

    order: i64[M] indices of training examples, each at most once; M may be less than all of them.
    offsets: i64[C + 1], growing from 0 to M.
    """

    order: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    @property
    def num_clients(self) -> int:
        """C, the number of clients."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Examples of each client, i64[C]."""
        return np.diff(self.offsets)

    def examples(self, client: int) -> npt.NDArray[np.int64]:
        """Indices of the examples of one client, a view."""
        return self.order[self.offsets[client] : self.offsets[client + 1]]


class Partition(Part, ABC):
    """Deals the training examples out to clients."""

    @abstractmethod
    def assign(
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        """Which client holds which example.

        Args:
            labels: i64[N], each in 0..num_classes-1.
            num_classes: How many classes there are.
            natural: i32[N] natural client of each example; None if the data set has none.
            rng: The only randomness: the same generator state gives the same assignment.

        Raises:
            UserError: The partition is impossible with these examples.
        """


@dataclass(frozen=True)
class Natural(Partition):
    """The clients that the data set itself has: writers, speakers, roles. Needs natural clients."""

    min_examples: int = 1
    """Clients with fewer training examples are left out."""
    max_clients: int | None = None
    """Keep at most so many clients, drawn at random; all if not given."""

    def __post_init__(self) -> None:
        self.check_number("min_examples", at_least=1)
        self.check_number("max_clients", at_least=1)

    def assign(  # noqa: D102
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        if natural is None:
            raise UserError(
                "partition natural needs a data set with natural clients, and this one has none; "
                "use iid, dirichlet, shards or quantity_skew"
            )
        counts = np.bincount(natural)
        kept = np.flatnonzero(counts >= self.min_examples)
        if len(kept) == 0:
            raise UserError(
                f"natural.min_examples is {self.min_examples}, but the largest client has "
                f"{counts.max(initial=0)} training examples; lower min_examples"
            )
        if self.max_clients is not None and len(kept) > self.max_clients:
            kept = np.sort(rng.choice(kept, self.max_clients, replace=False))
        client_of = np.full(len(counts), -1, np.int64)
        client_of[kept] = np.arange(len(kept))
        clients = client_of[natural]
        return _grouped(np.flatnonzero(clients >= 0), clients[clients >= 0], len(kept))


@dataclass(frozen=True)
class Iid(Partition):
    """Every client holds a random sample of all; sizes differ by one at most."""

    num_clients: int = 100

    def __post_init__(self) -> None:
        self.check_number("num_clients", at_least=1)

    def assign(  # noqa: D102
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        _check_enough(self, len(labels), self.num_clients, 1)
        return Assignment(rng.permutation(len(labels)), _even_offsets(len(labels), self.num_clients))


@dataclass(frozen=True)
class Dirichlet(Partition):
    """Label skew: each class is spread over the clients in proportions drawn from Dir(alpha).

    Every example goes to exactly one client (Yurochkin et al. 2019; Hsu et al. 2019 draw per client
    instead). Where others redraw until every client has enough, which need not end, this draws once
    and repairs: clients short of `min_examples` are filled up with random examples of the largest
    clients, which are all cut down to one level.
    """

    num_clients: int = 100
    alpha: float = 0.5
    """Small: a client sees few classes. Large: all clients look alike."""
    min_examples: int = 1
    """No client gets fewer training examples than this."""

    def __post_init__(self) -> None:
        self.check_number("num_clients", at_least=1)
        self.check_number("alpha", at_least=1e-6, at_most=1e6)
        self.check_number("min_examples", at_least=1)

    def assign(  # noqa: D102
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        _check_enough(self, len(labels), self.num_clients, self.min_examples)
        shuffled = rng.permutation(len(labels))
        by_class = np.argsort(labels[shuffled], kind="stable")
        ends = np.cumsum(np.bincount(labels, minlength=num_classes))
        clients = np.empty(len(labels), np.int64)
        concentration = np.full(self.num_clients, self.alpha)
        for members in np.split(by_class, ends[:-1]):
            cuts = np.rint(np.cumsum(rng.dirichlet(concentration)) * len(members))
            cuts[-1] = len(members)  # rounding of the running sum must not lose the last example
            clients[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
        return _grouped(
            shuffled, _filled_up(clients, self.num_clients, self.min_examples, rng), self.num_clients
        )


@dataclass(frozen=True)
class Shards(Partition):
    """Label skew: sorted by label, cut into equal shards, a few random shards to each client.

    The pathological split of McMahan et al. 2017 (two shards a client). Shard sizes differ by one
    where they do not divide the examples, so that none is left over.
    """

    num_clients: int = 100
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        self.check_number("num_clients", at_least=1)
        self.check_number("shards_per_client", at_least=1)

    def assign(  # noqa: D102
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        _check_enough(self, len(labels), self.num_clients, self.shards_per_client)
        num_shards = self.num_clients * self.shards_per_client
        shuffled = rng.permutation(len(labels))
        by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
        owner_of_shard = rng.permutation(num_shards) // self.shards_per_client
        owners = np.repeat(owner_of_shard, np.diff(_even_offsets(len(labels), num_shards)))
        return _grouped(by_label, owners, self.num_clients)


@dataclass(frozen=True)
class QuantitySkew(Partition):
    """Size skew: log-normal numbers of examples, labels alike. Every client has one at least."""

    num_clients: int = 100
    sigma: float = 1.0
    """Standard deviation of the logarithm of a client's size; 0 gives equal sizes."""

    def __post_init__(self) -> None:
        self.check_number("num_clients", at_least=1)
        self.check_number("sigma", at_least=0, at_most=1e6)

    def assign(  # noqa: D102
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        _check_enough(self, len(labels), self.num_clients, 1)
        logs = self.sigma * rng.standard_normal(self.num_clients)
        weights = np.exp(logs - logs.max())
        spare = len(labels) - self.num_clients
        wanted = weights / weights.sum() * spare
        sizes = np.floor(wanted).astype(np.int64)
        # Largest remainders first, so that the sizes add up to all examples.
        largest = np.argsort(sizes - wanted, kind="stable")
        sizes[largest[: spare - sizes.sum()]] += 1
        return Assignment(rng.permutation(len(labels)), _offsets(sizes + 1))


def _check_enough(part: Partition, num_examples: int, num_clients: int, each: int) -> None:
    if num_examples < num_clients * each:
        raise UserError(
            f"partition {part.part_name()} asks for {num_clients} clients with at least {each} of the "
            f"training examples each, but there are only {num_examples} examples; "
            f"use at most {num_examples // each} clients"
        )


def _offsets(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _even_offsets(total: int, parts: int) -> npt.NDArray[np.int64]:
    return np.arange(parts + 1, dtype=np.int64) * total // parts


def _grouped(examples: npt.NDArray[np.int64], clients: npt.NDArray[np.int64], num_clients: int) -> Assignment:
    """Examples i64[M] with the client i64[M] of each, put together by client, order kept within."""
    order = examples[np.argsort(clients, kind="stable")]
    return Assignment(order, _offsets(np.bincount(clients, minlength=num_clients)))


def _filled_up(
    clients: npt.NDArray[np.int64], num_clients: int, floor: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """The clients i64[M] of shuffled examples, changed so that each client has `floor` at least."""
    sizes = np.bincount(clients, minlength=num_clients)
    missing = np.maximum(floor - sizes, 0)
    if not missing.any():
        return clients
    low, high = floor, int(sizes.max())  # the highest level that frees enough
    while low < high:
        level = (low + high + 1) // 2
        if np.maximum(sizes - level, 0).sum() >= missing.sum():
            low = level
        else:
            high = level - 1
    given = np.maximum(sizes - low, 0)
    too_many = int(given.sum() - missing.sum())
    given[np.flatnonzero(given)[:too_many]] -= 1

    by_client = np.argsort(clients, kind="stable")
    rank = np.arange(len(clients)) - np.repeat(_offsets(sizes)[:-1], sizes)
    moved = by_client[rank >= np.repeat(sizes - given, sizes)]
    repaired = clients.copy()
    repaired[rng.permutation(moved)] = np.repeat(np.arange(num_clients), missing)
    return repaired
