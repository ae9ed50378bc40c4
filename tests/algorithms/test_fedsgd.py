from __future__ import annotations

import numpy as np

from muster.algorithms.fedsgd import FullBatch
from muster.core.work import Work


def test_one_step_on_everything():
    work = FullBatch().work(Work(epochs=5, batch_size=10))
    assert work.num_steps(np.array([1, 37])).tolist() == [1, 1]
    assert work.num_trained(np.array([1, 37])).tolist() == [1, 37]
