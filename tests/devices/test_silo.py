"""Data-centre workers: the ratio is exact, quotas go round, links are fast."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.devices.silo import Silo


def draw(devices: Silo, count: int, seed: int = 1):
    return devices.draw(np.full(count, 20, np.int32), seed)


@pytest.mark.parametrize("count", [2, 3, 12, 1_000])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 300.0])
def test_the_slowest_takes_ratio_times_as_long_as_the_fastest(count, ratio):
    speed = draw(Silo(ratio=ratio, fastest_ms=2.0), count).ms_per_example
    assert speed.min() == pytest.approx(2.0)
    assert speed.max() / speed.min() == pytest.approx(ratio)


def test_in_between_are_even_steps_of_the_logarithm_in_an_order_drawn_by_seed():
    one, other = (draw(Silo(ratio=16.0), 5, seed).ms_per_example for seed in (1, 2))
    assert sorted(one) == sorted(other) == pytest.approx([1, 2, 4, 8, 16])
    many = [draw(Silo(), 100, seed).ms_per_example for seed in (1, 1, 2)]
    assert (many[0] == many[1]).all() and (many[0] != many[2]).any() and (np.diff(many[0]) < 0).any()


def test_one_worker_is_the_fastest():
    assert draw(Silo(fastest_ms=3.0), 1).ms_per_example.tolist() == [3.0]


def test_nobody_at_all_is_no_worker():
    assert draw(Silo(), 0).num_clients == 0


def test_quotas_go_round_over_the_clients():
    speed = draw(Silo(ratio=1.0, fastest_ms=2.0, quotas=(1.0, 0.5, 0.25, 0.125)), 6).ms_per_example
    assert speed.tolist() == [2, 4, 8, 16, 2, 4]


def test_links_are_symmetric_and_the_same_for_all():
    drawn = draw(Silo(kbps=5_000.0), 4)
    assert drawn.down_kbps.tolist() == drawn.up_kbps.tolist() == [5_000.0] * 4
    assert drawn.availability is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ratio", 0.5),
        ("ratio", float("inf")),
        ("fastest_ms", 0),
        ("kbps", 0),
        ("dropout", 2),
        ("quotas", ()),
        ("quotas", (1.0, 0.0)),
        ("quotas", (1.5,)),
        ("quotas", (True,)),
        ("quotas", ("half",)),
        ("quotas", (float("nan"),)),
    ],
)
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(FieldError, match=rf"silo\.{field} "):
        Silo(**{field: value})
