from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.algorithms.qfedavg import Fair, qfedavg
from worlds.rig import Rig, numpy_learner, small
from worlds.rules import reports

TWO = {"num_examples": 3, "loss_before": [2.0, 0.5], "norm": [0.3, 0.1]}


def test_by_hand():
    # L = 10: Δw = (-3, 1), so ΣFΔw = -5.5; Σh = (1 x 9 + 10 x 2) + (1 x 1 + 10 x 0.5) = 35
    rule, table = Fair(q=1.0, lr=0.1), reports(2, **TWO)
    assert rule.weights(table) @ [0.3, -0.1] / rule.divisors(table).sum() == pytest.approx(
        5.5 / 35, rel=1e-12
    )


def test_q_of_two_by_hand():
    # F² = (4, 0.25); h = (2 x 2 x 9 + 40) + (2 x 0.5 x 1 + 2.5) = 79.5;  ΣF²Δw = -11.75
    rule, table = Fair(q=2.0, lr=0.1), reports(2, **TWO)
    moved = rule.weights(table) @ [0.3, -0.1] / rule.divisors(table).sum()
    assert moved == pytest.approx(11.75 / 79.5, rel=1e-12)


def test_q_of_zero_is_the_plain_mean():
    rule, table = Fair(q=0.0, lr=0.1), reports(2, **TWO)
    assert rule.weights(table).tolist() == rule.divisors(table).tolist() == [1.0, 1.0]


def test_a_client_without_examples_weighs_nothing():
    rule, table = Fair(lr=0.1), reports(1, num_examples=0, loss_before=np.nan)
    assert rule.weights(table).tolist() == rule.divisors(table).tolist() == [0.0]


def test_the_clients_rate_is_the_rules():
    assert qfedavg().but(local=SGD(lr=0.3)).fitted().combine.lr == 0.3
    assert qfedavg().but(combine=Fair(lr=0.2)).fitted().combine.lr == 0.2


def test_the_loss_of_the_model_received_is_measured_before_training():
    algorithm = small("qfedavg")
    rig = Rig(algorithm, make_learner=numpy_learner(local=algorithm.local)).run()
    for events in rig.events:
        told = events.reports
        assert np.isfinite(told["loss_before"]).all()
    first = next(events.reports for events in rig.events if len(events.reports))
    learner, model = numpy_learner()(), rig.plane._crew._trainer.learner.initial(rig.seed)
    for row in first:
        loss = learner.evaluate(model, rig.data.client(int(row["client"])))["loss"]
        assert row["loss_before"] == pytest.approx(loss, rel=1e-6)
