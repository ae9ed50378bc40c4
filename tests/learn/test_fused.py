"""Fused steps, and gradients as factors, against a flat gradient: the same training, to rounding."""

from dataclasses import dataclass

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.algorithms.fedprox import Prox
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.numerics import Numerics
from muster.models.model import Model
from muster.tasks.classification import Classification

torch = pytest.importorskip("torch")

FACTS = Facts("wide", (8,), 3)
WORK = Work(epochs=2, batch_size=4)


class Twice(torch.nn.Module):
    """A wide layer that is used twice, between small ones."""

    def __init__(self, width=512, idle=False, bias=True):
        super().__init__()
        self.first, self.last = torch.nn.Linear(8, width), torch.nn.Linear(width, 3)
        self.wide = torch.nn.Linear(width, width, bias=bias)
        if idle:
            self.idle = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.wide(torch.tanh(self.wide(self.first(x))))))


@dataclass(frozen=True)
class Wide(Model):
    outside: bool = False
    width: int = 512
    idle: bool = False
    bias: bool = True

    def torch(self, facts):
        module = Twice(self.width, self.idle, self.bias)
        if self.outside:
            plain = module.forward
            module.forward = lambda x: plain(x) + module.wide.weight.sum() * 1e-3
        return module


def trained(gradients, local, model=Wide()):
    from muster.learn.torch_learner import TorchLearner

    learner = TorchLearner(model, Classification(), FACTS, local, WORK, Numerics(gradients))
    draw = rng(0, "wide")
    data = Examples(draw.normal(size=(10, 8)).astype(np.float32), draw.integers(0, 3, 10))
    up = np.zeros((1, learner.spec.size), np.float32)
    done = learner.train({"model": learner.initial(1)}, data, rng(1, "train"), up, None)
    return learner, up[0], done


@pytest.mark.parametrize("gradients", ["fused", "factored"])
@pytest.mark.parametrize("local", [SGD(lr=0.5), SGD(lr=0.5, clip_norm=0.05), SGD(lr=0.5, clip_norm=50.0)])
def test_they_train_what_a_flat_gradient_trains(local, gradients):
    _, plain, told = trained("plain", local)
    learner, found, also = trained(gradients, local)
    assert learner.numerics.gradients == gradients and np.abs(plain).max() > 1e-3
    np.testing.assert_allclose(found, plain, atol=2e-6)
    assert told.num_steps == also.num_steps == 6
    assert also.loss == pytest.approx(told.loss, rel=1e-5)


def test_they_are_for_plain_sgd_only():
    for local in (SGD(momentum=0.9), SGD(weight_decay=0.1), Prox(mu=0.1)):
        assert trained("auto", local)[0].numerics.gradients == "plain"
        with pytest.raises(UserError, match=r"gradients is factored, but must be auto or plain: fused steps"):
            trained("factored", local)
    assert trained("auto", SGD())[0].numerics.gradients == "factored"


def test_a_batch_that_is_large_beside_the_layer_writes_gradients_out():
    from muster.learn.fused import wide_layers

    module, blank = Twice(), torch.zeros(2, 8)
    assert wide_layers(module, blank, 128) == [module.wide]  # 4 x 128 rows are as many as the layer's side
    assert wide_layers(module, blank, 129) == wide_layers(module, blank, 0) == []
    module.first = torch.nn.Sequential(module.first, torch.nn.Linear(512, 512))
    module.first[1].weight = module.wide.weight  # tied: another layer adds to the gradient
    assert wide_layers(module, blank, 4) == []


def test_a_weight_that_is_used_outside_its_layer_is_noticed():
    with pytest.raises(UserError, match=r"add engine\.gradients=plain"):
        trained("factored", SGD(), Wide(outside=True))


def test_a_model_without_wide_layers_steps_tensor_by_tensor():
    narrow = Wide(width=16)
    assert trained("auto", SGD(), narrow)[0].numerics.gradients == "fused"
    with pytest.raises(UserError, match=r"gradients is factored, but must be auto or fused: fused steps"):
        trained("factored", SGD(), narrow)


def test_a_layer_that_a_pass_leaves_out_stays_as_it_is():
    learner, found, _ = trained("fused", SGD(lr=0.5, clip_norm=1.0), Wide(idle=True))
    moved = learner.spec.views(found)
    assert not moved["idle.weight"].any() and moved["first.weight"].any()


def test_a_wide_layer_may_have_no_bias():
    _, plain, _ = trained("plain", SGD(lr=0.5), Wide(bias=False))
    learner, found, _ = trained("auto", SGD(lr=0.5), Wide(bias=False))
    assert learner.numerics.gradients == "factored"
    np.testing.assert_allclose(found, plain, atol=2e-6)
