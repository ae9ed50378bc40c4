from __future__ import annotations

import numpy as np

from muster.algorithms.ssgd import OneBatch, ssgd
from muster.core.work import Work
from worlds.rules import reports


def test_one_mini_batch():
    work = OneBatch().work(Work(epochs=5, batch_size=10))
    assert work.num_steps(np.array([1, 37])).tolist() == [1, 1]
    assert work.num_trained(np.array([4, 37])).tolist() == [4, 10]


def test_workers_count_alike():
    assert ssgd().combine.weights(reports(2, num_examples=[1, 9])).tolist() == [1.0, 1.0]
