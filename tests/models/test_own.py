import pytest
import torch

from muster.core.errors import FieldError, UserError
from muster.core.examples import Facts
from muster.core.part import dumps, loads
from muster.models.own import OwnModel

FACTS = Facts("features", (4,), 3)
SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=5, bias=True):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width, bias=bias), nn.Linear(width, 3))

class Fitting(nn.Linear):
    def __init__(self, facts, bias=True):
        super().__init__(facts.input_shape[0], facts.num_classes, bias)

def function():
    return None
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "nets.py").write_text(SOURCE)
    return tmp_path / "nets.py"


def test_settings_reach_the_constructor(file):
    module = OwnModel(f"{file}:Net", (("width", 7), ("bias", False))).torch(FACTS)
    assert [tuple(p.shape) for p in module.parameters()] == [(7, 4), (3, 7), (3,)]


def test_facts_reach_a_constructor_that_asks_for_them(file):
    module = OwnModel(f"{file}:Fitting", {"bias": False}).torch(FACTS)
    assert isinstance(module, torch.nn.Linear) and module.weight.shape == (3, 4) and module.bias is None


def test_mapping_and_pairs_are_the_same_hashable_part(file):
    one = OwnModel(f"{file}:Net", {"width": 7, "bias": True})
    two = OwnModel(f"{file}:Net", (("bias", True), ("width", 7)))
    assert one == two and hash(one) == hash(two)
    assert loads(dumps(one)) == one
    assert OwnModel("a.py:B", {"sizes": [1, [2, 3]]}).settings == (("sizes", (1, (2, 3))),)


@pytest.mark.parametrize(
    "settings", [{"width": object()}, {"a b": 1}, {"width": {"x": 1}}, {"width": float("nan")}]
)
def test_settings_that_json_cannot_hold_are_refused(settings):
    with pytest.raises(FieldError, match=r"model\.settings"):
        OwnModel("a.py:B", settings)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("Net", {"widht": 7}, r"nets\.py:Net could not be built with widht=7: TypeError: .*'widht'"),
        ("Net", {"width": -1}, r"could not be built with width=-1: RuntimeError"),
        ("function", {}, r"must be a class that inherits from torch\.nn\.Module"),
        ("Nett", {}, r"has no 'Nett'; did you mean 'Net'\?"),
    ],
)
def test_the_users_mistakes_become_one_sentence(file, name, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        OwnModel(f"{file}:{name}", settings).torch(FACTS)
