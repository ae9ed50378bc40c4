"""A run without a model takes the same virtual time as one with it."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.state import Limits
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.sim.clock_only import ClockOnly
from worlds.plane import simulation
from worlds.rig import Rig, small
from worlds.toy import toy_data
from worlds.world import ToyWorld, at_times

EXAMPLES = np.array([3, 0, 45], np.int32)


def clock(surrogate=False, seed=1):
    return ClockOnly(EXAMPLES, Work(epochs=2, batch_size=20), seed, surrogate)


def test_reports_have_the_counts_and_no_loss():
    tasks = rows(TASK, 3, ticket=[7, 8, 9], client=[2, 0, 1])
    reports = clock().advance(tasks, np.array([0, 2, 1]), ())
    assert reports["ticket"].tolist() == [7, 8, 9]
    assert reports["client"].tolist() == [2, 0, 1]
    assert reports["num_examples"].tolist() == [45, 3, 0]
    assert reports["num_steps"].tolist() == [6, 2, 0]
    assert reports["staleness"].tolist() == [0, 2, 1]
    assert np.isnan(reports["loss"]).all() and np.isnan(reports["loss_sq_mean"]).all()
    assert not reports["refused"].any()


def test_surrogate_losses_fall_and_some_clients_stay_harder():
    tasks = rows(TASK, 6, client=[0, 1, 2] * 2, version=[0, 0, 0, 99, 99, 99])
    reports = clock(surrogate=True).advance(tasks, np.zeros(6, np.int64), ())
    loss = reports["loss"]
    # (0.5 + u)(0.2 + 2.1 / sqrt(1 + v)): 2.3 of it at version 0, 0.41 at version 99.
    assert ((loss[:3] >= 1.15) & (loss[:3] < 3.45)).all()
    assert loss[3:] / loss[:3] == pytest.approx([0.41 / 2.3] * 3)
    assert len(set(loss[:3].tolist())) == 3
    assert reports["loss_sq_mean"] == pytest.approx(loss**2)
    again = clock(surrogate=True).advance(tasks[::-1], np.zeros(6, np.int64), ())
    assert again["loss"].tolist() == loss[::-1].tolist()
    other = clock(surrogate=True, seed=2).advance(tasks, np.zeros(6, np.int64), ())
    assert other["loss"].tolist() != loss.tolist()


def test_clients_are_half_to_one_and_a_half_as_hard_as_the_curve():
    plane = ClockOnly(np.ones(10_000, np.int32), Work(), 1, surrogate=True)
    tasks = rows(TASK, 10_000, client=np.arange(10_000), version=8)
    own = plane.advance(tasks, np.zeros(10_000, np.int64), ())["loss"] / (0.2 + 2.1 / 3)
    assert 0.5 <= own.min() < 0.501 and 1.499 < own.max() < 1.5
    # Uniform: mean 1, deviation 1/sqrt(12); four deviations of the mean of 10,000.
    assert own.mean() == pytest.approx(1.0, abs=4 / np.sqrt(12 * 10_000))


def test_versions_are_counted_and_there_is_nothing_to_evaluate():
    plane = clock()
    plane.advance(rows(TASK, 1), np.zeros(1, np.int64), ())
    assert plane.version == 1 and plane.evaluate() == {}


@pytest.mark.parametrize("name", ["fedavg", "fedyogi", "fedbuff"])
def test_it_equals_the_training_run_in_all_but_losses(name):
    world = ToyWorld(loss=at_times(0.2))
    trained = Rig(small(name, over_commit=1.5, deadline_secs=12.0), world, limits=Limits(rounds=8)).run()
    plane = ClockOnly(toy_data().num_examples, Work(batch_size=2), 5, surrogate=False)
    timed = list(simulation(trained.algorithm, world, plane, Limits(rounds=8), timeline=trained.sim.timeline))
    assert len(timed) == 9 and timed[-1].now_secs > 0

    def without_learning(record):
        return {**record.to_json(), "wall_secs": 0.0, "loss": None, "metrics": {}}

    assert [without_learning(r) for r in timed] == [without_learning(r) for r in trained.records]
    assert all(r.loss is None and r.metrics == {} for r in timed)


def test_who_is_asked_says_what_the_curve_says():
    tasks = rows(TASK, 3, ticket=[7, 8, 9], client=[2, 0, 1], version=3)
    found, plane = clock(surrogate=True).measure(tasks), clock(surrogate=True)
    assert found["loss"].tolist() == plane.advance(tasks, np.zeros(3, np.int64), ())["loss"].tolist()
    assert found["accuracy"] == pytest.approx(np.exp(-found["loss"]))
    assert found["num_examples"].tolist() == [45, 3, 0] and found["ticket"].tolist() == [7, 8, 9]
