from __future__ import annotations

import pytest

from muster.algorithms.fedavgm import Momentum
from worlds.rules import info, vector


def test_three_steps_by_hand():
    # v: 1, 1.9, 0.71;  x: 1, 2.9, 3.61
    params, rule = vector(0.0), Momentum(lr=1.0, beta=0.9)
    opt, seen = rule.init(params), []
    for delta in (1.0, 1.0, -1.0):
        params, opt = rule.apply(params, vector(delta), opt, info())
        seen.append(float(params[0]))
    assert seen == pytest.approx([1.0, 2.9, 3.61], rel=1e-12)
    assert Momentum(lr=0.5).apply(vector(0.0), vector(1.0), {"v": vector(0.0)}, info())[0] == [0.5]
