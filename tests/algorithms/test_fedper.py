from __future__ import annotations

import pytest

import muster
from muster.algorithms.fedper import OwnHead
from muster.core.errors import FieldError, UserError
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


@pytest.mark.parametrize("name", ["fedper", "fedrep"])
def test_a_model_of_one_layer_is_refused_before_anything_is_trained(name):
    job = {"model": "logistic", "algorithm": name, "engine": {"backend": "numpy"}}
    with pytest.raises(UserError, match=r"shares the others, but this model has only one .*such as mlp"):
        muster.simulate(job)
    muster.simulate({**job, "model": "mlp"})


def test_statistics_are_no_head():
    spec = ParamSpec.of([("a.w", (2,), "weight"), ("b.w", (2,), "norm"), ("b.mean", (2,), "statistic")])
    assert OwnHead().personal(spec) == ("b.w",)


def test_a_head_of_no_layers_is_refused():
    with pytest.raises(FieldError, match="head_layers"):
        OwnHead(head_layers=0)
