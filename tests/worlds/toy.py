"""Toy data, and learners that take no gradient: what the planes do is then plain to compute by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from muster.core.algorithm import Local
from muster.core.examples import Examples, Facts
from muster.core.params import ParamSpec
from muster.core.population import Population
from muster.core.randomness import rng
from muster.data.dataset import DataSet, Raw
from muster.data.federated import FederatedData
from muster.data.partition import Natural, Partition
from muster.learn.learner import Learner, Trained

SIZES = (3, 5, 1, 7, 2, 9, 4, 6, 2, 8, 3, 5)
"""Examples of each of twelve clients; one of them has a single one."""
FACTS = Facts("toy", (4,), 3)


def examples(sizes: Sequence[int], seed: int = 0) -> Examples:
    """Three classes around three corners. The first feature is the client's number, divided by 16."""
    draw = rng(seed, "toy data")
    y = draw.integers(0, 3, sum(sizes))
    x = draw.normal(size=(len(y), 4)).astype(np.float32)
    x[np.arange(len(y)), 1 + y] += 2
    x[:, 0] = np.repeat(np.arange(len(sizes)), sizes) / 16
    return Examples(x, y)


def toy_data(sizes: Sequence[int] = SIZES, seed: int = 0) -> FederatedData:
    """Federated data in memory only."""
    train, test = examples(sizes, seed), examples([20], seed + 1)
    offsets = np.r_[0, np.cumsum(sizes)].astype(np.int64)
    arrays = {"x": train.x, "y": train.y, "offsets": offsets, "test_x": test.x, "test_y": test.y}
    return FederatedData(Path("in-memory"), FACTS, (), arrays)


@dataclass(frozen=True)
class Toy(DataSet):
    """The same through the store, for worker processes to map."""

    partition: Partition = field(default_factory=Natural)
    sizes: tuple[int, ...] = SIZES

    def load(self) -> Raw:
        owners = np.repeat(np.arange(len(self.sizes)), self.sizes).astype(np.int32)
        return Raw(FACTS, examples(self.sizes), examples([20], 1), owners)


def toy_population(sizes: Sequence[int] = SIZES) -> Population:
    ones = np.ones(len(sizes), np.float32)
    return Population(np.array(sizes, np.int32), ones, ones, ones)


def client_of(data: Examples) -> int:
    """Whose examples these are."""
    return round(float(data.x[0, 0]) * 16)


@dataclass
class Fixed(Learner):
    """A learner whose update is what the test says, by client; it writes down what it was given."""

    value: Callable[[int], float | np.ndarray] = lambda client: 0.25
    size: int = 32
    spec: ParamSpec = field(init=False)
    calls: list[tuple[int, float]] = field(default_factory=list)
    """(client, first number of the model it was sent) of each task."""

    def __post_init__(self) -> None:
        self.spec = ParamSpec.of([("w", (self.size,), "weight"), ("mean", (16,), "statistic")])

    def initial(self, seed):
        return np.ones(self.spec.size, np.float32)

    def train(self, sent, examples, rng, up, kept, steps=0):
        client = client_of(examples)
        self.calls.append((client, float(sent["model"][0])))
        up[:] = self.value(client)
        return Trained(1, 1.0 + client, (1.0 + client) ** 2)

    def scores(self, params, examples):
        return {"loss": np.full(len(examples), float(np.abs(params).mean()))}


@dataclass
class Wander(Fixed):
    """Updates that depend on all that training may depend on: the model sent, the examples, the key,
    and what the client has kept, which counts its accepted tasks and remembers its last update."""

    keeping: bool = False
    seen: list[tuple[int, int]] = field(default_factory=list)
    """(client, tasks that it remembers) of each task."""

    def train(self, sent, examples, rng, up, kept, steps=0):
        before = kept or {"num_tasks": 0, "last": np.zeros(self.spec.size, np.float32)}
        self.seen.append((client_of(examples), before["num_tasks"]))
        model, delta = sent["model"], up[0]
        up[:] = rng.normal(size=up.shape) / 8 + examples.x.mean() / 4 - model / 16 + before["last"] / 32
        mine = {"num_tasks": before["num_tasks"] + 1, "last": delta.copy()} if self.keeping else None
        return Trained(1, float(np.abs(delta).mean()), float(np.square(delta).mean()), mine)


@dataclass(frozen=True)
class Keeps(Local):
    """SGD for clients that have lasting state."""

    keeps: ClassVar[bool] = True
    lr: float = 0.1

    def step(self, params, gradient, sent, memory):
        return params - self.lr * gradient, memory
