"""The clients' lasting states: what can be kept, and a log that goes back and goes on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core import store as module
from muster.core.store import ClientStore, decode, encode


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros(0, np.float32),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1], np.uint64),
        np.array([np.nan, np.inf, -0.0]),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(10, dtype=np.int16)[::3],
        np.arange(3, dtype=">f4"),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_arrays_come_back_with_their_shape_and_bits(array):
    again = decode(encode({"a": array}))["a"]
    assert (again.shape, again.dtype) == (array.shape, array.dtype.newbyteorder("="))
    assert again.tobytes() == np.asarray(array, again.dtype).tobytes()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**30),
        1e-320,
        "",
        "ünï\n\0",
        [],
        {},
        {"a": [1, None, {"b": []}]},
        "plain",
        [[1], 2.5],
    ],
)
def test_json_values_come_back_equal(value):
    assert decode(encode({"plain": value, "other": 1})) == {"plain": value, "other": 1}


def test_what_json_changes():
    kept = decode(encode({"pair": (1, 2), "nan": math.nan, "counts": {1: 2}}))
    assert (kept["pair"], kept["counts"]) == ([1, 2], {"1": 2})
    assert math.isnan(kept["nan"])


def test_an_empty_state_is_a_state():
    assert decode(encode({})) == {}


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (
            {"f": print},
            "'f' is a builtin_function_or_method, but only NumPy arrays and JSON values can be kept",
        ),
        ({"s": {1, 2}}, "'s' is a set"),
        ({"x": np.float32(1)}, "'x' is a float32"),
        ({"l": [np.zeros(2)]}, "'l' is a list"),
        ({"b": b"bytes"}, "'b' is a bytes"),
        ({"a": np.array(["x"])}, "'a' is an array of <U1, but only numbers"),
        ({"a": np.array([None])}, "'a' is an array of object"),
        ({"a": np.zeros(1, complex)}, "'a' is an array of complex128"),
        ({"a": np.zeros(1, [("x", "i4")])}, "'a' is an array of"),
        ({1: np.zeros(1)}, "1 cannot be a name"),
        ({1: 2}, "1 cannot be a name"),
        ({"__metadata__": np.zeros(1)}, "'__metadata__' cannot be a name"),
    ],
)
def test_what_cannot_be_kept_is_named(state, says):
    with pytest.raises(TypeError, match=says):
        encode(state)


def test_a_state_is_replaced_and_others_stay(tmp_path):
    store = ClientStore(tmp_path)
    assert store.read(3) is None and len(store) == 0
    store.write(3, b"three")
    store.write(10**12, b"far")
    store.write(3, b"III")
    store.write(4, b"")
    assert [store.read(c) for c in (3, 10**12, 4, 5)] == [b"III", b"far", b"", None]
    assert len(store) == 3
    store.close()


def test_nothing_is_made_before_the_first_write(tmp_path):
    store = ClientStore(tmp_path / "clients")
    store.read(1), store.mark(), store.rollback(), store.save()
    assert not (tmp_path / "clients").exists()
    store.write(1, b"x")
    assert (tmp_path / "clients").is_dir()
    store.close()


def test_rollback_goes_back_to_the_mark(tmp_path):
    store = ClientStore(tmp_path)
    store.write(1, b"one")
    store.mark()
    store.write(1, b"uno")
    store.write(1, b"eins")
    store.write(2, b"two")
    store.rollback()
    assert [store.read(1), store.read(2), len(store)] == [b"one", None, 1]
    store.write(2, b"zwei")
    store.mark()
    store.rollback()
    assert store.read(2) == b"zwei"
    store.close()


def through_json(saved):
    control, columns = saved
    return json.loads(json.dumps(control)), {k: v.copy() for k, v in columns.items()}


def test_load_goes_back_to_the_save_and_cuts_what_came_after(tmp_path):
    store = ClientStore(tmp_path)
    store.write(1, b"one")
    store.write(2, b"two")
    saved = through_json(store.save())
    store.write(1, b"later")
    store.write(3, b"three")
    store.close()
    again = ClientStore(tmp_path)
    again.load(*saved)
    assert [again.read(c) for c in (1, 2, 3)] == [b"one", b"two", None]
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [6]
    again.write(3, b"III")
    assert [again.read(c) for c in (1, 2, 3)] == [b"one", b"two", b"III"]
    again.close()


def test_an_empty_store_can_be_saved_and_loaded(tmp_path):
    saved = through_json(ClientStore(tmp_path / "a").save())
    store = ClientStore(tmp_path / "a")
    store.load(*saved)
    assert len(store) == 0 and store.read(0) is None


@pytest.mark.parametrize("left", [None, 0, 5])
def test_a_log_that_is_missing_or_too_short_is_refused(tmp_path, left):
    store = ClientStore(tmp_path)
    store.write(1, b"sixsix")
    saved = through_json(store.save())
    store.close()
    (path,) = tmp_path.iterdir()
    path.unlink() if left is None else path.write_bytes(b"sixsix"[:left])
    with pytest.raises(ValueError, match="is missing or shorter than 6 bytes"):
        ClientStore(tmp_path).load(*saved)


def test_a_log_of_stale_states_is_rewritten_and_the_old_one_kept_for_older_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_COMPACT_BYTES", 100)
    store = ClientStore(tmp_path)
    for i in range(20):
        store.write(i % 2, b"%010d" % i)
        if i == 9:
            early = through_json(store.save())
    # 200 bytes, of which 20 are live.
    late = through_json(store.save())
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == {
        "clients-0000.log": 200,
        "clients-0001.log": 20,
    }
    assert [store.read(0), store.read(1)] == [b"0000000018", b"0000000019"]
    store.write(0, b"new")
    store.close()

    older = ClientStore(tmp_path)
    older.load(*early)
    assert [older.read(0), older.read(1)] == [b"0000000008", b"0000000009"]
    older.close()

    newer = ClientStore(tmp_path)
    newer.load(*late)
    assert [newer.read(0), newer.read(1)] == [b"0000000018", b"0000000019"]
    newer.prune({0})
    assert len(list(tmp_path.iterdir())) == 2
    newer.prune(set())
    assert [p.name for p in tmp_path.iterdir()] == ["clients-0001.log"]
    assert newer.read(1) == b"0000000019"
    newer.close()


def test_a_log_is_rewritten_whenever_more_than_half_of_it_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_COMPACT_BYTES", 100)
    store, generations = ClientStore(tmp_path), []
    for i in range(60):
        store.write(i % 10, b"0123456789")
        generations.append(store.save()[0]["generation"])
    # 100 bytes are live. The log is rewritten as soon as it has 210, and begins anew with 100: after 21
    # writes, then after every 11.
    assert [i + 1 for i in range(1, 60) if generations[i] != generations[i - 1]] == [21, 32, 43, 54]
    store.close()


def test_a_log_of_live_states_is_not_rewritten(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_COMPACT_BYTES", 100)
    store = ClientStore(tmp_path)
    for client in range(20):
        store.write(client, b"0123456789")
    for client in range(20):
        store.write(client, b"9876543210")
    store.save()  # 400 bytes, of which 200 are live: not more than half is stale
    assert [p.name for p in tmp_path.iterdir()] == ["clients-0000.log"]
    store.close()


def test_a_temporary_store_leaves_nothing_behind():
    store = ClientStore()
    store.write(1, b"x")
    folder = store.folder
    assert folder.is_dir() and store.read(1) == b"x"
    store.close()
    assert not folder.exists()


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.sampled_from("wwwmrsl"), st.integers(0, 4), st.binary(max_size=6)), max_size=40))
def test_it_does_what_a_dictionary_does(tmp_path_factory, actions):
    folder = tmp_path_factory.mktemp("clients")
    store, now, marked = ClientStore(folder), {}, {}
    saved, kept = None, {}
    old, module.MIN_COMPACT_BYTES = module.MIN_COMPACT_BYTES, 8
    try:
        for action, client, state in actions:
            if action == "w":
                store.write(client, state)
                now = now | {client: state}
            elif action == "m":
                store.mark()
                marked = now
            elif action == "r":
                store.rollback()
                now = marked
            elif action == "s":  # as a run does it: at the end of a version
                store.mark()
                saved, kept, marked = through_json(store.save()), now, now
            elif saved is not None:
                store.close()
                store = ClientStore(folder)
                store.load(*saved)
                now = marked = kept
            assert {c: store.read(c) for c in range(5) if store.read(c) is not None} == now
            assert len(store) == len(now)
    finally:
        module.MIN_COMPACT_BYTES = old
        store.close()
