from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.afl import Agnostic, Averaged, to_simplex
from worlds.rig import Rig, small
from worlds.rules import info, reports, vector
from worlds.toy import toy_population


@pytest.mark.parametrize(
    ("point", "nearest"),
    [
        ([0.6, 0.8], [0.4, 0.6]),
        ([1.5, -0.2, 0.1], [1.0, 0.0, 0.0]),
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([-5.0, -5.0], [0.5, 0.5]),
    ],
)
def test_projection(point, nearest):
    assert to_simplex(np.array(point)) == pytest.approx(nearest, abs=1e-12)


def test_lambda_climbs_with_the_loss_and_the_delta_is_mixed_by_it():
    rule = Agnostic(lr=0.1)
    state = rule.init(toy_population([3, 3]), vector(0.0))
    assert state["lambda"].tolist() == [0.5, 0.5]
    table = reports(2, num_examples=3, loss_before=[1.0, 3.0])
    up = [
        rule.shift({"delta": vector(d)}, {}, state, table[i], {})[0]["delta"] for i, d in ((0, 1.0), (1, 2.0))
    ]
    folded, state = rule.finish({"delta": sum(up) / 2}, table, state, info(2, 2))
    assert folded["delta"] == pytest.approx([1.5])
    assert state["lambda"] == pytest.approx([0.4, 0.6])  # 0.5 + 0.1 x 1 and + 0.1 x 3, less 0.2 each


def test_of_a_part_of_the_clients_the_lambdas_are_scaled_to_one():
    rule, state = Agnostic(), {"lambda": np.array([0.1, 0.3, 0.6])}
    table = reports(2, num_examples=3, loss_before=0.0)
    up = [
        rule.shift({"delta": vector(d)}, {}, state, table[i], {})[0]["delta"] for i, d in ((0, 4.0), (1, 8.0))
    ]
    folded, _ = rule.finish({"delta": sum(up) / 2}, table, state, info(2, 3))
    assert folded["delta"] == pytest.approx([0.25 * 4 + 0.75 * 8])


def test_the_mean_iterate_is_what_is_reported():
    rule, params = Averaged(), vector(0.0)
    opt = rule.init(params)
    for delta in (1.0, 1.0, 4.0):
        params, opt = rule.apply(params, vector(delta), opt, info())
    assert params == [6.0] and rule.reported(params, opt) == pytest.approx([3.0])  # of 1, 2 and 6


def test_a_run_evaluates_the_mean_and_trains_from_the_last():
    rig = Rig(small("afl")).run()
    moment = rig.plane.moment
    assert not np.array_equal(rig.plane.result[:32], moment.params[:32])
    assert np.array_equal(rig.plane.result[:32], moment.opt["mean"])
    assert rig.records[-1].metrics["loss"] == pytest.approx(float(np.abs(rig.plane.result).mean()))
    assert moment.state["lambda"].sum() == pytest.approx(1.0) and moment.state["lambda"].std() > 0
