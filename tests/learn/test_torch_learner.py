from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from muster.core.algorithm import Local
from muster.core.errors import DataError, UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.torch_learner import TorchLearner
from muster.models.convolutional import ConvNet2
from muster.models.dense import Logistic
from muster.models.own import OwnModel
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter

TASK = Classification()
IMAGES = Facts("images", (1, 8, 8), 3)
FEATURES = Facts("features", (4,), 3)


@dataclass(frozen=True)
class Rule(Local):
    """SGD with momentum that returns new arrays."""

    lr: float = 0.1
    momentum: float = 0.0

    def step(self, params: Any, gradient: Any, sent: Any, memory: Any) -> tuple[Any, Any]:
        velocity = self.momentum * memory.get("velocity", 0) + gradient
        return params - self.lr * velocity, {"velocity": velocity}


def images(count, seed=0):
    draw = np.random.default_rng(seed)
    return Examples(draw.normal(size=(count, 1, 8, 8)).astype(np.float32), draw.integers(0, 3, count))


def features(count, seed=0):
    draw = np.random.default_rng(seed)
    return Examples(draw.normal(size=(count, 4)).astype(np.float32), draw.integers(0, 3, count))


def own(tmp_path, body, facts=FEATURES, local=None, work=None):
    (tmp_path / "net.py").write_text("import torch\nfrom torch import nn\n\n" + body)
    return TorchLearner(
        OwnModel(f"{tmp_path / 'net.py'}:Net"), TASK, facts, local or Rule(), work or Work(batch_size=4)
    )


NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4{momentum})
        self.drop, self.dense = nn.Dropout(0.3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        return self.dense(self.drop(torch.relu(self.norm(self.conv(x))).flatten(1)))
"""


def plainly(learner, sent, module, examples, generator, work, rule):
    """The plain mode: a module of the client's own, parameter by parameter."""
    module.load_state_dict({n: torch.tensor(v) for n, v in learner.spec.views(sent).items()}, strict=False)
    module.train()
    batches, velocity = list(work.batches(len(examples), generator)), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        for index in batches:
            module.zero_grad()
            outputs = module(torch.tensor(examples.x[index]))
            cross_entropy(outputs, torch.tensor(examples.y[index])).backward()
            with torch.no_grad():
                for name, p in module.named_parameters():
                    old = velocity.get(name)
                    velocity[name] = p.grad.clone() if old is None else rule.momentum * old + p.grad
                    p -= rule.lr * velocity[name]
    return {n: t.numpy() for n, t in module.state_dict().items() if t.is_floating_point()}


@pytest.mark.parametrize("momentum", ["", ", momentum=None"])  # None averages by the integer buffer
def test_sharing_one_module_equals_a_fresh_module_per_client_to_the_bit(tmp_path, momentum):
    rule, work = Rule(0.1, 0.9), Work(epochs=2, batch_size=4)
    learner = own(tmp_path, NET.format(momentum=momentum), IMAGES, rule, work)
    fresh = deepcopy(OwnModel(f"{tmp_path / 'net.py'}:Net").torch(IMAGES))
    sent = learner.initial(0)
    clients = [images(n, seed) for seed, n in enumerate((11, 3, 1, 8))]  # a short last batch, sub-batch, one
    kept = [deepcopy(fresh) for _ in clients]
    for i in (0, 1, 2, 3, 0):
        delta = learner.spec.zeros()
        learner.train({"model": sent}, clients[i], rng(0, "train", i), delta[None], None)
        expected = plainly(learner, sent, deepcopy(kept[i]), clients[i], rng(0, "train", i), work, rule)
        for name, view in learner.spec.views(delta).items():
            assert np.array_equal(view, expected[name] - learner.spec.views(sent)[name]), name
    assert set(expected) == {entry.name for entry in learner.spec.entries}


def test_evaluation_between_clients_changes_nothing(tmp_path):
    learner = own(tmp_path, NET.format(momentum=""), IMAGES)
    sent, deltas = learner.initial(0), []
    for _ in range(2):
        deltas.append(learner.spec.zeros())
        learner.train({"model": sent}, images(9), rng(0, "train", 1), deltas[-1][None], None)
        learner.evaluate(sent + deltas[-1], images(30, 5))
    assert np.array_equal(*deltas)


def test_layout_of_convnet2():
    learner = TorchLearner(ConvNet2(hidden=8), TASK, IMAGES, Rule(), Work())
    kinds = {entry.name: entry.kind for entry in learner.spec.entries}
    assert kinds == {
        **{"0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm"},
        **{"4.weight": "weight", "4.bias": "bias", "5.weight": "norm", "5.bias": "norm"},
        **{"10.weight": "weight", "10.bias": "bias", "13.weight": "weight", "13.bias": "bias"},
        **{"1.running_mean": "statistic", "1.running_var": "statistic"},
        **{"5.running_mean": "statistic", "5.running_var": "statistic"},
    }
    assert all(entry.offset % 16 == 0 for entry in learner.spec.entries)
    assert learner.spec.size - learner.spec.trained == 32 + 32 + 64 + 64
    views = learner.spec.views(learner.initial(0))
    assert (views["1.running_var"] == 1).all() and (views["1.weight"] == 1).all()


def test_one_step_of_softmax_regression_by_hand():
    facts = Facts("two", (2,), 2)
    learner = TorchLearner(Logistic(), TASK, facts, Rule(0.1), Work(batch_size=0))
    sent, delta = learner.spec.zeros(), learner.spec.zeros()
    one = Examples(np.array([[1.0, 2.0]], np.float32), np.array([0]))
    trained = learner.train({"model": sent}, one, rng(0, "t"), delta[None], None)
    views = learner.spec.views(delta)  # softmax is (1/2, 1/2): gradient (-1/2, 1/2) x (1, 2)
    np.testing.assert_allclose(views["dense0.weight"], [[0.05, 0.1], [-0.05, -0.1]], rtol=1e-6)
    np.testing.assert_allclose(views["dense0.bias"], [0.05, -0.05], rtol=1e-6)
    assert trained.num_steps == 1
    assert trained.loss == pytest.approx(log(2)) and trained.loss_sq_mean == pytest.approx(log(2) ** 2)
    assert not sent.any()


def test_losses_are_means_over_examples_not_over_batches():
    learner = TorchLearner(Logistic(), TASK, FEATURES, Rule(1e-30), Work(epochs=2, batch_size=4))
    sent, examples = learner.initial(1), features(9)
    trained = learner.train({"model": sent}, examples, rng(0, "t"), learner.spec.zeros()[None], None)
    weight, bias = learner.spec.views(sent).values()
    scores = examples.x.astype(np.float64) @ weight.T + bias
    losses = np.log(np.exp(scores).sum(1)) - scores[np.arange(9), examples.y]
    assert trained.num_steps == 6
    assert trained.loss == pytest.approx(losses.mean(), rel=1e-6)
    assert trained.loss_sq_mean == pytest.approx((losses**2).mean(), rel=1e-6)


def test_evaluation_equals_plain_torch(tmp_path):
    learner = own(tmp_path, NET.format(momentum=""), IMAGES)
    examples, params = images(1203), learner.initial(4)  # two whole batches of 500 and a short one
    params += np.float32(0.01)
    module = OwnModel(f"{tmp_path / 'net.py'}:Net").torch(IMAGES).eval()
    module.load_state_dict({n: torch.tensor(v) for n, v in learner.spec.views(params).items()}, strict=False)
    with torch.no_grad():
        outputs = module(torch.tensor(examples.x))
    found = learner.evaluate(params, examples)
    assert found["loss"] == pytest.approx(float(cross_entropy(outputs, torch.tensor(examples.y))), rel=1e-5)
    assert found["accuracy"] == np.mean(outputs.argmax(1).numpy() == examples.y)


def test_a_lone_example_is_normalised_by_running_statistics(tmp_path):
    body = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
"""
    learner = own(tmp_path, body, local=Rule(1.0))
    sent, examples, delta = learner.initial(0), features(5), learner.spec.zeros()
    one = examples.slice(0, 1)
    learner.train({"model": sent}, one, rng(0, "t"), delta[None], None)
    module = OwnModel(f"{tmp_path / 'net.py'}:Net").torch(FEATURES)
    module.load_state_dict({n: torch.tensor(v) for n, v in learner.spec.views(sent).items()}, strict=False)
    module.train()
    module[1].eval()
    cross_entropy(module(torch.tensor(one.x)), torch.tensor(one.y)).backward()
    views = learner.spec.views(delta)
    assert not views["1.running_mean"].any() and not views["1.running_var"].any()
    np.testing.assert_allclose(views["0.weight"], -module[0].weight.grad.numpy(), rtol=1e-5, atol=1e-7)
    assert views["0.weight"].any()
    # 5 examples in batches of 4: the batch of 4 moves the statistics, the lone one after it does not
    trained = learner.train({"model": sent}, examples, rng(0, "t"), delta[None], None)
    assert trained.num_steps == 2 and np.isfinite(delta).all() and views["1.running_mean"].any()


def test_tied_weights_are_laid_out_once_and_frozen_ones_stay(tmp_path):
    body = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.two.weight = self.one.weight
        self.head.bias.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("mask", torch.ones(4), persistent=False)

    def forward(self, x):
        return self.head(self.two(self.one(x) * self.mask))
"""
    learner = own(tmp_path, body)
    names = [entry.name for entry in learner.spec.entries]
    assert names == ["unused", "one.weight", "one.bias", "two.bias", "head.weight", "head.bias"]
    assert learner.spec.entries[-1].kind == "statistic"
    delta = learner.spec.zeros()
    learner.train({"model": learner.initial(0)}, features(8), rng(0, "t"), delta[None], None)
    views = learner.spec.views(delta)
    assert views["one.weight"].any() and not views["head.bias"].any() and not views["unused"].any()


def test_buffers_that_a_module_replaces_are_brought_back(tmp_path):
    body = """
class Net(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + len(x)
            self.calls = self.calls + 1
            assert self.calls <= 2, "another client's count"
        return super().forward(x)
"""
    learner = own(tmp_path, body)
    sent, delta = learner.initial(0), learner.spec.zeros()
    for _ in range(2):
        learner.train({"model": sent}, features(7), rng(0, "t"), delta[None], None)
        assert learner.spec.views(delta)["seen"] == 7


def test_torchs_own_generator_is_left_alone(tmp_path):
    learner = own(tmp_path, NET.format(momentum=""), IMAGES)
    before = torch.get_rng_state()
    sent = learner.initial(0)
    learner.train({"model": sent}, images(6), rng(0, "t"), learner.spec.zeros()[None], None)
    learner.evaluate(sent, images(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_depends_on_the_seed_only(tmp_path):
    learner = own(tmp_path, NET.format(momentum=""), IMAGES)
    first = learner.initial(0)
    torch.manual_seed(99)
    assert np.array_equal(learner.initial(0), first)
    assert not np.array_equal(learner.initial(1), first)


def test_read_only_vectors_and_rules_that_work_in_place():
    @dataclass(frozen=True)
    class Proximal(Local):
        """In place, and reads the model sent: FedProx with mu = 1."""

        def step(self, params: Any, gradient: Any, sent: Any, memory: Any) -> tuple[Any, Any]:
            gradient += params - sent["model"]
            gradient *= 0.5
            params -= gradient
            return params, memory

    learner = TorchLearner(Logistic(), TASK, FEATURES, Proximal(), Work(steps=3, batch_size=4))
    sent, delta, again = learner.initial(0), learner.spec.zeros(), learner.spec.zeros()
    learner.train({"model": sent}, features(9), rng(0, "t"), delta[None], None)
    sent.flags.writeable = False
    learner.train({"model": sent}, features(9), rng(0, "t"), again[None], None)
    assert np.array_equal(delta, again) and delta.any()


def test_a_client_without_examples_trains_nothing():
    learner = TorchLearner(Logistic(), TASK, FEATURES, Rule(), Work())
    delta = np.ones(learner.spec.size, np.float32)
    trained = learner.train({"model": learner.initial(0)}, features(0), rng(0, "t"), delta[None], None)
    assert (trained.num_steps, trained.loss, trained.loss_sq_mean) == (0, 0.0, 0.0) and not delta.any()


def test_text_is_learnt():
    text = np.tile(np.arange(4, dtype=np.uint8), 20)
    starts = np.arange(60)
    examples = Examples(starts, text[starts + 5], text)
    model, facts = CharLSTM(embed=4, hidden=16), Facts("text", (5,), 4, vocabulary="abcd")
    learner = TorchLearner(model, NextCharacter(), facts, Rule(0.5, 0.9), Work(epochs=40, batch_size=10))
    sent, delta = learner.initial(0), learner.spec.zeros()
    learner.train({"model": sent}, examples, rng(0, "t"), delta[None], None)
    assert learner.evaluate(sent, examples)["accuracy"] < 0.6
    assert learner.evaluate(sent + delta, examples)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("Linear(4, 3, dtype=torch.float64)", "has weight in float64, but must be float32"),
        ("Flatten()", "has no parameters to train"),
        ("Linear(4, 5)", r"gives \[2, 5\] for 2 examples, but must give \[2, 3\]"),
        ("Linear(7, 3)", r"cannot read what task classification makes of features .*shape \[4\]"),
        ("LSTM(4, 3)", "gives tuple for 2 examples"),
    ],
)
def test_networks_that_do_not_fit_are_refused_at_once(tmp_path, network, sentence):
    base, given = network.rstrip(")").split("(")
    body = f"class Net(nn.{base}):\n    def __init__(self):\n        super().__init__({given})\n"
    with pytest.raises(UserError, match=sentence):
        own(tmp_path, body)


def test_bad_labels_are_refused_in_training():
    learner = TorchLearner(Logistic(), TASK, FEATURES, Rule(), Work())
    examples = Examples(features(4).x, np.array([0, 1, 2, 3]))
    with pytest.raises(DataError, match="features has the label 3"):
        learner.train({"model": learner.initial(0)}, examples, rng(0, "t"), learner.spec.zeros()[None], None)
