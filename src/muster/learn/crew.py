"""Who does the training: this process (here), or a pool of spawned ones (pool.py). The bits are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from muster.core.examples import Examples
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.sums import FixedPointSum
from muster.core.tables import Ids, Table
from muster.data.federated import FederatedData

from .accumulator import Folding
from .device import device_of
from .learner import Scores, Sent
from .learners import make_learner
from .numerics import Numerics
from .shares import Shares
from .states import Learnt
from .stopwatch import LEARNER, Stopwatch, watched
from .trainer import Trainer

SPAN = 1000
"""Test examples that a worker evaluates in one go."""

Kept = Mapping[int, bytes]
"""Client -> encoded lasting state."""

NOWHERE = -1
"""In place of a row of TASK: none is being trained."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker process needs to build its trainer; goes through JSON."""

    backend: str
    model: Any
    task: Any
    local: Any
    work: Any
    folding: Folding
    data: str
    """Path of the prepared data."""
    chunk: int = 0
    """How many clients train together; 0: one after another."""
    numerics: Numerics = field(default_factory=Numerics)
    watched: bool = False
    """Whether workers take their times."""
    sample: int = 0
    """Test examples that are evaluated; 0: all."""
    share: int = 0
    """Test examples of each client, where clients are evaluated one by one."""

    def of(self, worker: int) -> Recipe:
        """That of one worker of several: its device."""
        device = device_of(self.numerics.device, worker)
        return replace(self, numerics=self.numerics.on(device))

    def trainer(self, total: Any = None, watch: Stopwatch | None = None) -> Trainer:
        """A trainer of its own, summing into `total` (i64[U · size]) if it is given."""
        data = FederatedData.open(Path(self.data))
        parts = (self.model, self.task, data.facts, self.local, self.work)
        learner = make_learner(self.backend, *parts, self.numerics, self.chunk)
        size = len(self.local.up) * learner.spec.size
        total = FixedPointSum(size, self.folding.scale, total)
        learner = watched(learner, watch, **LEARNER)
        return Trainer(learner, data, self.folding, total, self.chunk, in_place=True)


class Total(Protocol):
    """A weighted sum of updates."""

    def take(self, divisor: float) -> Vector:
        """The sum over `divisor`, f32[U * size]; what it was made of may be gone afterwards."""
        ...


@runtime_checkable
class InParts(Protocol):
    """A crew whose sum can be had part by part."""

    @property
    def by_blocks(self) -> bool:
        """Whether it can, under the rules of this run."""
        ...

    def part(self, number: int, part: slice, divisor: float) -> Vector:
        """Of the mean of vector `number` of those that go up, the elements `part`, f32."""
        ...


class Crew(Protocol):
    """Trains tasks and adds up their updates."""

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """Trains TASK rows, no client twice and the longest first; returns REPORT rows in their order, and
        new states.

        `sent` is what travelled with each version, `now` what the combination's rule may look at.
        """
        ...

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """MEASURED rows of TASK rows, in their order: how good the model sent is on a client's examples."""
        ...

    def evaluate(self, version: int, params: Vector) -> Mapping[str, float]:
        """Means of the metrics of model `params` over all test examples, or over the sample.

        What is returned may become known later; whoever looks at it waits.
        """
        ...

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """Means of the metrics over each client's share of the test examples, f64[K]; see `Shares`.

        As with `evaluate` they may become known later.
        """
        ...

    def total(self) -> Total:
        """The sum of all updates trained since `clear`."""
        ...

    def clear(self) -> None:
        """Starts the sum again from zero."""
        ...

    def peaks(self) -> tuple[int, ...]:
        """Peak RSS of each worker in bytes, this process not counted."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


class Inline:
    """Training in this process.

    Args:
        trainer: Trains and evaluates.
        sample: Test examples that are evaluated; 0: all.
        share: Test examples of each client, where clients are evaluated one by one.

    """

    def __init__(self, trainer: Trainer, sample: int = 0, share: int = 0) -> None:
        self._trainer, self._test = trainer, examined(trainer, sample)
        self._shares = Shares(trainer, share)
        self._at = np.full(1, NOWHERE)

    def train(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], kept: Kept, now: Sent
    ) -> tuple[Table, dict[int, bytes]]:
        """One task after another, or one chunk."""
        return self._trainer.train(tasks, np.asarray(staleness), sent, kept, now, self._at)

    @property
    def together(self) -> int:
        """A chunk."""
        return max(self._trainer.chunk, 1)

    def learn(self, tasks: Table, sent: Mapping[int, Sent]) -> list[Learnt]:
        """One chunk after another."""
        return self._trainer.learn(tasks, sent, self._at)

    def fold(
        self, tasks: Table, staleness: Ids, sent: Mapping[int, Sent], learnt: Sequence[Learnt], now: Sent
    ) -> Table:
        """Into the trainer's own sum."""
        return self._trainer.fold_learnt(tasks, staleness, sent, learnt, now)

    def measure(self, tasks: Table, sent: Mapping[int, Sent], kept: Kept) -> Table:
        """One client after another, or one chunk."""
        return self._trainer.measure(tasks, sent, kept, self._at)

    def evaluate(self, version: int, params: Vector) -> dict[str, float]:
        """One span of test examples after another."""
        test = self._test
        sums = [evaluate_span(self._trainer, params, test, span) for span in spans(len(test))]
        return mean(sums, len(test))

    def evaluate_each(self, version: int, params: Vector, clients: Ids, kept: Kept) -> Scores:
        """All of them side by side."""
        return self._shares.measure(params, clients, kept)

    def total(self) -> FixedPointSum:
        """The trainer's own sum."""
        return self._trainer.total

    def clear(self) -> None:
        """Zeroes it."""
        self._trainer.total.clear()

    def peaks(self) -> tuple[int, ...]:
        """Nothing beside this process."""
        return ()

    def close(self) -> None:
        """Nothing to end."""


def chunks(count: int, size: int) -> list[slice]:
    """Tasks in chunks of `size`; they come with those that take most steps first."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def kept_of(kept: Kept, clients: Ids) -> Kept:
    """What these clients have kept."""
    if not kept:
        return kept
    return {client: kept[client] for client in clients.tolist() if client in kept}


def spans(count: int) -> list[slice]:
    """Test examples in fixed spans: the same sums, whoever evaluates which."""
    return [slice(start, min(start + SPAN, count)) for start in range(0, count, SPAN)]


def examined(trainer: Trainer, sample: int) -> Examples:
    """The test examples that are evaluated: all, or so many, drawn by the seed."""
    test = trainer.data.test
    if not 0 < sample < len(test):
        return test
    index = np.sort(rng(trainer.folding.seed, "test sample").choice(len(test), sample, replace=False))
    return Examples(test.x[index], test.y[index], test.text)


def evaluate_span(trainer: Trainer, params: Vector, test: Examples, span: slice) -> dict[str, float]:
    """Sums of the metrics over a span of the test examples."""
    part = test.slice(span.start, span.stop)
    means = {**trainer.learner.evaluate(params, part), **trainer.uploads.reached(params, part)}
    return {name: mean * len(part) for name, mean in means.items()}


def mean(sums: Sequence[Mapping[str, float]], count: int) -> dict[str, float]:
    """Means over `count` examples from the spans' sums."""
    names = sums[0] if sums else {}
    return {name: math.fsum(part[name] for part in sums) / count for name in names}
