"""Vectors on disk are arrays as any, take no memory when they have been used, and leave nothing behind."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.core import storage
from muster.core.memory import _status
from muster.core.storage import IN_MEMORY, WIDTH, Storage, machine_bytes, parts, release

MB = 1 << 20


def resident() -> int:
    """Bytes of files that this process has in memory."""
    found = _status("RssFile"), _status("RssShmem")
    if None in found:
        pytest.skip("this system does not tell")
    return sum(found)  # type: ignore[arg-type]


def test_what_is_written_part_by_part_is_there_and_not_in_memory(tmp_path: Path) -> None:
    vector, before, most = Storage(tmp_path).empty(16 * WIDTH + 5), resident(), 0
    for part in parts(len(vector), vector):
        vector[part] = np.arange(part.start, part.stop)
        most = max(most, resident() - before)
    assert np.array_equal(vector[-7:], np.arange(len(vector) - 7, len(vector)).astype(np.float32))
    assert np.array_equal(vector, np.arange(len(vector)).astype(np.float32))
    assert most < 4 * MB < vector.nbytes <= resident() - before + MB
    release(vector)
    assert resident() - before < MB
    assert list(tmp_path.iterdir()) == []


def test_parts_that_do_not_begin_with_a_page_leave_nothing_behind(tmp_path: Path) -> None:
    vector = Storage(tmp_path).empty(128 * WIDTH)
    for part in parts(len(vector), vector):
        vector[part] = 1
    before = resident()
    for part in parts(len(vector), vector, start=100_016):
        assert vector[part].sum() == part.stop - part.start
    assert resident() - before < MB // 2


def test_what_is_given_back_is_not_lost(tmp_path: Path) -> None:
    vector = Storage(tmp_path).empty(3 * WIDTH, np.int64)
    vector[:] = 7
    view = np.asarray(vector)[WIDTH + 1 : -1]
    release(view[5:-5])
    release(view[:0])
    assert (vector == 7).all()


def test_a_vector_in_memory_stays_as_it_is() -> None:
    vector, anonymous = IN_MEMORY.empty(9), np.frombuffer(mmap.mmap(-1, 4 * mmap.PAGESIZE), np.uint8)
    vector[:], anonymous[:] = 3.0, 4
    for each in (vector, anonymous):
        release(each)
    assert (vector == 3.0).all() and (anonymous == 4).all()


def test_parts_cover_a_span_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "WIDTH", 4)
    assert [(p.start, p.stop) for p in parts(11, start=2)] == [(2, 6), (6, 10), (10, 11)]
    assert list(parts(3, start=3)) == []


@pytest.mark.parametrize(
    ("num_bytes", "memory_mb", "on_disk"),
    [(1_000_001, 1.0, True), (1_000_000, 1.0, False), (1, 0, True), (0, 0, False), (1 << 50, None, True)],
)
def test_what_is_too_large_for_memory_is_kept_on_disk(
    num_bytes: int, memory_mb: float | None, on_disk: bool, tmp_path: Path
) -> None:
    found = Storage.fitting(tmp_path, num_bytes, memory_mb)
    assert found == (Storage(tmp_path) if on_disk else IN_MEMORY)


def test_the_default_is_a_share_of_the_memory(tmp_path: Path) -> None:
    most = machine_bytes() // 16
    assert Storage.fitting(tmp_path, most, None) == IN_MEMORY
    assert Storage.fitting(tmp_path, most + 1, None) == Storage(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files may have holes")
def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Storage(tmp_path).empty(10)
    assert list(tmp_path.iterdir()) == []
