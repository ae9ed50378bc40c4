"""Compression and attacks in the data plane: what is sent, kept, counted and refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.compose import compose
from muster.core.store import decode, encode
from muster.core.sums import FixedPointSum
from muster.core.tables import TASK, Refusal, rows
from muster.job import job_from_dict
from muster.learn.accumulator import Folding
from muster.learn.states import UNSENT
from muster.learn.trainer import Trainer
from muster.uploads.little import Little
from muster.uploads.quantise import Quantise
from muster.uploads.sign_flip import SignFlip
from muster.uploads.top_k import TopK
from worlds.rig import Rig, small
from worlds.toy import Fixed, Keeps, Wander, toy_data

SCALE = 40


def trainer(learner, **folding):
    total = FixedPointSum(learner.spec.size, SCALE)
    return Trainer(learner, toy_data(), Folding(Mean("uniform"), 1.0, SCALE, 3, SGD(), **folding), total)


def trained(it, client=5, attempt=0, kept=None):
    task, late = rows(TASK, 1, client=client, attempt=attempt, ticket=7), np.zeros(1, np.int64)
    before = {} if kept is None else {client: encode(kept)}
    report, states = it.train(task, late, {0: {"model": it.learner.initial(0)}}, before, {}, late.copy())
    return report, decode(states[client]) if client in states else None


def test_what_was_not_sent_is_sent_later():
    update = np.zeros(48, np.float32)
    update[:4] = [4, -3, 2, 1]
    it = trainer(Fixed(lambda client: update), compress=TopK(share=1 / 48))
    _, kept = trained(it)
    assert it.total.take(1)[:4].tolist() == [4, 0, 0, 0]
    assert kept[UNSENT][0, :4].tolist() == [0, -3, 2, 1]
    it.total.clear()
    _, kept = trained(it, attempt=1, kept=kept)  # -3 - 3 is now the largest
    assert it.total.take(1)[:4].tolist() == [0, -6, 0, 0]
    assert kept[UNSENT][0, :4].tolist() == [4, 0, 4, 2]


def test_what_is_not_finite_is_refused_and_not_hidden_by_an_encoding():
    update = np.full(48, 0.5, np.float32)
    update[7] = np.nan
    for rule in (Quantise(), TopK()):
        report, kept = trained(trainer(Fixed(lambda client: update), compress=rule))
        assert (report["refused"][0], kept) == (Refusal.NON_FINITE, None)


def test_what_a_clients_rule_keeps_is_there_beside_what_was_not_sent():
    learner = Wander(keeping=True)
    it = trainer(learner, compress=TopK(0.1))
    it.folding = replace(it.folding, local=Keeps())
    _, kept = trained(it)
    _, kept = trained(it, attempt=1, kept=kept)
    assert kept["num_tasks"] == 2 and kept[UNSENT].shape == (1, 48)


def test_liars_send_the_opposite_and_the_others_what_they_have_learnt():
    it = trainer(Fixed(lambda client: 0.5), attack=SignFlip(2.0, share=0.25))
    assert len(it.uploads.liars) == 3
    for client in range(12):
        it.total.clear()
        trained(it, client)
        sent = it.total.take(1)
        assert (sent[:32] == (-1.0 if client in it.uploads.liars else 0.5)).all()
        assert (sent[32:] == 0.5).all()  # buffers are not forged


def test_liars_agree_on_one_update():
    it = trainer(Fixed(lambda client: float(client)), attack=Little(z=2.0, num_peers=2, share=0.25))
    one, other = sorted(it.uploads.liars)[:2]
    for liar in it.uploads.liars:
        it.total.clear()
        trained(it, liar)
        mean, deviation = (one + other) / 2, (other - one) / 2
        assert it.total.take(1)[:32] == pytest.approx(np.full(32, mean - 2 * deviation))


def test_no_order_changes_an_upload():
    totals = []
    for clients in (range(12), reversed(range(12))):
        it = trainer(Wander(), compress=Quantise(), attack=SignFlip())
        for client in clients:
            trained(it, client)
        totals.append(it.total.total.tobytes())
    assert totals[0] == totals[1]


def test_compression_shrinks_bytes_and_time_as_its_encoding_does():
    body = {"data": {"partition": {"name": "iid", "num_clients": 12}}, "algorithm": {"pace": {"cohort": 2}}}
    sizes, times = [], []
    for extra in ({}, {"compress": "quantise"}, {"compress": {"name": "top_k", "share": 0.5}}):
        session = compose(job_from_dict({**body, **extra}), clock_only=True)
        sizes.append((session.sim.world.down_bytes, session.sim.world.up_bytes))
        times.append(session.sim.world.timing(rows(TASK, 1, client=3))["up"][0])
        session.close()
    size = sizes[0][0] // 4
    assert sizes == [(4 * size, 4 * size), (4 * size, size + 4), (4 * size, 8 * round(size / 2))]
    assert times[1] / times[0] == pytest.approx(sizes[1][1] / sizes[0][1], rel=1e-3)


def test_unsent_remains_survive_in_the_store():
    class Compressed(Rig):
        def folding(self):
            return replace(super().folding(), compress=TopK(0.1))

    rig = Compressed(small("fedavg")).run()
    assert len(rig.plane.store) > 3
    assert all(UNSENT in decode(rig.plane.store.read(client)) for client in set(rig.records[1].clients))
