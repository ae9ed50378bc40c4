"""The wire format: what comes out is what went in, and nothing else comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from muster.net.wire import (
    Layout,
    Route,
    WireError,
    compressed,
    decompress,
    encode,
    expand,
    mapped,
    write_file,
)

SIZE = 5000


def vector() -> Any:
    return np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)


def sent(tmp_path: Path, layout: Layout, value: Any) -> Any:
    write_file(tmp_path / "up", encode(layout, {"delta": value}))
    expand(tmp_path / "up", layout, tmp_path / "raw")
    return mapped(tmp_path / "raw", Layout(layout.vectors))["delta"]


def test_without_a_codec_every_bit_arrives_and_others_can_read_it(tmp_path: Path) -> None:
    layout = Layout((("delta", SIZE),))
    assert np.array_equal(sent(tmp_path, layout, vector()), vector())
    data = (tmp_path / "up").read_bytes()
    assert np.array_equal(load(data)["delta"], vector())
    assert layout.num_bytes == len(data) <= 1.01 * 4 * SIZE + 200


def test_fp16_and_int8_round_and_topk_keeps_the_largest(tmp_path: Path) -> None:
    value = vector()
    half = sent(tmp_path, Layout((("delta", SIZE),), "fp16"), value)
    assert np.array_equal(half, value.astype(np.float16).astype(np.float32))
    whole = sent(tmp_path, Layout((("delta", SIZE),), "int8"), value)
    assert np.abs(whole - value).max() <= np.abs(value).max() / 127 / 2 * 1.0001
    top = sent(tmp_path, Layout((("delta", SIZE),), "topk", 0.01), value)
    kept = np.flatnonzero(top)
    assert len(kept) == 50 and np.array_equal(top[kept], value[kept])
    assert np.abs(value[kept]).min() >= np.abs(np.delete(value, kept)).max()


def test_what_stays_at_the_client_does_not_travel() -> None:
    route = Route.of(10, np.array([3, 4, 9]))
    assert route.spans == ((0, 3), (5, 9))
    out = np.full(10, -1, np.float32)
    route.put(route.pick(np.arange(10, dtype=np.float32)), out)
    assert out.tolist() == [0, 1, 2, -1, -1, 5, 6, 7, 8, -1]


def test_a_bomb_is_unpacked_no_further_than_is_allowed(tmp_path: Path) -> None:
    write_file(tmp_path / "bomb", compressed(iter([bytes(1 << 20)] * 64)))
    assert (tmp_path / "bomb").stat().st_size < 20_000
    with pytest.raises(WireError, match="longer than the 100,000 bytes"):
        decompress(tmp_path / "bomb", tmp_path / "out", 100_000)
    assert (tmp_path / "out").stat().st_size <= 100_000


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 300), byte=st.integers(0, 255), cut=st.integers(0, 400), junk=st.binary(max_size=64))
def test_damaged_files_are_refused_and_nothing_else_happens(
    at: int, byte: int, cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = Layout((("delta", 32),), "int8")
    good = b"".join(encode(layout, {"delta": np.arange(32, dtype=np.float32)}))
    bad = bytearray(good)
    bad[at % len(bad)] = byte
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    for data in (bytes(bad), good[:cut], good + junk, junk):
        path.write_bytes(data)
        try:
            expand(path, layout, path.with_suffix(".raw"))
        except WireError:
            continue
        assert path.with_suffix(".raw").stat().st_size == Layout(layout.vectors).num_bytes
