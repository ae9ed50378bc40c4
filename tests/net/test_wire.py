"""The wire format: what comes out is what went in, and nothing else comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load

from muster.core.randomness import rng
from muster.net.wire import (
    Layout,
    Route,
    WireError,
    compressed,
    decompress,
    encode,
    expand,
    infinite,
    mapped,
    write_file,
)
from muster.uploads.half import Half
from muster.uploads.qsgd import QSGD
from muster.uploads.quantise import Quantise
from muster.uploads.top_k import TopK

SIZE = 5000


def vector() -> Any:
    return np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)


def sent(tmp_path: Path, layout: Layout, value: Any) -> Any:
    write_file(tmp_path / "up", encode(layout, {"delta": value}))
    expand(tmp_path / "up", layout, tmp_path / "raw")
    return mapped(tmp_path / "raw", Layout(layout.vectors))["delta"]


def test_without_a_rule_every_bit_arrives_and_others_can_read_it(tmp_path: Path) -> None:
    layout = Layout((("delta", SIZE),))
    assert np.array_equal(sent(tmp_path, layout, vector()), vector())
    data = (tmp_path / "up").read_bytes()
    assert np.array_equal(load(data)["delta"], vector())
    assert layout.num_bytes == len(data) <= 1.01 * 4 * SIZE + 200


# Bytes of 5,000 numbers: 50 of 8 bytes; one byte each and a scale; two bits each and a norm; two bytes each.
RULES = {TopK(0.01): 400, Quantise(): 5004, QSGD(1): 1254, Half(): 10_000}


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_under_a_rule_there_go_the_bytes_that_it_says(rule: Any, tmp_path: Path) -> None:
    layout, packed = Layout((("delta", SIZE),), rule), rule.encode(vector(), rng(1, "encode"))
    assert np.array_equal(sent(tmp_path, layout, packed), rule.decode(packed, SIZE))
    size = (tmp_path / "up").stat().st_size
    assert RULES[rule] < size == layout.num_bytes <= RULES[rule] + 136
    assert load((tmp_path / "up").read_bytes())["delta"].tobytes() == packed


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_what_is_not_finite_is_not_hidden_by_a_rule(rule: Any) -> None:
    with np.errstate(invalid="ignore"):
        back = rule.decode(infinite(rule, 100), 100)
    assert not np.isfinite(back).all()


def test_places_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    layout = Layout((("delta", SIZE),), TopK(2 / SIZE))
    for places in ([7, 7], [9, 3], [3, SIZE]):
        packed = np.array(places, "<u4").tobytes() + bytes(8)
        with pytest.raises(WireError, match=r"nothing that top_k encodes .*must rise within 0\.\.4999"):
            sent(tmp_path, layout, packed)


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
    layout = Layout((("delta", 32),), TopK(0.25))
    packed = TopK(0.25).encode(np.arange(32, dtype=np.float32), rng(1, "encode"))
    good = b"".join(encode(layout, {"delta": packed}))
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
