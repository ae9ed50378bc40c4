"""Cohorts of dense models against the same clients one after another, and rules that grow memory."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.algorithms.scaffold import Controlled
from muster.core.algorithm import Local
from muster.core.randomness import Draws, keys, rng
from muster.core.work import Work
from muster.learn.cohort import (
    MOST,
    MOST_COMPILED,
    chunk_for,
    chunk_for_compiled,
    descend_together,
    side_by_side,
)
from muster.learn.numpy_learner import NumpyLearner
from muster.models.dense import MLP
from muster.tasks.classification import Classification
from worlds.toy import FACTS, examples

SIZES = (7, 0, 3, 8, 1, 4)
ENGINES = ("numpy", "numba", "jax")


def learners(name):
    if name == "numpy":
        return NumpyLearner
    pytest.importorskip(name)
    if name == "numba":
        from muster.learn.numba_learner import NumbaLearner

        return NumbaLearner
    from muster.learn.jax_learner import JaxLearner

    return JaxLearner


def both(local, work, steps=(0,) * 6, kept=(None,) * 6, together="numpy"):
    """Six clients one after another and together: (ups, measured) of each way."""
    data = examples(SIZES)
    ends = np.cumsum(SIZES)
    owned = [slice(end - size, end) for end, size in zip(ends.tolist(), SIZES, strict=True)]
    learner = NumpyLearner(MLP((5,)), Classification(), FACTS, local, work)
    size, trained = learner.spec.size, learner.spec.trained
    sent = {"model": learner.initial(3)}
    sent |= {name: np.full(trained, 0.01, np.float32) for name in local.down[1:]}
    alone, one_by_one = np.zeros((6, len(local.up), size), np.float32), []
    for i, own in enumerate(owned):
        part = data.slice(own.start, own.stop)
        done = learner.train(sent, part, rng(0, "train", i, 0), alone[i], kept[i], steps[i])
        one_by_one.append(done)
    up = np.full_like(alone, 9.0)
    learner = learners(together)(MLP((5,)), Classification(), FACTS, local, work)
    rows = {name: np.broadcast_to(vector, (6, len(vector))) for name, vector in sent.items()}
    draws = Draws(keys(0, "train", range(6), [0] * 6))
    done = learner.train_together(rows, data, owned, draws, up, list(kept), np.array(steps))
    return (alone, one_by_one), (up, done)


@pytest.mark.parametrize(
    "work",
    [Work(batch_size=3), Work(epochs=2, batch_size=4), Work(steps=5, batch_size=3), Work(batch_size=0)],
)
@pytest.mark.parametrize(
    "local", [SGD(), SGD(momentum=0.9, weight_decay=0.1), SGD(clip_norm=0.05), Controlled()]
)
@pytest.mark.parametrize("engine", ENGINES[:2])
def test_each_client_gets_what_it_gets_alone(local, work, engine):
    agree(*both(local, work, together=engine))


def agree(sequential, together):
    (alone, one_by_one), (up, done) = sequential, together
    assert np.abs(alone[0]).max() > 1e-3
    np.testing.assert_allclose(up, alone, atol=1e-6)
    assert done.num_steps.tolist() == [each.num_steps for each in one_by_one]
    np.testing.assert_allclose(done.loss, [each.loss for each in one_by_one], rtol=1e-6)
    np.testing.assert_allclose(done.loss_sq_mean, [each.loss_sq_mean for each in one_by_one], rtol=1e-5)


@pytest.mark.parametrize(
    ("local", "work"),
    [
        (SGD(), Work(epochs=2, batch_size=3)),
        (SGD(momentum=0.9, weight_decay=0.1), Work(epochs=2, batch_size=4)),
        (SGD(clip_norm=0.05), Work(batch_size=0)),
        (Controlled(), Work(batch_size=3)),
    ],
)
def test_each_client_gets_in_jax_what_it_gets_alone(local, work):
    """Fewer cases: each is compiled."""
    agree(*both(local, work, together="jax"))


def test_a_step_too_many_changes_nothing_whatever_it_reads():
    """Five steps are compiled as six, and the last reads the data set's first example."""
    pytest.importorskip("jax")
    found = []
    for first in (0.0, np.nan):
        data = examples((4, 6, 5))
        data.x[0] = first
        learner = learners("jax")(MLP((5,)), Classification(), FACTS, SGD(), Work(steps=5, batch_size=3))
        up = np.zeros((2, 1, learner.spec.size), np.float32)
        sent = {"model": np.broadcast_to(learner.initial(3), (2, learner.spec.size))}
        draws, owned = Draws(keys(0, "train", range(2), [0] * 2)), [slice(4, 10), slice(10, 15)]
        learner.train_together(sent, data, owned, draws, up, [None] * 2, np.zeros(2, np.int64))
        found.append(up)
    assert np.abs(found[0]).max() > 1e-3
    np.testing.assert_array_equal(*found)


def test_batches_that_are_not_thin_train_in_jax_too(monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setattr("muster.learn.jax_learner.FEW", 2)
    agree(*both(SGD(), Work(batch_size=3), together="jax"))


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_may_have_numbers_of_steps_of_their_own(engine):
    steps = (1, 4, 0, 2, 6, 0)
    (alone, one_by_one), (up, done) = both(SGD(momentum=0.5), Work(batch_size=3), steps, together=engine)
    assert done.num_steps.tolist() == [1, 0, 1, 2, 6, 2] == [each.num_steps for each in one_by_one]
    np.testing.assert_allclose(up, alone, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_lasting_states_go_in_and_come_out(engine):
    size = NumpyLearner(MLP((5,)), Classification(), FACTS, Controlled(), Work()).spec.trained
    mine = {"control": np.linspace(-0.1, 0.1, size, dtype=np.float32)}
    (_, one_by_one), (_, done) = both(
        Controlled(), Work(batch_size=3), kept=(None, mine, mine, None, None, mine), together=engine
    )
    assert done.kept[1] is None  # no example, no step: it stays as it was
    for state, each in zip(done.kept, one_by_one, strict=True):
        if state is not None:
            np.testing.assert_allclose(state["control"], each.kept["control"], atol=1e-5)


@dataclass(frozen=True)
class Counting(Local):
    """Remembers nothing to begin with, then how often it has stepped; goes through its batches twice."""

    passes: ClassVar[int] = 2
    up: ClassVar[tuple[str, ...]] = ("delta", "entered")

    def begin(self, sent, kept):
        return sent["model"], {"steps": sent["model"][..., :1] * 0, "entered": sent["model"][..., :1]}

    def enter(self, number, params, sent, memory):
        return params, {**memory, "entered": memory["entered"] + 10}

    def step(self, params, gradient, sent, memory):
        return params + memory["steps"], {**memory, "steps": memory["steps"] + 1}

    def finish(self, params, sent, memory, num_steps):
        return params, {"entered": memory["entered"] + 100 * memory["steps"] + 1000 * num_steps}, {}


def test_memory_of_those_that_have_ended_stays():
    sent = {"model": np.arange(6, dtype=np.float32).reshape(3, 2)}
    params, gradient, calls = sent["model"].copy(), np.zeros((3, 2), np.float32), []
    counts = np.array([3, 1, 1])
    ups, _, losses = descend_together(
        Counting(), params, gradient, sent, [None] * 3, counts, lambda t, live: calls.append((t, live))
    )
    assert calls == [(0, 3), (1, 1), (2, 1)] * 2
    # 6, 2 and 2 steps, each as far as there were steps before it: 0 + 1 + .. + 5 = 15, and 0 + 1
    assert (params - sent["model"]).tolist() == [[15, 15], [1, 1], [1, 1]]
    assert ups["entered"].tolist() == [[0 + 20 + 600 + 3000], [2 + 20 + 200 + 1000], [4 + 20 + 200 + 1000]]
    assert sent["model"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(losses) == 6


def test_chunks_fill_the_cache():
    assert (chunk_for(1 << 20), chunk_for(1 << 19), chunk_for(3 << 20), chunk_for(64)) == (1, 2, 1, MOST)
    compiled = [chunk_for_compiled(size) for size in (1 << 20, 3 << 19, 9 << 20, 64)]
    assert compiled == [4, 2, 1, MOST_COMPILED]


def test_rules_are_tried_side_by_side():
    @dataclass(frozen=True)
    class Total(SGD):
        def step(self, params, gradient, sent, memory):
            return params - gradient * float((gradient * gradient).sum()), memory

    assert side_by_side(SGD(clip_norm=1.0)) and side_by_side(Controlled()) and side_by_side(Counting())
    assert not side_by_side(Total())
