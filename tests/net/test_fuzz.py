"""Damaged and made-up bytes do no harm to anything that reads bytes from outside; see tools/fuzz.py."""

from __future__ import annotations

import pytest

from worlds.scripts import loaded


@pytest.fixture(scope="module")
def fuzz():
    return loaded("fuzz", "tools")


def test_three_thousand_inputs_find_nothing(fuzz):
    counts, findings = fuzz.fuzz(3000, seed=1)
    assert findings == []
    assert min(counts.values()) > 100 and len(counts) > 10


def test_a_decoder_that_crashes_is_found(fuzz):
    target = fuzz.Target("short", [b"abc"], lambda data: data[2], (ValueError,))
    assert fuzz.tried(target, b"abc", traced=False) == ""
    assert fuzz.tried(target, b"a", traced=False).startswith("IndexError")
    greedy = fuzz.Target("greedy", [b""], lambda data: bytearray(fuzz.QUOTA + 1), ())
    assert fuzz.tried(greedy, b"", traced=True).endswith("bytes in memory")
