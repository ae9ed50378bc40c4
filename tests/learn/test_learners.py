import sys
from dataclasses import dataclass

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.work import Work
from muster.learn.learners import choose_backend, choose_engine, make_learner
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP, Logistic
from muster.tasks.classification import Classification


@dataclass(frozen=True)
class Still(Local):
    def step(self, params, gradient, sent, memory):
        return params, memory


def test_auto_takes_torch_where_it_is_installed():
    assert choose_backend("auto", MLP()) == choose_backend("auto", LeafCNN()) == "torch"
    assert choose_backend("numpy", MLP()) == "numpy"


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    assert choose_backend("auto", MLP()) == "numpy"
    for asked, model in (("auto", LeafCNN()), ("torch", MLP())):
        with pytest.raises(UserError, match=r"pip install 'muster-fl\[torch\]'"):
            choose_backend(asked, model)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="backend numpy cannot train model leaf_cnn; it trains with torch"):
        choose_backend("numpy", LeafCNN())
    with pytest.raises(UserError, match=r"backend is 'torhc'.*did you mean 'torch'"):
        choose_backend("torhc", MLP())


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_learners_of_both_backends_have_one_layout(backend):
    facts = Facts("features", (4,), 3)
    learner = make_learner(backend, MLP((2,)), Classification(), facts, Still(), Work())
    assert learner.spec == MLP((2,)).spec(facts)
    assert backend in type(learner).__name__.lower()


FACTS = Facts("features", (64,), 10)


@dataclass(frozen=True)
class OneNorm(SGD):
    """Takes one norm over all that it is given, as if there were one client only."""

    def step(self, params, gradient, sent, memory):
        return params - gradient / np.linalg.norm(gradient), memory


def chosen(model, local, backend="auto", mode="auto", chunk="auto"):
    choice = choose_engine(backend, mode, chunk, model, FACTS, local)
    return choice.backend, choice.mode, choice.chunk


def test_small_dense_models_train_in_cohorts():
    # 64 x 64 + 64 + 64 x 10 + 10 padded to 16 is 4,816 numbers: 54 models fit into 1 MiB
    assert chosen(MLP((64,)), SGD()) == ("numpy", "cohort", 54)
    assert chosen(MLP((64,)), SGD(), chunk=7) == ("numpy", "cohort", 7)
    assert chosen(Logistic(), SGD()) == ("numpy", "cohort", 64)


def test_jax_trains_cohorts_of_dense_models_where_it_is_asked_for():
    pytest.importorskip("jax")
    assert chosen(MLP((64,)), SGD(), backend="jax") == ("jax", "cohort", 128)
    assert chosen(MLP((64,)), SGD(), backend="jax", mode="sequential")[:2] == ("jax", "sequential")
    with pytest.raises(UserError, match="backend jax cannot train model leaf_cnn; it trains with torch"):
        chosen(LeafCNN(), SGD(), backend="jax")


def test_numba_trains_dense_models_where_it_is_asked_for():
    pytest.importorskip("numba")
    assert chosen(MLP((64,)), SGD(), backend="numba") == ("numba", "cohort", 54)
    assert chosen(MLP((64,)), SGD(), backend="numba", mode="sequential")[:2] == ("numba", "sequential")
    with pytest.raises(UserError, match="backend numba cannot train model leaf_cnn; it trains with torch"):
        chosen(LeafCNN(), SGD(), backend="numba")


def test_without_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(UserError, match=r"pip install 'muster-fl\[numba\]'"):
        chosen(MLP(), SGD(), backend="numba")


def test_without_jax(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(UserError, match=r"pip install 'muster-fl\[jax\]'"):
        chosen(MLP(), SGD(), backend="jax")


def test_all_else_trains_one_client_after_another():
    assert chosen(MLP((2048,)), SGD()) == ("torch", "sequential", 1)  # a model fills the cache
    assert chosen(LeafCNN(), SGD()) == ("torch", "sequential", 1)
    assert chosen(MLP((64,)), SGD(), mode="sequential") == ("torch", "sequential", 1)
    assert chosen(MLP((64,)), SGD(), backend="torch") == ("torch", "sequential", 1)


def test_a_rule_for_one_client_only_is_noticed():
    assert chosen(MLP((64,)), OneNorm()) == ("torch", "sequential", 1)
    with pytest.raises(UserError, match="rows of clients; one_norm does not"):
        chosen(MLP((64,)), OneNorm(), mode="cohort")


def test_torch_trains_cohorts_of_other_models_where_they_are_asked_for():
    pytest.importorskip("torch")
    assert chosen(MLP((64,)), SGD(), mode="cohort", backend="torch") == ("torch", "cohort", 54)
    images = Facts("images", (1, 8, 8), 10)
    # 32 x 26 + 64 x 801 + 4 x 257 + 10 x 5 = 53,174 numbers: 4 models fit into 1 MiB
    choice = choose_engine("auto", "cohort", "auto", LeafCNN(dense=4), images, SGD())
    assert (choice.backend, choice.mode, choice.chunk) == ("torch", "cohort", 4)
    learner = make_learner("torch", MLP((2,)), Classification(), images, SGD(), Work(), chunk=4)
    assert type(learner).__name__ == "TorchCohort"


def test_cohorts_that_a_backend_cannot_train_are_refused():
    with pytest.raises(UserError, match="backend numpy cannot train model leaf_cnn; it trains with torch"):
        chosen(LeafCNN(), SGD(), mode="cohort", backend="numpy", chunk=2)


def test_cohorts_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'muster-fl\[torch\]'"):
        chosen(LeafCNN(), SGD(), mode="cohort")


def test_a_model_too_large_for_memory_is_refused_when_its_cohorts_are_sized():
    pytest.importorskip("torch")
    facts = Facts("images", (1, 28, 28), 10)
    with pytest.raises(UserError, match="model leaf_cnn does not fit into this machine's memory"):
        choose_engine("auto", "cohort", "auto", LeafCNN(dense=10**13), facts, SGD())


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_a_dense_model_larger_than_the_memory_is_refused_before_it_is_built(backend):
    facts = Facts("features", (4,), 3)
    # 4 inputs and a bias to each of 10^14, and those and a bias to each of 3 classes: 8 x 10^14 + 3.
    says = "model mlp has 800,000,000,000,003 parameters, 3,200,000 GB, but this machine has"
    with pytest.raises(UserError, match=says):
        make_learner(backend, MLP((10**14,)), Classification(), facts, Still(), Work())


def test_another_model_that_does_not_fit_into_memory_is_refused():
    pytest.importorskip("torch")
    facts = Facts("images", (1, 28, 28), 10)
    for width in (10**13, 10**18):
        with pytest.raises(UserError, match="model leaf_cnn does not fit into this machine's memory"):
            make_learner("torch", LeafCNN(dense=width), Classification(), facts, Still(), Work())
