from __future__ import annotations

import pytest

from muster.algorithms.norm_bound import Bounded
from worlds.rig import Rig, small
from worlds.rules import reports, vector
from worlds.toy import Fixed


def test_a_long_update_is_cut_to_the_bound_and_a_short_one_stays():
    rule = Bounded(max_norm=2.5)
    long = reports(1, norm=5.0)[0]
    assert rule.shift({"delta": vector(3, 4)}, {}, {}, long, {})[0]["delta"] == pytest.approx([1.5, 2.0])
    assert rule.shift({"delta": vector(0.3, 0.4)}, {}, {}, reports(1, norm=0.5)[0], {}) == ({}, {})


def test_in_a_run_the_mean_is_no_longer_than_the_bound():
    """32 coordinates of 10 are cut to norm 1; the buffers are no parameters, and are averaged."""
    algorithm = small("norm_bound")
    rig = Rig(algorithm, make_learner=lambda: Fixed(lambda client: 10.0))
    next(iter(records := iter(rig.sim))), next(records)
    assert rig.plane.params[:32] == pytest.approx(1 + 1 / 32**0.5)
    assert rig.plane.params[32:] == pytest.approx(11.0)
