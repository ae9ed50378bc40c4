"""Cohorts of clients, whatever computes them: who trains when, on which examples, and what comes of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local, Vectors
from muster.core.examples import Examples
from muster.core.randomness import Draws
from muster.core.work import Work

from .descent import to_arrays
from .learner import CohortLearner, Matrix, Sent, Stack, Together


class TrainsTogether(CohortLearner):
    """What is the same for every cohort; how it descends is its own."""

    _local: Local
    _work: Work

    def train_together(
        self,
        sent: Sent,
        examples: Examples,
        owned: Sequence[slice],
        draws: Draws,
        up: Stack,
        kept: Sequence[Mapping[str, Any] | None],
        steps: npt.NDArray[np.int64],
    ) -> Together:
        """Trains K clients as one program; see `CohortLearner`. Clients without examples train nothing."""
        starts, ends = np.array([(own.start, own.stop) for own in owned], np.int64).reshape(-1, 2).T
        counts = self._work.num_steps(ends - starts, steps.astype(np.int32))
        order = np.argsort(-counts, kind="stable")
        order = order[counts[order] > 0]
        lasting: list[Mapping[str, Any] | None] = [None] * len(owned)
        means, squares = np.zeros(len(owned)), np.zeros(len(owned))
        if len(order) < len(owned):
            up[counts == 0] = 0
        if not len(order):
            return Together(counts, means, squares, lasting)
        where = slice(len(order)) if (order == np.arange(len(order))).all() else order  # views, if it may be
        local, count = self._local, len(order)
        received = {  # one vector seen many times stays one
            name: vector[:count] if vector.strides[0] == 0 else vector[where] for name, vector in sent.items()
        }
        sizes, mine = (ends - starts)[order], Draws(draws.keys[order])
        index, filled = self._schedule(sizes, mine, steps[order], counts[order])
        index += starts[order, None, None]
        before = [kept[i] for i in order.tolist()]
        delta = up[where, 0]
        ups, state, losses = self._descended(received, before, examples, index, filled, delta)
        if not isinstance(where, slice):  # it is a copy then
            up[where, 0] = delta
        for row, name in enumerate(local.up[1:], start=1):
            vectors = ups[name]
            up[where, row, : vectors.shape[-1]] = vectors
            up[where, row, vectors.shape[-1] :] = 0
        means[where], squares[where] = _means(losses, filled)
        if local.keeps:
            for place, i in enumerate(order.tolist()):
                lasting[i] = to_arrays({name: vectors[place] for name, vectors in state.items()})
        return Together(counts, means, squares, lasting)

    @abstractmethod
    def _descended(
        self,
        received: Vectors,
        before: Sequence[Vectors | None],
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
        delta: Matrix,
    ) -> tuple[Vectors, Vectors, list[tuple[int, npt.NDArray[Any]]]]:
        """Trains K clients, sorted by falling numbers of steps.

        Args:
            received: What each was sent, f32[K, n] by name.
            before: What each has kept.
            examples: Of all clients.
            index: i64[K, T, B], the examples of each batch.
            filled: i64[K, T], how many of them are real; 0 after a client's last step.
            delta: Where trained - sent is left, f32[K, size].

        Returns:
            The other vectors that go up and the lasting states, [K, n] by name; and each step's number and
            losses, f32[<= K, B].

        """

    def _schedule(
        self,
        sizes: npt.NDArray[np.int64],
        draws: Draws,
        steps: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The examples of each batch by number, i64[K, T, B], of which the first i64[K, T] are real."""
        size = self._work.batch_size or int(sizes.max())
        most, passes = int(counts.max()), self._work.batches_per_epoch(sizes)
        index = np.zeros((len(sizes), most * size), np.int64)  # 0 fills a short batch up: its slope is zero
        self._shuffle(index, sizes, draws, steps, passes * size)
        number = np.arange(most)
        filled = np.minimum(sizes[:, None] - number % passes[:, None] * size, size)
        return index.reshape(len(sizes), most, size), filled * (number < counts[:, None])

    def _shuffle(
        self,
        index: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        draws: Draws,
        steps: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        """Writes the orders of each client's passes into its row of `index`, which begin every `lengths`."""
        each = zip(index, sizes.tolist(), steps.tolist(), lengths.tolist(), strict=True)
        for i, (row, num_examples, asked, length) in enumerate(each):
            for number, shuffle in enumerate(self._work.shuffles(num_examples, draws[i], asked)):
                row[number * length : number * length + len(shuffle)] = shuffle


def _means(
    losses: Sequence[tuple[int, npt.NDArray[Any]]], filled: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means of each client's losses and of their squares, f64[K], from those of each step."""
    sums, squares, counts = (np.zeros(len(filled)) for _ in range(3))
    for number, each in losses:
        real = filled[: len(each), number]
        found = np.where(np.arange(each.shape[-1]) < real[:, None], each, 0).astype(np.float64)
        sums[: len(each)] += found.sum(-1)
        squares[: len(each)] += np.square(found).sum(-1)
        counts[: len(each)] += real
    return sums / counts, squares / counts
