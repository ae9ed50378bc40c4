"""Pickles are read by a machine that cannot call anything: hostile ones are refused, honest ones read."""

from __future__ import annotations

import json
import pickletools
import struct
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from muster.core.errors import DataError
from muster.devices import plain_pickle
from muster.devices.plain_pickle import read_plain_pickle

MARKER = "a-pickle-ran"


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


TOUCH = f"touch {MARKER}".encode()
X = b"X\x01\x00\x00\x00"
ORDERED = b"ccollections\nOrderedDict\n"
HOSTILE = {
    "os.system, protocol 0": b"cos\nsystem\n(S'" + TOUCH + b"'\ntR.",
    "posix.system, protocol 1": b"cposix\nsystem\nq\x00(U" + bytes([len(TOUCH)]) + TOUCH + b"tq\x01R.",
    "os.system, protocol 2": b"\x80\x02cos\nsystem\nX" + struct.pack("<I", len(TOUCH)) + TOUCH + b"\x85R.",
    "getoutput, protocol 3": b"\x80\x03csubprocess\ngetoutput\n" + short(TOUCH.decode()) + b"\x85R.",
    "stack global, protocol 4": b"\x80\x04" + short("os") + short("system") + b"\x93" + X + b"x\x85R.",
    "stack global in a frame, protocol 5": b"\x80\x05\x95" + struct.pack("<Q", 12) + short("os")
    + short("system") + b"\x93.",
    "eval": b"c__builtin__\neval\n(S'open(\"" + MARKER.encode() + b"\",\"w\")'\ntR.",
    "exec as a value in a dict": b"\x80\x02}q\x00" + X + b"acbuiltins\nexec\n" + X + b"1\x85Rs.",
    "nested in lists": b"\x80\x02]]]cos\nsystem\nX\x01\x00\x00\x00x\x85Raaa.",
    "inst": b"(S'" + TOUCH + b"'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'" + TOUCH + b"'\no.",
    "newobj": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "newobj ex": b"\x80\x04" + short("os") + short("system") + b"\x93)}\x92.",
    "build on a dict": b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "build on an OrderedDict": b"\x80\x02" + ORDERED + b")R}X\x01\x00\x00\x00aK\x01sb.",
    "extension registry": b"\x80\x02\x82\x01.",
    "extension registry, 4 bytes": b"\x80\x02\x84\x01\x00\x00\x00.",
    "persistent id": b"Pos.system\n.",
    "persistent id from the stack": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "OrderedDict with arguments": b"\x80\x02" + ORDERED + b"](K\x01K\x02ea\x85R.",
    "OrderedDict that is only named": b"\x80\x02" + ORDERED + b".",
    "OrderedDict in a list": b"\x80\x02]" + ORDERED + b"a.",
    "OrderedDict in a tuple": b"\x80\x02" + ORDERED + b"\x85.",
    "OrderedDict as a key": b"\x80\x02}" + ORDERED + b"K\x01s.",
    "OrderedDict recalled into a list": b"\x80\x02" + ORDERED + b"q\x00](h\x00e.",
    "almost OrderedDict": b"\x80\x02ccollections\nOrderedDict.fromkeys\n)R.",
    "OrderedDict of another module": b"\x80\x02cevil.collections\nOrderedDict\n)R.",
    "a name from the memo": b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x940h\x00h\x01\x93)R.",
    "a call of the memo": b"\x80\x02" + ORDERED + b"q\x000cos\nsystem\nq\x000h\x00)R.",
    "a call of a string": b"\x80\x02X\x01\x00\x00\x00x)R.",
    "billion laughs": b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([n + 1]) + b"(" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(40)
    ) + b".",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "a set": b"\x80\x04\x8f.",
    "too deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "marks without end": b"\x80\x02" + b"(" * 100_000 + b".",
    "a giant number": b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b".",
    "a length beyond the file": b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"x.",
    "a second pickle behind": b"\x80\x02K\x01.cos\nsystem\n(S'" + TOUCH + b"'\ntR.",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "an empty stack": b"\x80\x02.",
    "a list as a key": b"\x80\x02}]K\x01s.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "recall of nothing": b"\x80\x02h\x07.",
    "text that is no number": b"I--\n.",
    "no pickle": b"computation,communication\n1,2\n",
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_refused_before_anything_runs(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    with pytest.raises(DataError, match=r"^device\.bin: this pickle ") as refused:
        read_plain_pickle(data, "device.bin")
    assert "\n" not in str(refused.value) and str(refused.value).endswith("can run code")
    assert list(tmp_path.iterdir()) == []
    assert set(sys.modules) == modules


def test_the_first_payloads_would_run_in_pickle_itself(tmp_path):
    # So that the test above does not pass for payloads that are merely broken.
    for name in ("os.system, protocol 0", "posix.system, protocol 1", "os.system, protocol 2", "inst", "obj"):
        code = f"import pickle; pickle.loads({HOSTILE[name]!r})"
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        (tmp_path / MARKER).unlink()


def honest(expression, protocol):
    """The pickle that Python makes of an expression, in a process of its own."""
    code = (
        "import pickle, sys; from collections import OrderedDict\n"
        f"sys.stdout.buffer.write(pickle.dumps({expression}, {protocol}))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout


ROWS = {1: {"computation": 153, "communication": 2209.6159823294856}, 2: {"computation": 39, "x": -(2**62)}}


@pytest.mark.parametrize("protocol", range(6))
def test_honest_pickles_are_read(protocol):
    assert read_plain_pickle(honest(repr(ROWS), protocol), "f") == ROWS
    row = "OrderedDict(active=[k, 2 * k], inactive=[], model='é' * k, none=(None, True, -1.5)[:k])"
    nested = f"OrderedDict((k, {row}) for k in range(3))"
    found = read_plain_pickle(honest(nested, protocol), "f")
    assert found[2] == {"active": [2, 4], "inactive": [], "model": "éé", "none": (None, True)}
    assert list(found) == [0, 1, 2] and type(found) is dict
    tuples = [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), 300, 70000]
    assert read_plain_pickle(honest(repr(tuples), protocol), "f") == tuples


def test_the_limits(monkeypatch):
    data = honest("[[1, 2, 3], [4]]", 4)
    assert read_plain_pickle(data, "f") == [[1, 2, 3], [4]]
    limits = {"MAX_BYTES": len(data) - 1, "MAX_CONTAINERS": 2, "MAX_VALUES": 3, "MAX_MEMO": 2}
    for limit, value in limits.items():
        with monkeypatch.context() as patch:
            patch.setattr(plain_pickle, limit, value)
            with pytest.raises(DataError, match=r"this pickle has (more than )?\d+"):
                read_plain_pickle(data, "f")
    assert read_plain_pickle(honest("[[[[[[[[[[1]]]]]]]]]]", 4), "f")
    with pytest.raises(DataError, match="nested more than 10 levels deep"):
        read_plain_pickle(honest("[[[[[[[[[[[[1]]]]]]]]]]]]", 4), "f")


plain = st.recursive(
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner)
    ),
    max_leaves=15,
)


def is_plain(value):
    if isinstance(value, dict):
        return all(type(k) in (str, int, float) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


CODES = [op.code.encode("latin-1") for op in pickletools.opcodes]


@example_settings(max_examples=400, deadline=None)
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(CODES) | st.binary(max_size=5), max_size=60).map(b"".join)
    | st.tuples(st.sampled_from(list(HOSTILE.values())), st.integers(0, 60), st.binary(max_size=3)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    )
)
def test_whatever_the_bytes_are_they_are_read_or_refused(data):
    with suppress(DataError):
        assert is_plain(read_plain_pickle(data, "f"))


@example_settings(max_examples=200, deadline=None)
@given(plain)
def test_plain_data_by_opcodes_of_our_own_is_read_back(value):
    assert json.dumps(read_plain_pickle(b"\x80\x04" + written(value) + b".", "f")) == json.dumps(value)


def written(value):
    """A pickle's opcodes for plain data, by the book."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(data)) + data
    if isinstance(value, list):
        return b"](" + b"".join(map(written, value)) + b"e"
    return b"}(" + b"".join(written(k) + written(v) for k, v in value.items()) + b"u"
