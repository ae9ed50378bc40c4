"""The package's front door."""

from __future__ import annotations

import subprocess
import sys

import pytest

import muster


def test_all_names_are_there_sorted_and_once() -> None:
    assert list(muster.__all__) == sorted(set(muster.__all__))
    for name in muster.__all__:
        assert getattr(muster, name).__name__ == name
    assert {"load_job", "simulate", "Client", "Server"} <= set(dir(muster))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sever'"):
        _ = muster.sever  # type: ignore[attr-defined]


def test_importing_muster_imports_nothing_else_of_it() -> None:
    code = "import sys, muster; assert [m for m in sys.modules if m.startswith('muster')] == ['muster']"
    subprocess.run([sys.executable, "-c", code], check=True)
