from __future__ import annotations

from math import sqrt

import pytest

from muster.algorithms.fedadam import Adam
from worlds.rules import info, vector


def test_two_steps_of_the_paper():
    """v0 = τ² = 1e-6, m0 = 0, no bias correction; Δ = 0.1, then 0."""
    rule = Adam(lr=1.0, beta1=0.9, beta2=0.99, tau=1e-3)
    opt = rule.init(vector(0.0))
    first, opt = rule.apply(vector(0.0), vector(0.1), opt, info())
    # m = 0.01, v = 0.99e-6 + 0.01 x 0.01
    assert opt["m"] == pytest.approx([0.01]) and opt["v"] == pytest.approx([1.0099e-4], rel=1e-12)
    assert first == pytest.approx([0.01 / (sqrt(1.0099e-4) + 1e-3)], rel=1e-12)
    second, opt = rule.apply(first, vector(0.0), opt, info())
    assert opt["v"] == pytest.approx([0.99 * 1.0099e-4], rel=1e-12)
    assert second - first == pytest.approx([0.009 / (sqrt(0.99 * 1.0099e-4) + 1e-3)], rel=1e-12)
