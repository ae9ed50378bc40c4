import sys
from dataclasses import dataclass

import pytest

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.work import Work
from muster.learn.learners import choose_backend, make_learner
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP
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
