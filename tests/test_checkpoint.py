"""Checkpoints: written whole or not at all, and damage is noticed."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from muster import checkpoint
from muster.core.errors import RunFolderError

MODEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def write(folder: Path, version: int, keep: int = 3) -> list[Any]:
    control = {"version": version, "secs": 0.1 + 0.2}
    return checkpoint.write(folder, version, control, {"model": MODEL + version, "empty": MODEL[:0]}, keep)


def read(folder: Path) -> tuple[list[int], list[str]]:
    """Versions that are whole, newest first, and what was said."""
    said: list[str] = []
    return [control["version"] for control, _ in checkpoint.read(folder, said.append)], said


def test_tensors_are_a_safetensors_file(tmp_path: Path) -> None:
    kinds = (np.float64, np.float32, np.float16, np.int64, np.int32, np.int8, np.uint64, np.uint8, np.bool_)
    given = {f"of {np.dtype(kind)}": np.arange(n).astype(kind) for n, kind in enumerate(kinds)}
    given["turned"] = np.arange(6, dtype=np.float32).reshape(2, 3).T
    checkpoint.write(tmp_path, 1, {"version": 1}, given, 3)
    found = load_file(tmp_path / "checkpoints/00000001/tensors.safetensors")
    assert {name: (a.dtype, a.tolist()) for name, a in found.items()} == {
        name: (a.dtype, a.tolist()) for name, a in given.items()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, 7)
    ((control, tensors),) = checkpoint.read(tmp_path, pytest.fail)
    assert control == {"version": 7, "secs": 0.30000000000000004}
    assert tensors.keys() == {"model", "empty"}
    np.testing.assert_array_equal(tensors["model"], [[7, 8, 9], [10, 11, 12]])
    assert tensors["empty"].shape == (0, 3)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for version in (2, 4, 9, 10):
        kept = write(tmp_path, version)
    assert [control["version"] for control in kept] == [10, 9, 4]
    assert names(tmp_path) == ["00000004", "00000009", "00000010"]
    assert read(tmp_path) == ([10, 9, 4], [])


def test_a_folder_without_checkpoints(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], [])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    for name in ("tensors.safetensors", "control.json"):
        path = tmp_path / "checkpoints" / "00000001" / name
        whole = path.read_bytes()
        for at in range(0, len(whole), 7):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert read(tmp_path)[0] == [], (name, at)
        for length in range(0, len(whole), 11):
            path.write_bytes(whole[:length])
            assert read(tmp_path)[0] == [], (name, length)
        path.write_bytes(whole)
    assert read(tmp_path)[0] == [1]


def test_a_damaged_one_is_passed_over_and_told(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        write(tmp_path, version)
    flip(tmp_path / "checkpoints" / "00000003" / "tensors.safetensors")
    (tmp_path / "checkpoints" / "00000001" / "control.json").unlink()
    versions, said = read(tmp_path)
    assert versions == [2]
    assert "checkpoint 3 is damaged" in said[0] and said[0].endswith("going back to the one before")
    assert "checkpoint 1 is damaged" in said[1] and "before" not in said[1]


def test_those_that_could_not_be_used_make_way(tmp_path: Path) -> None:
    for version in (5, 6, 7):
        write(tmp_path, version)
    assert checkpoint.set_aside(tmp_path, 5) == 2
    assert checkpoint.set_aside(tmp_path, 5) == 0
    assert names(tmp_path) == ["00000005", "damaged-00000006", "damaged-00000007"]
    write(tmp_path, 6, keep=1)
    assert read(tmp_path)[0] == [6]
    assert checkpoint.set_aside(tmp_path, -1) == 1  # takes the place of the one set aside before
    assert names(tmp_path) == ["damaged-00000006", "damaged-00000007"]


def test_another_of_the_same_version_takes_its_place(tmp_path: Path) -> None:
    write(tmp_path, 3)
    checkpoint.write(tmp_path, 3, {"version": 3, "again": True}, {"model": MODEL}, 3)
    ((control, tensors),) = checkpoint.read(tmp_path, pytest.fail)
    assert control["again"] and tensors["model"][0, 0] == 0


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    real = checkpoint._write

    def full(path: Path, pieces: Any) -> str:
        data = b"".join(pieces)
        real(path, [data[: len(data) // 2]])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(RunFolderError, match=r"the disk is full \(.* free\); make room, then go on with"):
        write(tmp_path, 2)
    assert names(tmp_path) == ["00000001"]
    assert read(tmp_path) == ([1], [])


def test_an_interrupt_in_the_middle_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, pieces: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert names(tmp_path) == []


def test_what_a_killed_process_left_aside_is_no_checkpoint(tmp_path: Path) -> None:
    aside = tmp_path / "checkpoints" / ".aside-00000009"
    aside.mkdir(parents=True)
    (aside / "control.json").write_text(json.dumps({"half": True}))
    assert read(tmp_path) == ([], [])
    write(tmp_path, 9)
    assert names(tmp_path) == ["00000009"]
