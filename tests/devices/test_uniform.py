"""Devices between two bounds: even, independent, drawn by seed."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.devices.uniform import Uniform

COUNT = 100_000


def draw(devices: Uniform, count: int, seed: int = 1):
    return devices.draw(np.full(count, 20, np.int32), seed)


def test_every_tenth_of_the_way_has_a_tenth_of_the_clients():
    drawn = draw(Uniform(ms_low=10, ms_high=20, kbps_low=1_000, kbps_high=11_000), COUNT)
    tolerance = 4 * np.sqrt(0.1 * 0.9 / COUNT)  # 4 standard deviations
    for values, bounds in ((drawn.ms_per_example, (10, 20)), (drawn.down_kbps, (1_000, 11_000))):
        assert bounds[0] <= values.min() and values.max() <= bounds[1]
        assert np.histogram(values, 10, bounds)[0] / COUNT == pytest.approx(0.1, abs=tolerance)


def test_compute_and_link_are_independent_and_the_link_serves_both_ways():
    drawn = draw(Uniform(), COUNT)
    assert abs(np.corrcoef(drawn.ms_per_example, drawn.down_kbps)[0, 1]) < 4 / np.sqrt(COUNT)
    assert (drawn.down_kbps == drawn.up_kbps).all()


def test_the_seed_decides_and_more_clients_leave_the_first_ones_as_they_are():
    few, many, other = (draw(Uniform(), count, seed) for count, seed in ((5, 1), (50, 1), (5, 2)))
    assert (many.ms_per_example[:5] == few.ms_per_example).all()
    assert (other.ms_per_example != few.ms_per_example).all()


def test_equal_bounds_make_equal_devices():
    drawn = draw(Uniform(ms_low=7, ms_high=7, kbps_low=100, kbps_high=100), 3)
    assert drawn.ms_per_example.tolist() == [7.0] * 3 and drawn.up_kbps.tolist() == [100.0] * 3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ms_high": 9}, r"uniform\.ms_high is 9, but must be at least ms_low \(10\)"),
        ({"kbps_low": 2e5}, r"uniform\.kbps_high is .* at least kbps_low \(200000\)"),
        ({"kbps_low": 0}, r"uniform\.kbps_low .* above 0"),
        ({"ms_low": -1}, r"uniform\.ms_low .* at least 0"),
        ({"dropout": 1.5}, r"uniform\.dropout .* at most 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, text):
    with pytest.raises(FieldError, match=text):
        Uniform(**settings)
