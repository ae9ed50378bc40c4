"""Deployments in this process, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worlds.deployed import Rig


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs; what is left of them and of their clients goes with the test."""
    rigs: list[Rig] = []

    def rig(job: Any, folder: Path = tmp_path / "run", **more: Any) -> Rig:
        rigs.append(Rig(job, folder, **more))
        return rigs[-1]

    yield rig
    for each in rigs:
        each.part()
        each.kill()
