"""The layout of a flat model: offsets by hand, views that are views, a hash of values alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.params import ParamSpec

steady = settings(deadline=None, derandomize=True, database=None)

SPEC = ParamSpec.of(
    [
        ("conv", (3, 5), "weight"),  # 15 elements: one line of 16
        ("mean", (20,), "statistic"),  # a buffer: goes last, two lines
        ("bias", (17,), "bias"),  # two lines
        ("temperature", (), "weight"),  # one number, one line
        ("scale", (16,), "norm"),  # one line, to the full
    ]
)


def test_the_layout_by_hand():
    assert [(e.name, e.offset, e.size) for e in SPEC.entries] == [
        ("conv", 0, 15),
        ("bias", 16, 17),
        ("temperature", 48, 1),
        ("scale", 64, 16),
        ("mean", 80, 20),
    ]
    assert (SPEC.size, SPEC.trained, SPEC.num_parameters, SPEC.num_bytes) == (112, 80, 49, 448)


SHAPES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 7), max_size=3).map(tuple),
        st.sampled_from(["weight", "bias", "norm", "statistic"]),
    ),
    max_size=8,
)


@steady
@given(SHAPES)
def test_any_layout_is_aligned_apart_and_ends_with_the_buffers(shapes):
    spec = ParamSpec.of((f"p{i}", shape, kind) for i, (shape, kind) in enumerate(shapes))
    end = 0
    for entry in spec.entries:
        assert 4 * entry.offset % 64 == 0
        assert end <= entry.offset < end + 16
        if entry.size:
            assert (entry.kind == "statistic") == (entry.offset >= spec.trained)
        end = entry.offset + entry.size
    assert end <= spec.size < end + 16
    names = [f"p{i}" for i, (_, kind) in enumerate(shapes) if kind != "statistic"]
    assert [e.name for e in spec.entries][: len(names)] == names, "the order given, buffers last"
    assert ParamSpec.from_json(spec.to_json()) == spec


def test_views_are_views():
    vector = SPEC.zeros()
    views = SPEC.views(vector)
    views["conv"][2, 4] = 7.0
    views["temperature"][...] = 3.0
    assert (vector[14], vector[48]) == (7.0, 3.0)
    vector[80] = 5.0
    assert views["mean"][0] == 5.0
    assert {k: v.shape for k, v in views.items()} == {
        "conv": (3, 5),
        "bias": (17,),
        "temperature": (),
        "scale": (16,),
        "mean": (20,),
    }


def test_torch_sees_the_same_views():
    torch = pytest.importorskip("torch")
    vector = torch.zeros(SPEC.size)
    views = SPEC.views(vector)
    views["conv"][2, 4] = 7.0
    assert vector[14] == 7.0 and views["temperature"].shape == ()


def arrays(seed=0):
    draw = np.random.default_rng(seed)
    return {e.name: draw.normal(size=e.shape).astype(np.float32) for e in SPEC.entries}


def test_pack_is_the_inverse_of_views_and_leaves_the_padding_zero():
    vector = SPEC.pack(arrays())
    for name, view in SPEC.views(vector).items():
        assert view.tolist() == arrays()[name].tolist()
    padding = np.ones(SPEC.size, bool)
    for entry in SPEC.entries:
        padding[entry.offset : entry.offset + entry.size] = False
    assert padding.sum() == 112 - 69 and not vector[padding].any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bias": None}, "bias is missing, found: conv, temperature, scale, mean"),
        ({"bias": np.zeros((17, 1))}, r"bias has shape \(17, 1\), but must have \(17,\)"),
        ({"bias": 0.0}, r"bias has shape \(\), but must have \(17,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, says):
    given = {k: v for k, v in (arrays() | change).items() if v is not None}
    with pytest.raises(ValueError, match=says):
        SPEC.pack(given)


def test_the_hash_is_of_values_names_and_shapes_and_not_of_padding():
    vector = SPEC.pack(arrays())
    hashed = SPEC.sha256(vector)
    padded = vector.copy()
    padded[15] = padded[33] = padded[111] = 9.0
    assert SPEC.sha256(padded) == hashed
    for index in (0, 14, 16, 48, 99):
        moved = vector.copy()
        moved[index] = np.nextafter(moved[index], np.float32(np.inf))
        assert SPEC.sha256(moved) != hashed
    zeros = {
        ParamSpec.of([(name, shape, "weight")]).sha256(np.zeros(16, np.float32))
        for name, shape in (("a", (2, 3)), ("a", (3, 2)), ("b", (2, 3)), ("a", (6,)))
    }
    assert len(zeros) == 4


def test_the_hash_of_one_number_by_hand():
    import hashlib

    one = np.array([1.0], "<f4").tobytes()
    spec = ParamSpec.of([("w", (1,), "weight")])
    assert spec.sha256(spec.pack({"w": [1.0]})) == hashlib.sha256(b"w(1,)" + one).hexdigest()


def test_a_model_in_the_likeness_of_conv_net_2():
    # 28 x 28 pixels, two 5 x 5 convolutions of 32 and 64 channels with BatchNorm, 2,048 hidden, 62 classes.
    layers = []
    for i, (into, out) in enumerate([(1, 32), (32, 64)]):
        layers += [(f"conv{i}.w", (out, into, 5, 5), "weight"), (f"conv{i}.b", (out,), "bias")]
        layers += [(f"bn{i}.w", (out,), "norm"), (f"bn{i}.b", (out,), "norm")]
        layers += [(f"bn{i}.mean", (out,), "statistic"), (f"bn{i}.var", (out,), "statistic")]
    for i, (into, out) in enumerate([(7 * 7 * 64, 2048), (2048, 62)]):
        layers += [(f"fc{i}.w", (out, into), "weight"), (f"fc{i}.b", (out,), "bias")]
    spec = ParamSpec.of(layers)
    assert spec.num_parameters == 6_603_902
    # All but the last bias (62 of 64) fill their lines; 32 + 32 + 64 + 64 running statistics follow.
    assert spec.trained == 6_603_904 and spec.size == 6_604_096
    assert [e.name for e in spec.entries[-4:]] == ["bn0.mean", "bn0.var", "bn1.mean", "bn1.var"]


def test_wrong_layouts_are_refused():
    with pytest.raises(ValueError, match="w has kind 'wieght', allowed: weight, bias, norm, statistic"):
        ParamSpec.of([("w", (1,), "wieght")])
    with pytest.raises(ValueError, match="same name"):
        ParamSpec.of([("w", (1,), "weight"), ("w", (1,), "bias")])


def test_a_model_of_nothing():
    spec = ParamSpec.of([])
    assert (spec.size, spec.trained, spec.num_parameters) == (0, 0, 0)
