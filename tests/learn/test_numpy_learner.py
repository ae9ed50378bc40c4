from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import pytest

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.numpy_learner import NumpyLearner
from muster.learn.torch_learner import TorchLearner
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP, Logistic
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter

TASK = Classification()
FACTS = Facts("images", (1, 3, 2), 4, mean=0.3, std=0.5)


@dataclass(frozen=True)
class Descent(Local):
    lr: float = 0.1
    in_place: bool = True

    def step(self, params: Any, gradient: Any, sent: Any, memory: Any) -> tuple[Any, Any]:
        if not self.in_place:
            return params - self.lr * gradient, memory
        params -= self.lr * gradient
        return params, memory


def examples(count, seed=0):
    draw = np.random.default_rng(seed)
    return Examples(draw.integers(0, 256, (count, 3, 2)).astype(np.uint8), draw.integers(0, 4, count))


def train(learner, sent, data, key=0):
    delta = learner.spec.zeros()
    return learner.train({"model": sent}, data, rng(0, "train", key), delta[None], None), delta


def test_one_step_of_softmax_regression_by_hand():
    learner = NumpyLearner(Logistic(), TASK, Facts("two", (2,), 2), Descent(0.1), Work(batch_size=0))
    sent = learner.spec.zeros()
    data = Examples(np.array([[1.0, 2.0], [1.0, 2.0]], np.float32), np.array([0, 0]))
    trained, delta = train(learner, sent, data)
    views = learner.spec.views(delta)
    np.testing.assert_allclose(views["dense0.weight"], [[0.05, 0.1], [-0.05, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(views["dense0.bias"], [0.05, -0.05], rtol=1e-6)
    assert trained.num_steps == 1
    assert trained.loss == pytest.approx(log(2)) and trained.loss_sq_mean == pytest.approx(log(2) ** 2)
    assert not sent.any()


@pytest.mark.parametrize("model", [Logistic(), MLP((5,)), MLP((8, 6, 5))])
@pytest.mark.parametrize("count", [1, 3, 23])
def test_backends_agree(model, count):
    work = Work(epochs=3, batch_size=5)
    mine = NumpyLearner(model, TASK, FACTS, Descent(), work)
    theirs = TorchLearner(model, TASK, FACTS, Descent(), work)
    sent, data = mine.initial(7), examples(count)
    assert mine.spec == theirs.spec and np.array_equal(sent, theirs.initial(7))
    trained, delta = train(mine, sent, data)
    their_trained, their_delta = train(theirs, sent, data)
    np.testing.assert_allclose(delta, their_delta, atol=1e-6)
    assert delta.any() and trained.num_steps == their_trained.num_steps
    assert trained.loss == pytest.approx(their_trained.loss, rel=1e-5)
    assert trained.loss_sq_mean == pytest.approx(their_trained.loss_sq_mean, rel=1e-5)
    found, expected = (learner.evaluate(sent + delta, examples(703, 1)) for learner in (mine, theirs))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert found["accuracy"] == expected["accuracy"]


def mean_loss(spec, vector, data):
    """The same in float64 and written differently: the loss of one example after another."""
    views, losses = spec.views(vector), []
    for x, y in zip(data.x, data.y, strict=True):
        values = (x.ravel() / 255 - FACTS.mean) / FACTS.std
        for i in range(len(views) // 2):
            values = views[f"dense{i}.weight"] @ (values.clip(0) if i else values) + views[f"dense{i}.bias"]
        losses.append(np.log(np.exp(values).sum()) - values[y])
    return np.mean(losses)


@pytest.mark.parametrize("model", [Logistic(), MLP((5,)), MLP((8, 6))])
def test_gradient_is_that_of_finite_differences(model):
    learner = NumpyLearner(model, TASK, FACTS, Descent(lr=1.0), Work(batch_size=0))
    sent, data = learner.initial(3), examples(12)
    trained, delta = train(learner, sent, data)
    assert trained.loss == pytest.approx(mean_loss(learner.spec, sent.astype(np.float64), data), rel=1e-6)
    for entry in learner.spec.entries:
        for at in range(entry.offset, entry.offset + entry.size):
            step = np.zeros(len(sent))
            step[at] = 1e-6
            up, down = mean_loss(learner.spec, sent + step, data), mean_loss(learner.spec, sent - step, data)
            assert delta[at] == pytest.approx((down - up) / 2e-6, abs=1e-6), (entry.name, at)


def test_rules_may_work_in_place_or_return_new_arrays():
    learners = [
        NumpyLearner(MLP(), TASK, FACTS, Descent(0.1, way), Work(batch_size=4)) for way in (True, False)
    ]
    sent = learners[0].initial(0)
    sent.flags.writeable = False
    one, two = (train(learner, sent, examples(10))[1] for learner in learners)
    assert np.array_equal(one, two) and one.any()


def test_clients_do_not_touch_each_other():
    learner = NumpyLearner(MLP(), TASK, FACTS, Descent(), Work())
    sent = learner.initial(0)
    first = train(learner, sent, examples(10))[1]
    train(learner, sent, examples(30, 1), key=1)
    learner.evaluate(sent + 1, examples(5))
    assert np.array_equal(train(learner, sent, examples(10))[1], first)


def test_divergence_is_not_finite_and_no_warning():
    learner = NumpyLearner(MLP(), TASK, FACTS, Descent(lr=1e30), Work(steps=20, batch_size=2))
    trained, delta = train(learner, learner.initial(0), examples(10))
    assert not np.isfinite(delta).all() and not np.isfinite(trained.loss)


def test_a_client_without_examples_trains_nothing():
    learner = NumpyLearner(Logistic(), TASK, FACTS, Descent(), Work())
    trained, delta = train(learner, learner.initial(0), examples(0))
    assert (trained.num_steps, trained.loss) == (0, 0.0) and not delta.any()


def test_what_it_cannot_train_is_refused():
    with pytest.raises(
        UserError, match=r"\(logistic, mlp, or .* but leaf_cnn is something else; use backend torch"
    ):
        NumpyLearner(LeafCNN(), TASK, FACTS, Descent(), Work())
    with pytest.raises(UserError, match="mlp reads numbers, but task next_character"):
        NumpyLearner(MLP(), NextCharacter(), Facts("text", (8,), 4), Descent(), Work())
