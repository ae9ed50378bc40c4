from __future__ import annotations

import numpy as np

from muster.algorithms.fedbn import OwnNorms
from muster.core.params import ParamSpec
from muster.core.state import Limits
from muster.core.store import decode
from worlds.rig import Rig, small
from worlds.toy import Fixed


def test_norm_layers_and_statistics_stay():
    spec = ParamSpec.of(
        [("w", (4,), "weight"), ("n", (4,), "norm"), ("b", (4,), "bias"), ("s", (4,), "statistic")]
    )
    assert OwnNorms().personal(spec) == ("n", "s")
    assert spec.places(("n", "s")).tolist() == [16, 17, 18, 19, 48, 49, 50, 51]


def test_what_stays_goes_on_from_task_to_task_and_never_moves_the_model():
    """`Fixed` adds 1/4 to everything; `mean` is a statistic."""
    rig = Rig(small("fedbn", cohort=12), make_learner=Fixed, limits=Limits(rounds=3)).run()
    assert (rig.plane.params[:32] == 1.75).all() and (rig.plane.params[32:] == 1.0).all()
    for client in range(12):
        assert (decode(rig.plane.store.read(client))["personal"] == 1.75).all()
    assert decode(rig.plane.store.read(0))["personal"].dtype == np.float32
