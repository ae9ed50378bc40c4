from __future__ import annotations

import pytest

from muster.algorithms.pfedme import Envelope
from worlds.rules import train


def test_one_batch_by_hand():
    # θ: 1 - 0.1 x 1 = 0.9;  0.9 - 0.1 x (1 + 2 x (0.9 - 1)) = 0.82.  w: 1 - 0.25 x 2 x (1 - 0.82) = 0.91
    local = Envelope(lr=0.1, lr_outer=0.25, pull=2.0, repeats=2)
    params, _, kept = train(local, [1.0], [1.0, 1.0])
    assert params == pytest.approx([0.91], rel=1e-12) and kept["own"] == pytest.approx([0.82], rel=1e-12)


def test_the_next_batch_goes_on_from_both():
    # θ: 0.82 - 0.1 x (0 + 2 x (0.82 - 0.91)) = 0.838;  w: 0.91 - 0.5 x (0.91 - 0.838) = 0.874
    local = Envelope(lr=0.1, lr_outer=0.25, pull=2.0, repeats=2)
    params, _, kept = train(local, [1.0], [1.0, 1.0, 0.0, 0.0])
    # the second inner step: 0.838 - 0.1 x 2 x (0.838 - 0.91) = 0.8524; w: 0.91 - 0.5 x 0.0576 = 0.8812
    assert kept["own"] == pytest.approx([0.8524], rel=1e-12) and params == pytest.approx([0.8812], rel=1e-12)
