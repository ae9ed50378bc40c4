import numpy as np
import pytest
import torch

from muster.core.errors import FieldError, UserError
from muster.core.examples import Examples, Facts
from muster.core.part import dumps, loads
from muster.core.randomness import rng
from muster.core.work import Work
from muster.learn.client import OwnClient
from muster.learn.learners import make_learner
from muster.models.convolutional import ConvNet2
from muster.models.dense import Logistic
from muster.tasks.classification import Classification

FACTS = Facts("features", (4,), 3)
HEADER = """
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from muster.learn.client import Client

"""
SGD = """
class Mine(Client):
    def train(self, data, model, conf):
        optimizer = torch.optim.SGD(model.parameters(), lr=conf.lr)
        for index in conf.work.batches(len(data), self.rng):
            optimizer.zero_grad()
            loss = cross_entropy(model(data.x[index]), data.y[index])
            loss.backward()
            optimizer.step()
        return {result}
"""


def features(count):
    draw = np.random.default_rng(0)
    return Examples(draw.normal(size=(count, 4)).astype(np.float32), draw.integers(0, 3, count))


@pytest.fixture
def make(tmp_path):
    def learner(body, backend="torch", work=None, **settings):
        file = tmp_path / f"mine{len(list(tmp_path.iterdir()))}.py"  # a file is imported once per process
        file.write_text(HEADER + body)
        local = OwnClient(f"{file}:Mine", settings)
        return make_learner(backend, Logistic(), Classification(), FACTS, local, work or Work())

    return learner


def train(learner, kept=None, count=6):
    sent, delta = learner.initial(0), learner.spec.zeros()
    trained = learner.train({"model": sent}, features(count), rng(0, "train", 0), delta[None], kept)
    return trained, learner.spec.views(delta), learner.spec.views(sent)


def test_own_sgd_is_sgd(make):
    learner = make(SGD.format(result="model"), work=Work(epochs=2, batch_size=4), lr=0.5)
    trained, delta, sent = train(learner)
    weight = torch.tensor(sent["dense0.weight"], requires_grad=True)
    bias = torch.tensor(sent["dense0.bias"], requires_grad=True)
    generator, data, optimizer = rng(0, "train", 0), features(6), torch.optim.SGD([weight, bias], lr=0.5)
    generator.integers(2**63)  # torch's seed is drawn first
    for index in Work(epochs=2, batch_size=4).batches(6, generator):
        optimizer.zero_grad()
        outputs = torch.tensor(data.x[index]) @ weight.T + bias
        torch.nn.functional.cross_entropy(outputs, torch.tensor(data.y[index])).backward()
        optimizer.step()
    np.testing.assert_allclose(
        delta["dense0.weight"], weight.detach().numpy() - sent["dense0.weight"], atol=1e-6
    )
    np.testing.assert_allclose(delta["dense0.bias"], bias.detach().numpy() - sent["dense0.bias"], atol=1e-6)
    assert trained.num_steps == 4
    # no loss was returned: that of the model received
    assert trained.loss == pytest.approx(learner.evaluate(learner.initial(0), features(6))["loss"])


SHIFTS = {
    "flat": "np.full(len_flat, 0.25, np.float32)",
    "named": "{'dense0.weight': np.full((3, 4), 0.25), 'dense0.bias': np.full(3, 0.25)}",
    "metrics": "(np.full(len_flat, 0.25), {'loss': np.float32(1.5)})",
}


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize("kind", SHIFTS)
def test_a_delta_may_be_flat_or_named_with_metrics_or_without(make, backend, kind):
    learner = make(
        f"len_flat = 32\nclass Mine(Client):\n    def train(self, *given):\n        return {SHIFTS[kind]}\n",
        backend,
    )
    trained, delta, _ = train(learner)
    assert (delta["dense0.weight"] == 0.25).all() and (delta["dense0.bias"] == 0.25).all()
    assert (trained.loss == 1.5 and trained.loss_sq_mean == 2.25) == (kind == "metrics")


def test_numpy_clients_change_named_arrays(make):
    body = """
class Mine(Client):
    def train(self, data, model, conf):
        assert data.x.shape == (6, 4) and data.y.dtype == np.int64 and len(data) == 6
        model.parameters["dense0.bias"] += conf.step
        model.parameters["dense0.weight"] = model.parameters["dense0.weight"] + 2 * conf.step
        return model, {"loss": 2.0, "loss_sq_mean": 5.0}
"""
    trained, delta, _ = train(make(body, "numpy", step=0.5))
    np.testing.assert_allclose(delta["dense0.bias"], 0.5, rtol=1e-6)
    np.testing.assert_allclose(delta["dense0.weight"], 1.0, rtol=1e-6)
    assert (trained.loss, trained.loss_sq_mean) == (2.0, 5.0)


def test_parameters_that_were_replaced_count_too(make):
    body = """
class Mine(Client):
    def train(self, data, model, conf):
        for p in model.parameters():
            p.data = p.data + 1
            p.requires_grad_(False)
        return model
"""
    learner = make(body)
    for _ in range(2):  # what the first client froze and replaced is not the second's
        _, delta, _ = train(learner)
        np.testing.assert_allclose(delta["dense0.bias"], 1, rtol=1e-5)
        np.testing.assert_allclose(delta["dense0.weight"], 1, rtol=1e-5)


STATEFUL = """
class Mine(Client):
    def __init__(self):
        self.state = {"visits": 10, "trace": np.zeros(2)}

    def train(self, data, model, conf):
        self.state["visits"] += 1
        self.state["trace"] += self.state["visits"]
        self.state["note"] = torch.ones(1)
        return model
"""


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_state_lasts_through_kept_only(make, backend):
    learner = make(STATEFUL, backend)
    first = train(learner)[0].kept
    assert first["visits"] == 11 and first["trace"].tolist() == [11, 11]
    assert isinstance(first["note"], np.ndarray)
    first["trace"].flags.writeable = False  # the store's own copy is not to be written to
    second = train(learner, first)[0].kept
    assert second["visits"] == 12 and second["trace"].tolist() == [23, 23]
    assert first["visits"] == 11 and first["trace"].tolist() == [11, 11]
    assert train(learner)[0].kept["visits"] == 11  # another client, or the same after a discarded task


def test_buffers_travel_with_the_model_and_may_be_left_out_of_a_delta(tmp_path):
    (tmp_path / "mine.py").write_text(
        HEADER
        + """
class Mine(Client):
    def train(self, data, model, conf):
        model(data.x)
        if conf.whole:
            return model
        return {n: torch.ones_like(p) for n, p in model.named_parameters()}
"""
    )
    facts, draw = Facts("images", (1, 4, 4), 3), np.random.default_rng(0)
    data = Examples(draw.normal(size=(5, 1, 4, 4)).astype(np.float32), draw.integers(0, 3, 5))
    for whole in (True, False):
        local = OwnClient(f"{tmp_path / 'mine.py'}:Mine", {"whole": whole})
        learner = make_learner("torch", ConvNet2(hidden=4), Classification(), facts, local, Work())
        delta = learner.spec.zeros()
        learner.train({"model": learner.initial(0)}, data, rng(0, "t"), delta[None], None)
        views = learner.spec.views(delta)
        assert views["1.running_mean"].any() == whole
        assert (views["13.weight"] == (0 if whole else 1)).all()


@pytest.mark.parametrize("backend", ["torch", "numpy"])
@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ("None", "Mine.train returned NoneType, but must return the trained model"),
        ("'model'", "Mine.train returned str, but must return"),
        ("np.zeros(14)", r"a delta of shape \[14\], but its shape must be \[15\]"),
        ("{'dense0.weight': np.zeros((3, 4))}", "wrong model or delta: dense0.bias is missing"),
        ("{'dense0.weigth': np.zeros((3, 4))}", "'dense0.weigth'.*did you mean 'dense0.weight'"),
        ("{'dense0.weight': np.zeros((4, 3)), 'dense0.bias': np.zeros(3)}", r"has shape \(4, 3\), but must"),
        ("(np.zeros(32), {'loss': 'low'})", "metrics that are no numbers"),
    ],
)  # fmt: skip
def test_wrong_returns_name_the_class_and_the_fix(make, backend, result, sentence):
    body = f"class Mine(Client):\n    def train(self, data, model, conf):\n        return {result}\n"
    with pytest.raises(UserError, match=sentence):
        train(make(body, backend))


def test_a_state_dict_is_no_delta(make):
    with pytest.raises(UserError, match="the model's own arrays"):
        train(make(SGD.format(result="model.state_dict()"), lr=0.1))


def test_a_state_that_cannot_be_kept_is_refused(make):
    body = """
class Mine(Client):
    def train(self, data, model, conf):
        self.state["model"] = model
        return model
"""
    with pytest.raises(UserError, match=r"Mine\.state\['model'\] is Sequential, but the state keeps numbers"):
        train(make(body))


def test_what_the_users_code_raises_goes_through(make):
    body = "class Mine(Client):\n    def train(self, *given):\n        raise ZeroDivisionError('theirs')\n"
    with pytest.raises(ZeroDivisionError, match="theirs"):
        train(make(body))
    with pytest.raises(NotImplementedError, match="Mine needs a method train"):
        train(make("class Mine(Client):\n    pass\n"))
    with pytest.raises(UserError, match=r"must be a class that inherits from muster\.Client"):
        train(make("class Mine:\n    pass\n"))


def test_torch_randomness_is_the_tasks_own(make):
    body = """
class Mine(Client):
    def train(self, data, model, conf):
        return torch.rand(32), {"loss": 1.0}
"""
    learner, before = make(body), torch.get_rng_state()
    one, two = (train(learner)[1]["dense0.weight"] for _ in range(2))
    assert np.array_equal(one, two) and torch.equal(torch.get_rng_state(), before)


def test_the_part_is_its_own_configuration():
    local = OwnClient("mine.py:Mine", {"lr": 0.1, "sizes": [1, 2]})
    assert local.settings == (("lr", 0.1), ("sizes", (1, 2))) and local.keeps
    assert loads(dumps(local)) == local and hash(local) == hash(loads(dumps(local)))
    with pytest.raises(FieldError, match=r"local\.settings is 'epochs'"):
        OwnClient("mine.py:Mine", {"epochs": 3})


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_flat_delta_may_be_the_parameters_in_a_row_without_padding(make, backend):
    body = (
        "class Mine(Client):\n    def train(self, *given):\n        return np.arange(15, dtype=np.float32)\n"
    )
    _, delta, _ = train(make(body, backend))
    named = list(delta.values())  # 12 weights, then 3 biases
    assert np.concatenate([np.ravel(array) for array in named]).tolist() == list(range(15))
