"""How much a client trains in one task, and in which order it sees its examples."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Callable, Iterator, Sequence, TypeAlias

import numpy as np
import numpy.typing as npt

from .part import Part

Batch: TypeAlias = npt.NDArray[np.int64]
"""The examples of a step, by number."""


@dataclass(frozen=True)
class Steps:
    """The steps of a task of which it is not settled beforehand whether all are made."""

    num_steps: int | None
    """At most so many, 0: as the job's work says; None: that is not known."""
    another: Callable[[int], bool]
    """Asked before each step, with the number of steps made: whether there is another. It may wait."""


@dataclass(frozen=True)
class Work(Part):
    """One task's local training: passes over the client's examples, or a number of mini-batch steps.

    A client with fewer examples than a batch trains on what it has; the last, short batch of an
    epoch is kept. Steps go on into the next epoch, freshly shuffled.
    """

    epochs: int = 1
    """Passes over the client's examples. Ignored when `steps` is given."""
    steps: int | None = None
    """Mini-batch steps instead of epochs."""
    batch_size: int = 20
    """Examples a step; 0 is one full batch of all the client's examples."""

    def __post_init__(self) -> None:
        self.check_number("epochs", at_least=1, at_most=1_000_000)
        self.check_number("steps", at_least=1, at_most=1_000_000_000)
        self.check_number("batch_size", at_least=0, at_most=1_000_000_000)

    def batches_per_epoch(self, num_examples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Steps that one pass takes, for each of `num_examples` (i64[K])."""
        size = np.maximum(num_examples, 1) if self.batch_size == 0 else self.batch_size
        return np.asarray(-(-num_examples // size), np.int64)

    def num_steps(
        self, num_examples: npt.NDArray[np.int64], asked: npt.NDArray[np.int32] | int = 0
    ) -> npt.NDArray[np.int64]:
        """SGD steps of one task, for clients with `num_examples` (i64[K]) examples.

        `asked` (TASK's `steps`, one for all or one each) goes before this section's own where it is not 0.
        """
        own = self.epochs * self.batches_per_epoch(num_examples) if self.steps is None else self.steps
        steps = (asked or own) if isinstance(asked, int) else np.where(asked > 0, asked, own)
        return np.asarray(np.where(num_examples > 0, steps, 0), np.int64)

    def num_trained(
        self, num_examples: npt.NDArray[np.int64], asked: npt.NDArray[np.int32] | int = 0
    ) -> npt.NDArray[np.int64]:
        """Examples that one task goes through (with repetition), for each of `num_examples`."""
        if self.steps is None and isinstance(asked, int) and not asked:
            return self.epochs * np.asarray(num_examples, np.int64)
        per_epoch = np.maximum(self.batches_per_epoch(num_examples), 1)
        whole, rest = np.divmod(self.num_steps(num_examples, asked), per_epoch)
        batch = num_examples if self.batch_size == 0 else self.batch_size
        return np.asarray(whole * num_examples + np.minimum(rest * batch, num_examples), np.int64)

    def shuffles(
        self, num_examples: int, rng: np.random.Generator, asked: int = 0
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yields the order in which each pass goes through the examples; the last may end early.

        `asked` is the number of steps if the task has one of its own (TASK's `steps`), else 0.
        """
        size = self.batch_size or max(num_examples, 1)
        a_pass = -(-num_examples // size)
        left = asked or (self.epochs * a_pass if self.steps is None else self.steps)
        while left > 0 and num_examples > 0:
            order = rng.permutation(num_examples)
            yield order if left >= a_pass else order[: left * size]
            left -= a_pass

    def plan(
        self, num_examples: int, rng: np.random.Generator, asked: int | Steps = 0
    ) -> Sequence[Batch] | Stepwise:
        """The batches of a task, `Stepwise` if somebody is to be asked. Without examples there are none.

        Of a task without a number of steps they are drawn one by one, the same as for any number; `rng` stays
        as it is then, so what else is drawn from it (dropout) is not that of a task whose end is known.
        """
        if isinstance(asked, int):
            return list(self.batches(num_examples, rng, asked))
        if asked.num_steps is not None:
            return Stepwise(iter(list(self.batches(num_examples, rng, asked.num_steps))), asked.another)
        endless = self.batches(num_examples, deepcopy(rng), ENDLESS) if num_examples else iter(())
        return Stepwise(endless, asked.another)

    def batches(
        self, num_examples: int, rng: np.random.Generator, asked: int = 0
    ) -> Iterator[npt.NDArray[np.int64]]:
        """Yields the example indices of each step in turn: i64[<= batch_size], shuffled every epoch.

        `asked` is the number of steps if the task has one of its own (TASK's `steps`), else 0.
        """
        size = self.batch_size or max(num_examples, 1)
        for order in self.shuffles(num_examples, rng, asked):
            for start in range(0, len(order), size):
                yield order[start : start + size]


ENDLESS = 1 << 62
"""Steps of a task that ends when it is told to."""


class Stepwise:
    """Batches that are drawn while others are trained on; the second time they are gone through as they were.

    Args:
        batches: Where they come from.
        another: Whether there is to be one more.

    """

    def __init__(self, batches: Iterator[Batch], another: Callable[[int], bool]) -> None:
        self._batches, self._another = batches, another
        self._drawn: list[Batch] = []
        self._ended = False

    def __iter__(self) -> Iterator[Batch]:
        yield from self._drawn
        while not self._ended:
            batch = next(self._batches, None) if self._another(len(self._drawn)) else None
            if batch is None:
                self._ended = True
                return
            self._drawn.append(batch)
            yield batch

    def __len__(self) -> int:
        """As many as have been drawn so far."""
        return len(self._drawn)
