"""Centred clipping: two rounds by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.centred_clipping import CentredClipping, centred_clipping
from muster.core.errors import FieldError
from muster.core.tables import REPORT, rows


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
    assert made == {} and state["centre"].tolist() == [0.75, 0.0]


def test_the_algorithm_and_what_is_refused():
    assert centred_clipping().combine == CentredClipping("uniform", 1.0)
    with pytest.raises(FieldError, match=r"centred_clipping\.radius is 0"):
        CentredClipping(radius=0.0)
