from __future__ import annotations

import pytest

from muster.algorithms.ditto import Beside
from worlds.rules import train, vector


def test_both_models_by_hand():
    # shared: 1 - 0.1 x 2 = 0.8.  own: 0.5 - 0.1 x (2 + 1 x (0.5 - 1)) = 0.35
    params, _, kept = train(Beside(lr=0.1, pull=1.0), [1.0], [2.0, 2.0], {"own": vector(0.5)})
    assert params == pytest.approx([0.8]) and kept["own"] == pytest.approx([0.35])


def test_the_own_model_begins_as_the_one_sent_and_goes_on():
    local = Beside(lr=0.1, pull=0.0)
    params, _, kept = train(local, [1.0], [2.0, 4.0])
    assert params == pytest.approx([0.8]) and kept["own"] == pytest.approx([0.6])
    _, _, kept = train(local, [9.0], [2.0, 4.0], kept)
    assert kept["own"] == pytest.approx([0.2])
    assert local.own(vector(9.0), kept) is kept["own"]


def test_momentum_of_one_model_does_not_push_the_other():
    params, _, kept = train(Beside(lr=0.1, pull=0.0, momentum=0.9), [1.0], [2.0, 1.0])
    assert params == pytest.approx([0.8]) and kept["own"] == pytest.approx([0.9])
