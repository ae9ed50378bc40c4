"""What each client's own model is worth to it, by hand on toy data."""

from __future__ import annotations

import numpy as np
import pytest

import muster
from muster.core.state import Limits
from muster.core.store import decode
from muster.learn.shares import Shares, over_clients
from worlds.rig import Rig, numpy_learner, small
from worlds.toy import SIZES


@pytest.fixture(scope="module")
def ditto():
    algorithm = small("ditto")
    rig = Rig(algorithm, make_learner=numpy_learner(local=algorithm.local), limits=Limits(rounds=3)).run()
    return rig, Shares(rig.plane._crew._trainer, 30)


def test_a_clients_share_has_its_own_labels(ditto):
    rig, shares = ditto
    for client in range(12):
        mine, drawn = set(rig.data.client(client).y.tolist()), shares.drawn(client)
        assert set(rig.data.test.y[drawn].tolist()) <= mine and len(drawn) == 30
        assert drawn.tolist() == shares.drawn(client).tolist()
    assert len(set(rig.data.client(2).y.tolist())) == 1  # it has one example


def test_each_client_is_measured_with_its_own_model(ditto):
    rig, shares = ditto
    clients, kept = np.arange(12), {i: rig.plane.store.read(i) for i in range(12)}
    each, values = shares.measure(rig.plane.result, clients, kept), []
    told = over_clients(each, np.array(SIZES))
    for client in range(12):
        state = rig.plane.store.read(client)
        model = rig.plane.result if state is None else decode(state)["own"]
        test = rig.data.test
        examples = [test.slice(i, i + 1) for i in shares.drawn(client).tolist()]
        right = [shares.trainer.learner.evaluate(model, one)["accuracy"] for one in examples]
        values.append(sum(right) / 30)
    assert each["accuracy"] == pytest.approx(values)
    assert told["clients_mean_accuracy"] == pytest.approx(sum(values) / 12)
    weighted = sum(n * value for n, value in zip(SIZES, values, strict=True)) / sum(SIZES)
    assert told["clients_weighted_accuracy"] == pytest.approx(weighted)
    assert told["clients_worst10_accuracy"] == pytest.approx(sum(sorted(values)[:2]) / 2)
    assert told["clients_d5_accuracy"] == pytest.approx(sum(sorted(values)[5:7]) / 2)
    assert told["clients_worst10_loss"] >= told["clients_d9_loss"]


def test_a_head_of_its_own_is_put_into_the_model():
    algorithm = small("fedbn")
    rig = Rig(algorithm, limits=Limits(rounds=2)).run()
    shares, client = Shares(rig.plane._crew._trainer, 5), rig.records[1].clients[0]
    own = shares.own(rig.plane.result, client, rig.plane.store.read(client))
    assert np.array_equal(own[:32], rig.plane.result[:32])
    assert np.array_equal(own[32:], decode(rig.plane.store.read(client))["personal"])


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards", "quantity_skew"])
def test_every_partition_of_real_data_can_be_measured_client_by_client(partition):
    job = {
        "data": {"name": "digits", "partition": {"name": partition, "num_clients": 10}},
        "model": "logistic",
        "algorithm": {"pace": {"cohort": 4}},
        "engine": {"workers": 1, "backend": "numpy"},
        "stop": {"rounds": 1},
        "track": {"per_client": 10},
    }
    told = list(muster.simulate(job))[-1].metrics
    deciles = [told[f"clients_d{tenth}_accuracy"] for tenth in range(1, 10)]
    assert deciles == sorted(deciles) and told["clients_worst10_accuracy"] <= deciles[0]
    assert deciles[0] <= told["clients_mean_accuracy"] <= deciles[-1]
