"""Which torch modules are dense layers, and that NumPy and JAX train them as torch does."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.learners import as_dense, choose_engine, make_learner
from muster.learn.numerics import Numerics
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP
from muster.models.model import Model
from muster.tasks.classification import Classification

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional

FACTS = Facts("images", (1, 4, 6), 3)


class Crossed(nn.Module):
    """Its layers are not listed in the order in which they are passed through."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, 3)
        self.first = nn.Linear(24, 8)
        self.middle = nn.Linear(8, 5)

    def forward(self, x):
        x = x.view(x.shape[0], -1)
        return self.last(torch.relu(self.middle(F.relu(self.first(x)))))


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.relu = nn.Linear(24, 8), nn.Linear(8, 3), nn.ReLU()

    def forward(self, x):
        return self.last(self.relu(self.first(x.reshape(x.size(0), 24))))


def stack(*layers):
    return nn.Sequential(nn.Flatten(), *layers)


DENSE = {
    "stack": lambda: stack(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)),
    "one layer": lambda: stack(nn.Identity(), nn.Linear(24, 3)),
    "in place": lambda: stack(nn.Sequential(nn.Linear(24, 8), nn.ReLU(inplace=True)), nn.Linear(8, 3)),
    "crossed": Crossed,
    "rows": Rows,
}


class Twice(Rows):
    def forward(self, x):
        x = torch.flatten(x, 1)
        return self.last(self.relu(self.first(x))) + self.last(self.relu(self.first(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.same, self.last = nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.last(self.same(self.first(self.same(self.first(x)))))


class Scaled(Rows):
    def forward(self, x):
        return super().forward(x / 2)


class Asks(Rows):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Spare(Rows):
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(2))


class Counts(Rows):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))


def frozen():
    module = Rows()
    module.first.bias.requires_grad = False
    return module


def hooked():
    module = Rows()
    module.first.register_forward_hook(lambda module, inputs, outputs: 2 * outputs)
    return module


def normed():
    module = Rows()
    nn.utils.parametrizations.weight_norm(module.first)
    return module


OTHER = {
    "tanh": lambda: stack(nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)),
    "linear twice": lambda: stack(nn.Linear(24, 8), nn.Linear(8, 3)),
    "ends in relu": lambda: stack(nn.Linear(24, 3), nn.ReLU()),
    "begins with relu": lambda: stack(nn.ReLU(), nn.Linear(24, 3)),
    "no bias": lambda: stack(nn.Linear(24, 8, bias=False), nn.ReLU(), nn.Linear(8, 3)),
    "dropout": lambda: stack(nn.Linear(24, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3)),
    "norm": lambda: stack(nn.Linear(24, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)),
    "flattens too little": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(24, 3)),
    "float64": lambda: Rows().double(),
    **{cls.__name__: cls for cls in (Twice, Tied, Scaled, Asks, Spare, Counts)},
    "frozen": frozen,
    "hooked": hooked,
    "weight norm": normed,
}


@dataclass(frozen=True)
class Own(Model):
    """A network by its name in the tables above."""

    backends: ClassVar[tuple[str, ...]] = ("torch", "numpy", "numba", "jax")
    kind: str

    def torch(self, facts):
        return ({**DENSE, **OTHER})[self.kind]()


@pytest.mark.parametrize("kind", DENSE)
def test_dense_layers_are_found(kind):
    module, found = Own(kind).torch(FACTS), as_dense(Own(kind), FACTS)
    assert found is not None
    sizes = [part.weight.shape[::-1] for part in module.modules() if isinstance(part, nn.Linear)]
    assert sorted(found.layers(FACTS)) == sorted(map(tuple, sizes))
    assert {e.name: e.shape for e in found.spec(FACTS).entries} == {
        name: tuple(tensor.shape) for name, tensor in module.named_parameters()
    }


def test_layers_are_in_the_order_of_the_forward_pass_and_arrays_in_that_of_the_module():
    found = as_dense(Own("crossed"), FACTS)
    assert found.layers(FACTS) == ((24, 8), (8, 5), (5, 3))
    assert [e.name for e in found.spec(FACTS).entries][:3] == ["last.weight", "last.bias", "first.weight"]


@pytest.mark.parametrize("kind", OTHER)
def test_whatever_else_there_is_stays_torchs(kind):
    assert as_dense(Own(kind), FACTS) is None


def learnt(backend, kind, **more):
    learner = make_learner(backend, Own(kind), Classification(), FACTS, SGD(lr=0.2), Work(2, 4), **more)
    draw = rng(0, "images")
    data = Examples(draw.normal(size=(10, 1, 4, 6)).astype(np.float32), draw.integers(0, 3, 10))
    up, sent = np.zeros((1, learner.spec.size), np.float32), {"model": learner.initial(7)}
    done = learner.train(sent, data, rng(1, "train"), up, None)
    return learner.spec, sent["model"], up[0], done.loss, learner.scores(sent["model"] + up[0], data)["loss"]


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize("kind", DENSE)
def test_other_backends_train_them_from_the_same_bits_to_the_same_model(backend, kind):
    pytest.importorskip(backend)
    spec, initial, update, loss, scores = learnt("torch", kind)
    other = learnt(backend, kind)
    assert other[0] == spec and other[1].tobytes() == initial.tobytes() and np.abs(update).max() > 1e-2
    np.testing.assert_allclose(other[2], update, atol=1e-5 * np.abs(update).max())
    assert other[3] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(other[4], scores, rtol=1e-4)


def test_cohorts_are_chosen_for_them():
    assert choose_engine("auto", "auto", "auto", Own("rows"), FACTS, SGD()).mode == "cohort"
    assert choose_engine("auto", "auto", "auto", Own("rows"), FACTS, SGD()).backend == "numpy"
    assert choose_engine("auto", "auto", "auto", Own("tanh"), FACTS, SGD()).mode == "sequential"
    assert choose_engine("auto", "sequential", "auto", Own("rows"), FACTS, SGD()).backend == "torch"


@pytest.mark.parametrize(
    "asked", [Numerics("fused"), Numerics(layout="channels_last"), Numerics(precision="bfloat16")]
)
@pytest.mark.parametrize("model", [Own("rows"), MLP((4,))])
def test_what_only_torch_has_is_torchs_to_train(model, asked):
    choice = choose_engine("auto", "auto", "auto", model, FACTS, SGD(), asked)
    assert (choice.backend, choice.mode) == ("torch", "sequential")


def test_backends_that_cannot_say_so():
    with pytest.raises(
        UserError, match=r"module of your own that is no more.*own is something else; use back"
    ):
        learnt("numpy", "tanh")
    assert as_dense(LeafCNN(), FACTS) is None
