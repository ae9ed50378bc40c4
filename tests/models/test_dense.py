import numpy as np
import pytest
import torch

from muster.core.errors import FieldError
from muster.core.examples import Facts
from muster.core.part import dumps, known, loads
from muster.models.dense import MLP, Logistic
from muster.models.model import Model

FACTS = Facts("images", (1, 8, 8), 10)


def test_the_zoo_is_found_by_name():
    assert set(known("muster.models", Model)) == {
        "logistic",
        "mlp",
        "leaf_cnn",
        "convnet2",
        "char_lstm",
        "own_model",
    }


def test_layers_and_number_of_parameters():
    assert Logistic().layers(FACTS) == ((64, 10),)
    assert MLP((32, 16)).layers(FACTS) == ((64, 32), (32, 16), (16, 10))
    assert Logistic().spec(FACTS).num_parameters == 64 * 10 + 10
    assert MLP().spec(FACTS).num_parameters == 64 * 64 + 64 + 64 * 10 + 10  # work B: 4,810


def test_layout_begins_every_array_at_64_bytes():
    spec = MLP((3,)).spec(Facts("features", (5,), 2))
    assert [(e.name, e.shape, e.kind, e.offset) for e in spec.entries] == [
        ("dense0.weight", (3, 5), "weight", 0),
        ("dense0.bias", (3,), "bias", 16),
        ("dense1.weight", (2, 3), "weight", 32),
        ("dense1.bias", (2,), "bias", 48),
    ]
    assert spec.size == spec.trained == 64


def test_initial_values_are_uniform_up_to_one_over_root_of_inputs():
    arrays = MLP((500,)).initial(FACTS, seed=3)
    for name, inputs in (("dense0", 64), ("dense1", 500)):
        bound = 1 / np.sqrt(inputs)
        weight = arrays[f"{name}.weight"]
        assert weight.dtype == np.float32 and abs(weight).max() <= bound
        assert abs(arrays[f"{name}.bias"]).max() <= bound
        assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_initial_values_depend_on_the_seed_only():
    first, again, other = (Logistic().initial(FACTS, seed) for seed in (0, 0, 1))
    assert np.array_equal(first["dense0.weight"], again["dense0.weight"])
    assert not np.array_equal(first["dense0.weight"], other["dense0.weight"])


def test_torch_module_computes_relu_layers():
    module = MLP((2,)).torch(Facts("features", (1, 1, 2), 2))
    values = {
        "dense0.weight": [[1.0, 0.0], [0.0, -1.0]],
        "dense0.bias": [0.0, 0.5],
        "dense1.weight": [[1.0, 2.0], [3.0, 4.0]],
        "dense1.bias": [0.0, 1.0],
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    with torch.no_grad():
        # hidden: relu(3) = 3, relu(-2 + .5) = 0
        assert module(torch.tensor([[[[3.0, 2.0]]]])).tolist() == [[3.0, 10.0]]


@pytest.mark.parametrize("hidden", [(0,), (2.5,), ("a",), 64, (True,)])
def test_bad_widths_are_refused(hidden):
    with pytest.raises(FieldError, match=r"mlp\.hidden is .* but must be a list of whole numbers"):
        MLP(hidden)


def test_json_round_trip():
    assert loads(dumps(MLP((7, 5)))) == MLP((7, 5))
