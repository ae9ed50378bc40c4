"""Cohorts in torch against the same clients one after another, and the models that are refused."""

from dataclasses import dataclass

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.algorithms.scaffold import Controlled
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import Draws, keys, rng
from muster.core.work import Work
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.models.dense import MLP
from muster.models.model import Model
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter

torch = pytest.importorskip("torch")
from muster.learn.torch_cohort import TorchCohort  # noqa: E402

SIZES = (7, 0, 3, 8, 1, 4)
IMAGES, TEXT, ROWS = Facts("images", (1, 8, 8), 3), Facts("text", (6,), 5), Facts("rows", (4,), 3)


@dataclass(frozen=True)
class Still(Model):
    """A layer norm, a frozen weight, and a buffer that travels and is only read."""

    def torch(self, facts):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = torch.nn.LayerNorm(4)
                self.frozen = torch.nn.Parameter(torch.full((4,), 0.5), requires_grad=False)
                self.register_buffer("scale", torch.tensor(2.0))
                self.dense = torch.nn.Linear(4, facts.num_classes)

            def forward(self, x):
                return self.dense(self.norm(x) * self.frozen * self.scale)

        return Net()


def data(facts):
    draw, count = rng(0, "torch cohort"), sum(SIZES)
    y = draw.integers(0, facts.num_classes, count)
    if facts is TEXT:
        return Examples(np.arange(count), y, draw.integers(0, 5, count + 6).astype(np.uint8))
    return Examples(draw.normal(size=(count, *facts.input_shape)).astype(np.float32), y)


def both(learner, local, facts, steps=(0,) * 6, kept=(None,) * 6):
    """Six clients one after another and together, from models of their own: (ups, measured) of each way."""
    examples, ends = data(facts), np.cumsum(SIZES)
    owned = [slice(end - size, end) for end, size in zip(ends.tolist(), SIZES, strict=True)]
    sent = {"model": np.stack([learner.initial(i % 2) for i in range(6)])}
    sent |= {name: np.full((6, learner.spec.trained), 0.01, np.float32) for name in local.down[1:]}
    alone, one_by_one = np.zeros((6, len(local.up), learner.spec.size), np.float32), []
    for i, own in enumerate(owned):
        mine = {name: vectors[i] for name, vectors in sent.items()}
        part = examples.slice(own.start, own.stop)
        done = learner.train(mine, part, rng(0, "train", i, 0), alone[i], kept[i], steps[i])
        one_by_one.append(done)
    up, before = np.full_like(alone, 9.0), {name: vectors.copy() for name, vectors in sent.items()}
    draws = Draws(keys(0, "train", range(6), [0] * 6))
    done = learner.train_together(sent, examples, owned, draws, up, list(kept), np.array(steps))
    assert all((sent[name] == vectors).all() for name, vectors in before.items())
    return (alone, one_by_one), (up, done)


def agree(alone, one_by_one, up, done):
    assert np.abs(alone[0, 0]).max() > 1e-3
    np.testing.assert_allclose(up, alone, atol=1e-5 * np.abs(alone).max())
    assert done.num_steps.tolist() == [each.num_steps for each in one_by_one]
    np.testing.assert_allclose(done.loss, [each.loss for each in one_by_one], rtol=1e-5)
    np.testing.assert_allclose(done.loss_sq_mean, [each.loss_sq_mean for each in one_by_one], rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "task", "facts"),
    [
        (MLP((5,)), Classification(), ROWS),
        (LeafCNN(dense=8), Classification(), IMAGES),
        (CharLSTM(embed=4, hidden=8, layers=2), NextCharacter(), TEXT),
        (Still(), Classification(), ROWS),
    ],
)
def test_each_client_gets_what_it_gets_alone(model, task, facts):
    local, work = SGD(lr=0.1, momentum=0.9, clip_norm=1.0), Work(epochs=2, batch_size=3)
    learner = TorchCohort(model, task, facts, local, work)
    (alone, one_by_one), (up, done) = both(learner, local, facts)
    agree(alone, one_by_one, up, done)
    for name in ("frozen", "scale"):
        if name in learner.spec.views(up[0, 0]):
            assert not learner.spec.views(up[0, 0])[name].any()


def test_clients_may_have_numbers_of_steps_of_their_own():
    local, steps = SGD(momentum=0.5), (1, 4, 0, 2, 6, 0)
    learner = TorchCohort(LeafCNN(dense=8), Classification(), IMAGES, local, Work(batch_size=3))
    (alone, one_by_one), (up, done) = both(learner, local, IMAGES, steps)
    assert done.num_steps.tolist() == [1, 0, 1, 2, 6, 2]
    agree(alone, one_by_one, up, done)


def test_lasting_states_go_in_and_come_out_beside_what_does_not_train():
    learner = TorchCohort(Still(), Classification(), ROWS, Controlled(), Work(batch_size=3))
    mine = {"control": np.linspace(-0.1, 0.1, learner.spec.trained, dtype=np.float32)}
    assert learner.spec.trained < learner.spec.size
    (alone, one_by_one), (up, done) = both(
        learner, Controlled(), ROWS, kept=(None, mine, mine, None, None, mine)
    )
    agree(alone, one_by_one, up, done)
    assert done.kept[1] is None
    for state, each in zip(done.kept, one_by_one, strict=True):
        if state is not None:
            np.testing.assert_allclose(state["control"], each.kept["control"], atol=1e-5)


@dataclass(frozen=True)
class Centred(Model):
    """Takes the mean of the batch from each example."""

    def torch(self, facts):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.dense = torch.nn.Linear(4, facts.num_classes)

            def forward(self, x):
                return self.dense(x - x.mean(0))

        return Net()


@dataclass(frozen=True)
class Dropping(Model):
    """Drops inputs at random."""

    def torch(self, facts):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, facts.num_classes))


@pytest.mark.parametrize(
    ("model", "facts", "says"),
    [
        (ConvNet2(hidden=4), IMAGES, "cannot train model convnet2 in torch: it has BatchNorm"),
        (Centred(), ROWS, "an example's gradient depends on the others of its batch; use engine.mode seq"),
        (Dropping(), ROWS, "called random operation while in randomness error mode"),
    ],
)
def test_models_whose_examples_see_each_other_or_chance_are_refused(model, facts, says):
    with pytest.raises(UserError, match=says):
        TorchCohort(model, Classification(), facts, SGD(), Work(batch_size=3))
