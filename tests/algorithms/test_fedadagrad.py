from __future__ import annotations

from math import sqrt

import pytest

from muster.algorithms.fedadagrad import Adagrad, fedadagrad
from worlds.rules import info, vector


def test_two_steps_of_the_paper():
    """v0 = τ² = 1e-6; Δ = 0.1, then -0.2."""
    rule = Adagrad(lr=1.0, tau=1e-3)
    first, opt = rule.apply(vector(0.0), vector(0.1), rule.init(vector(0.0)), info())
    assert opt["v"] == pytest.approx([0.010001], rel=1e-12)
    assert first == pytest.approx([0.1 / (sqrt(0.010001) + 1e-3)], rel=1e-12)
    second, opt = rule.apply(first, vector(-0.2), opt, info())
    assert opt["v"] == pytest.approx([0.050001], rel=1e-12)
    assert second - first == pytest.approx([-0.2 / (sqrt(0.050001) + 1e-3)], rel=1e-12)


def test_the_papers_default_has_no_momentum():
    assert fedadagrad().server.beta1 == 0.0
