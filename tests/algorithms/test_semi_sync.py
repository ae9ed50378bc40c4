"""SemiSync by hand: four learners with steps of 1, 2, 4 and 8 s, and a period for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.semi_sync import SemiSync, semi_sync
from muster.core.errors import UserError
from muster.core.population import Foreseen, Population
from muster.core.state import Limits, initial_state
from muster.core.tables import SECOND, Finish
from worlds.plane import ToyPlane
from worlds.rig import Watched
from worlds.world import ToyWorld

STEP_SECS = np.array([1.0, 2.0, 4.0, 8.0])


def population(train_secs=None):
    ones = np.ones(4, np.float32)
    known = None
    if train_secs is not None:
        known = Foreseen(np.zeros(4), STEP_SECS, np.asarray(train_secs, float), np.zeros(4))
    return Population(ones.astype(np.int32), ones, ones, ones, foreseen=known)


def run(train_secs=None, rounds=2, **settings):
    """(steps of each learner, the seconds when the round was over) of each round."""
    algorithm = semi_sync().but(pace=SemiSync(**settings))
    world = ToyWorld(4, legs=lambda k: (0, round(STEP_SECS[k] * SECOND), 0))
    state = initial_state(algorithm, population(train_secs), Limits(rounds=rounds))
    sim = Watched(algorithm, 5, world, ToyPlane(), state, timeline=np.arange(4))
    told = []
    for record in list(sim)[1:]:
        made = {span.client: round(span.compute_secs / STEP_SECS[span.client]) for span in record.spans}
        told.append(([made[k] for k in range(4)], record.now_secs))
    assert any(isinstance(command, Finish) for _, commands in sim.told for command in commands)
    return told


def test_everybody_computes_for_the_period():
    # ⌊16 / c⌋ steps
    assert run(period_secs=16.0) == [([16, 8, 4, 2], 16.0), ([16, 8, 4, 2], 32.0)]


def test_what_is_left_of_the_period_is_not_begun():
    # ⌊11 / c⌋: 11, 5, 2, 1
    assert run(period_secs=11.0, rounds=1) == [([11, 5, 2, 1], 11.0)]


def test_one_step_at_least():
    assert run(period_secs=3.0, rounds=1) == [([3, 1, 1, 1], 8.0)]


@pytest.mark.parametrize(("epochs", "steps", "secs"), [(1, [24, 12, 6, 3], 24), (0.5, [12, 6, 3, 1], 12)])
def test_the_period_is_so_many_epochs_of_the_slowest(epochs, steps, secs):
    """Three steps an epoch: the slowest takes 24 s for one."""
    assert run(3 * STEP_SECS, rounds=1, epochs=epochs) == [(steps, secs)]


def test_a_period_must_be_given_where_nothing_is_known():
    with pytest.raises(UserError, match=r"algorithm\.pace\.period_secs"):
        initial_state(semi_sync(), population(), Limits(rounds=1))
