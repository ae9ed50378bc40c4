"""Checkpoints: what a run needs to go on to the same bits, written so that no crash can damage them.

A checkpoint is a folder `checkpoints/<version>` with `control.json` and `tensors.safetensors`. It is
written aside, synced, then renamed; each file's hash is kept in control.json, and checked when it is
read. The newest few are kept, so that a damaged one costs a few versions and not the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.durable import make_folder, sync, take_place
from muster.core.storage import mapped, parts, release
from muster.track.folder import RECORDS, disk_errors

FOLDER, CONTROL, TENSORS = "checkpoints", "control.json", "tensors.safetensors"

LARGE_BYTES = 1 << 20
"""A tensor of more may stay on disk."""

Tensors = Mapping[str, npt.NDArray[Any]]
Piece = bytes | memoryview


def write(folder: Path, version: int, control: Mapping[str, Any], tensors: Tensors, keep: int) -> list[Any]:
    """Saves a checkpoint of `version` in the run folder and deletes all but the newest `keep`.

    Returns:
        The `control` of each checkpoint that is kept and readable, newest first.

    Raises:
        RunFolderError: The disk is full or cannot be written; older checkpoints are untouched.

    """
    place = folder / FOLDER
    aside, final = place / f".aside-{version:08d}", place / f"{version:08d}"
    with disk_errors(folder):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            make_folder(place)
            aside.mkdir()
            if (records := folder / RECORDS).exists():  # who goes on does not make them again
                sync(records)
            body = json.dumps(control, sort_keys=True)
            hashes = {"tensors": _write(aside / TENSORS, packed(tensors)), "control": _hash(body.encode())}
            _write(aside / CONTROL, [json.dumps({"sha256": hashes, "control": body}).encode()])
            sync(aside)
            shutil.rmtree(final, ignore_errors=True)
            take_place(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        for old in _folders(folder)[keep:]:
            shutil.rmtree(old)
    kept = []
    for path in _folders(folder):
        with suppress(ValueError, OSError, KeyError):
            kept.append(_control(path)[0])
    return kept


def read(
    folder: Path, say: Callable[[str], None], on_disk: bool = False
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Control and tensors of the run folder's checkpoints that are whole, newest first.

    A damaged one is passed over, and `say` is told so. `on_disk`: large tensors stay in the file, mapped
    read-only; it may be deleted meanwhile.
    """
    found = _folders(folder)
    for path in found:
        try:
            control, hashes = _control(path)
            with (path / TENSORS).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != hashes["tensors"]:
                    raise ValueError(f"{TENSORS} does not have the hash it was written with")
            yield control, _tensors(path / TENSORS, on_disk)
        except (ValueError, KeyError, OSError) as error:
            before = "; going back to the one before" if path != found[-1] else ""
            say(f"checkpoint {int(path.name)} is damaged ({error}){before}")


def set_aside(folder: Path, version: int) -> int:
    """Renames the checkpoints after `version`, which could not be used, out of the way of new ones.

    A run that goes on from `version` comes by their numbers again, and keeps the highest.

    Returns:
        How many there were.

    Raises:
        RunFolderError: They cannot be renamed.

    """
    unusable = [path for path in _folders(folder) if int(path.name) > version]
    with disk_errors(folder):
        for path in unusable:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    return len(unusable)


def _control(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    whole = json.loads((path / CONTROL).read_bytes())
    if _hash(whole["control"].encode()) != whole["sha256"]["control"]:
        raise ValueError(f"{CONTROL} does not have the hash it was written with")
    return json.loads(whole["control"]), whole["sha256"]


def _folders(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    place = folder / FOLDER
    found = place.iterdir() if place.is_dir() else iter(())
    return sorted((p for p in found if p.name.isdigit()), reverse=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def packed(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Iterator[Piece]:
    """A safetensors file piece by piece: `safetensors.save` copies all of it, twice."""
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))  # so that all are aligned
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for name, array in arrays.items():
        span = [at, at := at + array.nbytes]
        entries[name] = {"dtype": _dtype(array), "shape": array.shape, "data_offsets": span}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for array in arrays.values():
        flat = array.reshape(-1).view(np.uint8)
        for part in parts(flat.size, flat):
            yield flat[part].data


def _tensors(path: Path, on_disk: bool) -> dict[str, npt.NDArray[Any]]:
    """The tensors of a file: in memory, once; or, if they are large and it is wanted, mapped."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    spans = {
        name: (8 + length + entry["data_offsets"][0], _numpy(entry["dtype"]), tuple(entry["shape"]))
        for name, entry in header.items()
    }
    tensors = {}
    for name, tensor in mapped(path, spans).items():
        tensors[name] = tensor if on_disk and tensor.nbytes > LARGE_BYTES else np.array(tensor)
        release(tensor)
    return tensors


def _numpy(dtype: str) -> npt.DTypeLike:
    """The inverse of `_dtype`."""
    return np.bool_ if dtype == "BOOL" else f"{dtype[0].lower()}{int(dtype[1:]) // 8}"


def _dtype(array: npt.NDArray[Any]) -> str:
    """The name that safetensors has for an array's type."""
    kind = {"f": "F", "i": "I", "u": "U", "b": "BOOL"}[array.dtype.kind]
    return kind if kind == "BOOL" else f"{kind}{8 * array.dtype.itemsize}"


def _write(path: Path, pieces: Iterable[Piece]) -> str:
    """Writes a file, and returns its hash when it is on the disk."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
