"""Centred clipping: two rounds by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muster.algorithms.centred_clipping import CentredClipping, centred_clipping
from muster.core.errors import FieldError
from muster.core.state import Limits
from muster.core.tables import REPORT, rows
from worlds.rig import Rig, small
from worlds.toy import Fixed, toy_data
from worlds.world import ToyWorld


def clipped(rule, centre, *update):
    up = {"delta": np.array(update, np.float32)}
    made, _ = rule.shift(up, {}, {"centre": np.array(centre, np.float32)}, rows(REPORT, 1)[0], {})
    return made.get("delta", up["delta"]).tolist()


def test_an_update_counts_up_to_the_radius_around_the_last_aggregate():
    rule = CentredClipping(radius=1.0)
    assert clipped(rule, [0.0], 0.5) == [0.5] and clipped(rule, [0.0], 3.0) == [1.0]
    assert clipped(rule, [0.75], 3.0) == [1.75] and clipped(rule, [0.75], -9.0) == [-0.25]
    assert clipped(rule, [0, 0], 3.0, 4.0) == pytest.approx([0.6, 0.8])


def test_the_mean_is_the_next_centre():
    start = CentredClipping().init(None, np.ones(2, np.float32))
    assert start["centre"].tolist() == [0.0, 0.0]
    mean = np.array([0.75, 0.0], np.float32)
    made, state = CentredClipping().finish({"delta": mean}, rows(REPORT, 2), start, None)
    assert made["delta"] is mean and state["centre"].tolist() == [0.75, 0.0]


@pytest.mark.parametrize(
    ("iterations", "aggregate"),
    # From 0: (0.5 + 1) / 2 = 0.75; then (-0.25 + 1) / 2 more, 1.125; then (-0.625 + 1) / 2 more, 1.3125.
    [(2, 1.125), (3, 1.3125)],
)
def test_iterations_by_hand(iterations, aggregate):
    rule = CentredClipping(radius=1.0, num_iterations=iterations)
    updates, table = np.array([[0.5], [4.0]]), rows(REPORT, 2)
    for centre in (0.0, 10.0):  # where everything is, makes no difference
        state = {"centre": np.array([centre])}
        shifted = np.stack(
            [rule.shift({"delta": u + centre}, {}, state, table[0], {})[0]["delta"] for u in updates]
        )
        related = rule.relate(shifted @ shifted.T, table, state)
        made, state = rule.finish({"delta": rule.fold(shifted, related)}, table, state, None)
        assert made["delta"] == pytest.approx([centre + aggregate], rel=1e-12)
        assert state["centre"] == pytest.approx([centre + aggregate], rel=1e-12)


def test_one_iteration_by_either_way_is_the_same():
    """In two dimensions, from a centre of its own: (3, 4) counts as (0.6, 0.8), (0, 0.5) in full."""
    rule = CentredClipping(radius=1.0, num_iterations=2)
    away = np.array([[3.0, 4.0], [0.0, 0.5]])
    once = replace(rule, num_iterations=1).relate(away @ away.T, rows(REPORT, 2), {})
    assert once @ away == pytest.approx([0.3, 0.65], rel=1e-12)


def one_far():
    return Fixed(lambda client: 100.0 if client == 0 else 0.1)


def test_in_a_run_iterations_come_to_where_the_many_are():
    """Three send 1, one sends 100 in 32 coordinates: with one iteration a round or with ten of them."""
    after = {}
    for iterations in (1, 10):
        rule = CentredClipping(radius=1.0, num_iterations=iterations)
        algorithm = small("centred_clipping", cohort=4).but(combine=rule)
        rig = Rig(algorithm, ToyWorld(4), toy_data((1,) * 4), one_far, limits=Limits(rounds=1)).run()
        after[iterations] = float(rig.plane.params[0]) - 1
    # Three are 0.57 away and count in full, the fourth up to a length of 1: v ← (v + 3 x 0.1 + most) / 4.
    most = 1 / 32**0.5
    assert after[1] == pytest.approx((0.3 + most) / 4, rel=1e-5)
    assert after[10] == pytest.approx((0.3 + most) / 3 * (1 - 0.25**10), rel=1e-5)


def test_the_algorithm_and_what_is_refused():
    assert centred_clipping().combine == CentredClipping("uniform", 1.0)
    with pytest.raises(FieldError, match=r"centred_clipping\.radius is 0"):
        CentredClipping(radius=0.0)
