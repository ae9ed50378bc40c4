"""Equal devices."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.devices.always_on import AlwaysOn


def test_everybody_has_the_same_device_whatever_the_seed():
    examples = np.array([3, 1, 4], np.int32)
    for seed in (0, 1):
        drawn = AlwaysOn(ms_per_example=2.5, down_kbps=800.0, up_kbps=200.0).draw(examples, seed)
        assert drawn.ms_per_example.tolist() == [2.5] * 3
        assert drawn.down_kbps.tolist() == [800.0] * 3
        assert drawn.up_kbps.tolist() == [200.0] * 3
        assert drawn.num_examples.tolist() == [3, 1, 4]


def test_by_default_nothing_is_lost():
    assert AlwaysOn().dropout == 0.0


@pytest.mark.parametrize(
    "field", [{"ms_per_example": -1}, {"down_kbps": 0}, {"up_kbps": float("inf")}, {"dropout": 2}]
)
def test_impossible_devices_are_refused(field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"always_on\.{name}"):
        AlwaysOn(**field)
