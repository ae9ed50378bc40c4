"""Compiled loops against NumPy: shuffles and sums to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.randomness import keys, rng
from muster.core.sums import LIMIT, FixedPointSum
from muster.core.work import Work

pytest.importorskip("numba")
from muster.learn import kernels
from muster.learn.numba_learner import CompiledPasses
from muster.learn.passes import Passes


@pytest.mark.parametrize("work", [Work(epochs=3, batch_size=4), Work(steps=7, batch_size=4)])
def test_shuffles_are_those_of_numpy(work):
    sizes = np.array([1, 2, 3, 4, 5, 8, 9, 16, 17, 100])
    counts = work.num_steps(sizes)
    index = np.full((len(sizes), 4 * int(counts.max())), -1)
    numbers = range(len(sizes))
    kernels.shuffle(index, keys(5, "train", numbers, numbers), sizes, counts, 4)
    for i, size in enumerate(sizes.tolist()):
        batches = list(work.batches(size, rng(5, "train", i, i)))
        rows = index[i].reshape(-1, 4)[: len(batches)]
        for row, batch in zip(rows, batches, strict=True):
            assert row[: len(batch)].tolist() == batch.tolist()


@pytest.mark.parametrize("largest", [1.0, LIMIT])
def test_passes_are_those_of_numpy(largest):
    draw = rng(0, "passes")
    vectors = draw.normal(size=(7, 3001)).astype(np.float32)
    vectors *= np.float32(largest) / np.abs(vectors).max()
    weights = np.array([0.0, 1.0, 0.5, 1 / 3, 1e-9, 0.9, 2 / 3])
    plain, compiled = Passes(), CompiledPasses()
    totals = []
    for passes in (plain, compiled):
        total = FixedPointSum(3001, 45)
        total.total[:] = np.arange(3001) << 40
        for _ in range(2):
            passes.add(total, vectors, weights, largest)
        totals.append(total.total)
    assert (totals[0] == totals[1]).all()
    assert (plain.extremes(vectors) == compiled.extremes(vectors)).all()
    np.testing.assert_allclose(compiled.norms(vectors[:, :3000]), plain.norms(vectors[:, :3000]), rtol=1e-14)


def test_what_is_not_finite_is_seen():
    vectors = np.ones((4, 40), np.float32)
    vectors[0, 7], vectors[1, 7], vectors[2, 7] = np.nan, -np.inf, -3.0
    vectors[0, 8] = np.inf
    found = CompiledPasses().extremes(vectors)
    assert np.array_equal(found, [np.nan, np.inf, 3.0, 1.0], equal_nan=True)
    norms = CompiledPasses().norms(vectors)
    assert np.isnan(norms[0]) and np.isinf(norms[1]) and np.isfinite(norms[2:]).all()
