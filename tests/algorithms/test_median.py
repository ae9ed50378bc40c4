from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.median import Median
from worlds.rig import Rig, small
from worlds.toy import Fixed


def test_the_middle_and_the_mean_of_two_in_the_middle():
    fold = lambda *rows: Median().fold(np.array(rows, np.float32), np.ones(len(rows))).tolist()  # noqa: E731
    assert fold([1, -9], [5, 0], [2, 100]) == [2.0, 0.0]
    assert fold([1, 4], [2, 3], [4, 2], [9, 1]) == [3.0, 2.5]
    assert fold([7, 8]) == [7.0, 8.0]


def test_torch_arrays_too():
    torch = pytest.importorskip("torch")
    assert Median().fold(torch.tensor([[1.0], [2.0], [4.0], [9.0]]), np.ones(4)).tolist() == [3.0]


def test_liars_below_half_do_not_move_it():
    rig = Rig(small("median", cohort=5), make_learner=lambda: Fixed(lambda c: -1000.0 if c < 2 else 0.5))
    table = [rig.plane.spec.zeros() + value for value in (-1000, -1000, 0.5, 0.5, 0.5)]
    assert Median().fold(np.array(table), np.ones(5)).tolist() == [0.5] * rig.plane.spec.size
