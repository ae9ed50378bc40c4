from __future__ import annotations

import pytest

from muster.algorithms.fedrep import HeadThenBody
from worlds.rules import train


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_first_the_head_then_the_body(momentum):
    """(body, head); two batches, gone through twice. Momentum of 0.9: 1 + 1.9 steps, not four."""
    local = HeadThenBody(lr=0.1, momentum=momentum)
    params, _, _ = train(local, [5.0, 7.0], [[100, 1], [100, 1], [1, 100], [1, 100]], personal=[0.0, 1.0])
    moved = 0.1 * (2 + momentum)
    assert params == pytest.approx([5 - moved, 7 - moved], rel=1e-12)
