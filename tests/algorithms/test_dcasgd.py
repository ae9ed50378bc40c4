"""Delay compensation: both numbers for one step from w = 0.8, sent at 1.0, with g = 0.5 and rate 0.1."""

from __future__ import annotations

import pytest

from muster.algorithms.asgd import asgd
from muster.algorithms.dcasgd import Compensated, dcasgd
from muster.core.state import Limits
from muster.core.store import decode
from worlds.rig import Rig, numpy_learner, small
from worlds.rules import reports, vector


def step(rule, kept=None, now=0.8):
    vectors = {"delta": vector(-0.05)}, {"model": vector(1.0)}, {"model": vector(now)}
    shifted, kept = rule.shift(*vectors, reports(1)[0], kept or {})
    return now + float(shifted["delta"][0]), kept


def test_constant():
    moved, kept = step(Compensated(strength=0.04, adaptive=False, lr=0.1))
    assert moved == pytest.approx(0.7502, rel=1e-12) and kept == {}


def test_adaptive():
    moved, kept = step(Compensated(strength=2.0, m=0.95, lr=0.1))
    assert moved == pytest.approx(0.839442, abs=5e-7)
    assert kept["squares"] == pytest.approx([0.0125], rel=1e-12)
    _, kept = step(Compensated(strength=2.0, m=0.95, lr=0.1), kept)
    assert kept["squares"] == pytest.approx([0.95 * 0.0125 + 0.0125], rel=1e-12)


def test_a_fresh_gradient_is_not_changed():
    assert step(Compensated(lr=0.1), now=1.0)[0] == pytest.approx(0.95, rel=1e-12)


def test_it_is_asgd_with_another_combination():
    assert dcasgd().but(name="asgd", combine=asgd().combine) == asgd()
    assert dcasgd().fitted().combine.lr == dcasgd().local.lr


def test_each_worker_has_its_own_squares():
    algorithm = small("dcasgd", concurrency=3)
    learner = numpy_learner(local=algorithm.local)
    rig = Rig(algorithm, make_learner=learner, limits=Limits(rounds=12)).run()
    took_part = {client for record in rig.records for client in record.clients}
    kept = {c: rig.plane.store.read(c) for c in range(12)}
    assert {c for c, state in kept.items() if state is not None} == took_part
    assert len({decode(kept[c])["server/squares"].tobytes() for c in took_part}) == len(took_part)
