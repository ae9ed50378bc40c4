"""What is brought to the disk, in order: a double that writes down each fsync and each renaming."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def written_down(root: Path) -> Iterator[list[str]]:
    """In the block, `sync PATH` and `name PATH` as they are done, relative to `root`; Linux.

    What the system is asked for is done too.
    """
    told: list[str] = []
    fsync, replace = os.fsync, os.replace

    def said(path: Any) -> str:
        return os.path.relpath(os.path.realpath(path), os.path.realpath(root))

    def note_fsync(handle: int) -> None:
        told.append(f"sync {said(os.readlink(f'/proc/self/fd/{handle}'))}")
        fsync(handle)

    def note_replace(source: Any, target: Any, **more: Any) -> None:
        replace(source, target, **more)
        told.append(f"name {said(target)}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", note_fsync)
        patch.setattr(os, "replace", note_replace)
        yield told
