"""The harness that coverage leads; where atheris is not installed it says so. See tools/fuzz_guided.py."""

from __future__ import annotations

import sys

import pytest

from worlds.scripts import loaded


@pytest.fixture(scope="module")
def guided():
    return loaded("fuzz_guided", "tools")


def test_what_libfuzzer_prints_is_read(guided):
    text = "#2\tINITED cov: 10 ft: 11\n#900\tDONE   cov: 33 ft: 45\nstat::number_of_executed_units: 900\n"
    assert guided.told(text) == (900, 33)
    assert guided.told("Traceback (most recent call last):") == (0, 0)


def test_without_atheris_it_says_what_to_do(guided, monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["fuzz_guided.py"])
    with pytest.raises(SystemExit, match="atheris is not installed here: pip install atheris"):
        guided.main()
