"""Compiled cohorts: who trains beside whom changes no bit; tasks whose end is not known; what is refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.errors import UserError
from muster.core.randomness import Draws, keys, rng
from muster.core.work import Steps, Work
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP, Logistic
from muster.tasks.classification import Classification
from worlds.toy import FACTS, examples

pytest.importorskip("numba")
from muster.learn.numba_learner import NumbaLearner
from muster.learn.numpy_learner import NumpyLearner

SIZES = (7, 0, 3, 8, 1, 14)


@pytest.mark.parametrize("local", [SGD(), SGD(momentum=0.9)])
def test_neighbours_change_no_bit(local):
    """Neither do the examples that fill a short batch up."""
    learner = NumbaLearner(MLP((6, 5)), Classification(), FACTS, local, Work(epochs=2, batch_size=6))
    data, ends = examples(SIZES), np.cumsum(SIZES)
    owned = [slice(end - size, end) for end, size in zip(ends.tolist(), SIZES, strict=True)]
    sent = {"model": np.broadcast_to(learner.initial(0), (6, learner.spec.size))}
    draws = keys(0, "train", range(6), [0] * 6)
    up, alone = (np.full((6, 1, learner.spec.size), 9.0, np.float32) for _ in range(2))
    done = learner.train_together(sent, data, owned, Draws(draws), up, [None] * 6, np.zeros(6, np.int64))
    for i, own in enumerate(owned):
        one = {"model": sent["model"][i]}
        part = data.slice(own.start, own.stop)
        each = learner.train(one, part, rng(0, "train", i, 0), alone[i], None)
        assert (each.num_steps, each.loss, each.loss_sq_mean) == done.of(i)
    assert (up == alone).all() and np.abs(up[0]).max() > 1e-3 and (up[1] == 0).all()


def test_a_task_whose_end_is_not_known_is_trained_by_numpy():
    made = []
    for kind in (NumbaLearner, NumpyLearner):
        learner = kind(MLP((5,)), Classification(), FACTS, SGD(), Work(batch_size=3))
        up = np.zeros((1, learner.spec.size), np.float32)
        asked = Steps(None, lambda made: made < 4)
        done = learner.train({"model": learner.initial(0)}, examples([8]), rng(0, "x"), up, None, asked)
        made.append((done.num_steps, up.tobytes()))
    assert made[0] == made[1] and made[0][0] == 4


@pytest.mark.parametrize("work", [Work(batch_size=3), Work(steps=7, batch_size=4), Work(batch_size=0)])
def test_batches_are_those_of_numpy(work):
    sizes, steps = np.array([9, 5, 4]), np.array([0, 3, 2])
    counts, found = work.num_steps(sizes, steps.astype(np.int32)), []
    order = np.argsort(-counts, kind="stable")
    for kind in (NumbaLearner, NumpyLearner):
        learner = kind(Logistic(), Classification(), FACTS, SGD(), work)
        draws = Draws(keys(0, "train", order.tolist(), [1] * 3))
        found.append(learner._schedule(sizes[order], draws, steps[order], counts[order]))
    assert (found[0][0] == found[1][0]).all() and (found[0][1] == found[1][1]).all()


@dataclass(frozen=True)
class Other(Classification):
    def numpy_loss(self, outputs, targets):
        return super().numpy_loss(outputs, targets)


def test_what_it_cannot_train_is_refused():
    with pytest.raises(UserError, match="use backend torch"):
        NumbaLearner(LeafCNN(), Classification(), FACTS, SGD(), Work())
    with pytest.raises(UserError, match="task other has a loss of its own; use backend numpy"):
        NumbaLearner(MLP(), Other(), FACTS, SGD(), Work())
