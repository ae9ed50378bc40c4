"""Shared by all tests: prepared data lies in a folder of the test session, never in the user's cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Every run tries the same examples, so that what passes here passes everywhere.
# No test may depend on how fast the machine is: neither an example's time nor that of drawing it.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

# Tests start many interpreters: what one of them has compiled, the others read.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSTER_CACHE", os.fspath(tmp_path_factory.mktemp("cache")))
        yield
