from __future__ import annotations

import pytest

from muster.algorithms.fedper import OwnHead
from muster.core.errors import FieldError
from muster.core.examples import Facts
from muster.core.params import ParamSpec
from muster.models.dense import MLP, Logistic

FACTS = Facts("toy", (4,), 3)


def test_the_last_layers_with_parameters_stay():
    spec = MLP().spec(FACTS)
    last = max(int(entry.name[5]) for entry in spec.entries)
    assert OwnHead().personal(spec) == (f"dense{last}.weight", f"dense{last}.bias")
    assert len(OwnHead(head_layers=99).personal(spec)) == len(spec.entries) - 2


def test_the_first_layer_is_always_shared():
    assert OwnHead().personal(Logistic().spec(FACTS)) == ()


def test_statistics_are_no_head():
    spec = ParamSpec.of([("a.w", (2,), "weight"), ("b.w", (2,), "norm"), ("b.mean", (2,), "statistic")])
    assert OwnHead().personal(spec) == ("b.w",)


def test_a_head_of_no_layers_is_refused():
    with pytest.raises(FieldError, match="head_layers"):
        OwnHead(head_layers=0)
