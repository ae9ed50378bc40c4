"""Layouts and precisions: what they change is rounding, and how far."""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.client import OwnClient
from muster.learn.layout import pool_first
from muster.learn.learners import make_learner
from muster.learn.numerics import Numerics
from muster.models.dense import MLP
from muster.models.model import Model
from muster.tasks.classification import Classification

torch = pytest.importorskip("torch")

FACTS = Facts("images", (1, 12, 12), 3)
WORK = Work(epochs=2, batch_size=4)


@dataclass(frozen=True)
class Images(Model):
    """Two convolutions of images of one channel and of many, and a layer that factors pay for."""

    pool: bool = True

    def torch(self, facts):
        nn = torch.nn
        second = nn.MaxPool2d(2) if self.pool else nn.AvgPool2d(2)
        return nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), second),
            *(nn.Flatten(), nn.Linear(144, 512), nn.ReLU(), nn.Linear(512, 512), nn.Linear(512, 3)),
        )


def trained(numerics, local=SGD(lr=0.1), model=Images()):
    learner = make_learner("torch", model, Classification(), FACTS, local, WORK, numerics)
    draw = rng(0, "images")
    data = Examples(draw.normal(size=(10, 1, 12, 12)).astype(np.float32), draw.integers(0, 3, 10))
    up, sent = np.zeros((1, learner.spec.size), np.float32), {"model": learner.initial(1)}
    done = learner.train(sent, data, rng(1, "train"), up, None)
    return learner, up[0], done.loss, learner.scores(sent["model"] + up[0], data)


@pytest.mark.parametrize("local", [SGD(lr=0.1), SGD(lr=0.1, momentum=0.9), SGD(lr=0.1, clip_norm=0.1)])
def test_channels_last_changes_the_last_digits(local):
    _, first, loss, scores = trained(Numerics("auto", "channels_first"), local)
    learner, last, also, found = trained(Numerics("auto", "channels_last"), local)
    assert learner.numerics.layout == "channels_last" and np.abs(first).max() > 1e-3
    np.testing.assert_allclose(last, first, atol=1e-5)
    assert also == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found["loss"], scores["loss"], rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_before_a_relu_changes_no_bit(layout):
    """Windows with no positive number, and whole images of them, among the others."""
    nn = torch.nn
    torch.manual_seed(0)
    first = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2))
    other, seen = copy.deepcopy(first), []
    pool_first(other)
    for part in other:
        part.register_forward_hook(lambda part, args, out: seen.append((type(part).__name__, out.shape[-1])))
    x = torch.randn(5, 4, 12, 12)
    x[0] = -x[0].abs()
    x[1, :, :6] = -0.0
    made = []
    for module in (first, other):
        inputs = x.to(memory_format=layout).requires_grad_()
        outputs = module(inputs)
        (outputs * outputs.cos()).sum().backward()
        made.append([outputs, inputs.grad, *(parameter.grad for parameter in module.parameters())])
    assert all((a == b).all() for a, b in zip(*made, strict=True))
    assert seen == [("MaxPool2d", 6), ("ReLU", 6), ("Conv2d", 4), ("MaxPool2d", 2), ("ReLU", 2)]


def test_images_are_channels_last_between_layers():
    learner, *_ = trained(Numerics("auto", "auto"))
    seen = []
    for part in learner._flat.module:
        if isinstance(part, torch.nn.MaxPool2d | torch.nn.AvgPool2d):
            part.register_forward_hook(lambda _, args, out: seen.extend([args[0].stride(), out.stride()]))
    learner.scores(learner.initial(0), Examples(np.zeros((2, 1, 12, 12), np.float32), np.zeros(2, np.int64)))
    assert [strides[1] for strides in seen] == [1] * 4  # from one channel to the next


def test_auto_turns_models_that_pool():
    assert trained(Numerics("auto", "auto"))[0].numerics == Numerics("factored", "channels_last")
    assert trained(Numerics("auto", "auto"), model=Images(pool=False))[0].numerics == Numerics("factored")


@pytest.mark.parametrize("gradients", ["plain", "fused", "factored"])
def test_bfloat16_trains_to_two_digits(gradients):
    """Eight bits of a product: an update is off by 2 % of its length at most, on this small model."""
    _, exact, loss, _ = trained(Numerics(gradients))
    learner, rough, also, _ = trained(Numerics(gradients, precision="bfloat16"))
    assert learner.numerics.precision == "bfloat16"
    off = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < off < 0.02
    assert also == pytest.approx(loss, rel=0.01)


def test_bfloat16_is_the_same_to_the_bit_every_time():
    one, two = (trained(Numerics("auto", "auto", "bfloat16"))[1] for _ in range(2))
    assert one.tobytes() == two.tobytes()


class OnlyFloat32(torch.nn.Module):
    """Adds what a layer gives to numbers of its own, which must be of one kind."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(144, 3)

    def forward(self, x):
        rows = torch.arange(len(x))
        return x.new_zeros(len(x), 3).index_add(0, rows, self.layer(x.flatten(1)))


@dataclass(frozen=True)
class Stiff(Model):
    def torch(self, facts):
        return OnlyFloat32()


def test_a_model_that_knows_only_float32_is_refused_before_it_trains():
    trained(Numerics("auto", "auto"), model=Stiff())
    parts = (Stiff(), Classification(), FACTS, SGD(), WORK)
    with pytest.raises(UserError, match=r"in which model stiff cannot .*; use engine.precision=float32"):
        make_learner("torch", *parts, Numerics(precision="bfloat16"))


def test_evaluation_stays_float32():
    exact, rough = trained(Numerics()), trained(Numerics(precision="bfloat16"))
    data = Examples(np.ones((3, 1, 12, 12), np.float32), np.zeros(3, np.int64))
    same = exact[0].initial(4)
    assert exact[0].scores(same, data)["loss"].tolist() == rough[0].scores(same, data)["loss"].tolist()


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("numerics", [Numerics(layout="channels_last"), Numerics(precision="bfloat16")])
def test_they_are_for_torch(backend, numerics):
    with pytest.raises(UserError, match=rf"are for backend torch, but this is {backend}; use engine.backend"):
        make_learner(backend, MLP(), Classification(), FACTS, SGD(), WORK, numerics)


@pytest.mark.parametrize(
    ("field", "asked", "only"),
    [("gradients", "factored", "plain"), ("layout", "channels_last", "channels_first")],
)
def test_cohorts_in_torch_have_one_way(field, asked, only):
    def make(value):
        parts = (Images(), Classification(), FACTS, SGD(), WORK)
        return make_learner("torch", *parts, replace(Numerics("auto", "auto"), **{field: value}), chunk=2)

    assert make("auto").numerics == make(only).numerics == Numerics()
    with pytest.raises(UserError, match=rf"engine.{field} {asked} is for clients one after .*; use auto"):
        make(asked)


def test_a_client_of_ones_own_says_itself_what_it_computes_in(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from muster.learn.client import Client\n"
        "class Mine(Client):\n    def train(self, data, model, conf):\n        return model, {}\n"
    )
    mine = OwnClient(f"{tmp_path}/mine.py:Mine")
    assert trained(Numerics("auto", "auto"), mine)[0].numerics == Numerics("plain", "channels_last")
    with pytest.raises(UserError, match=r"precision is bfloat16, but must be float32 where a client of your"):
        trained(Numerics(precision="bfloat16"), mine)
