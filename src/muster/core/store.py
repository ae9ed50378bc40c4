"""What clients keep from task to task: a log on disk with an index in memory.

Only the index grows with the number of clients (tens of bytes each); the states themselves (a control
variate, a personal head, a user's own dictionary) lie in an append-only file. A state is written when
its task is accepted, never before. A checkpoint is the index and the length of the file.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from .durable import make_folder, sync

MIN_COMPACT_BYTES = 64 << 20
"""A log smaller than this is never rewritten; a larger one is when more than half of it is stale."""


def encode(state: Mapping[str, Any]) -> bytes:
    """A flat dictionary of arrays and JSON values as bytes, without pickle.

    Raises:
        TypeError: A value is neither an array of numbers nor JSON data; the text names it.

    """
    for name in state:
        if not isinstance(name, str) or name == "__metadata__":
            raise TypeError(f"{name!r} cannot be a name; names are strings, and __metadata__ is taken")
    arrays = {k: np.asarray(v, order="C") for k, v in state.items() if isinstance(v, np.ndarray)}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise TypeError(
                f"{name!r} is an array of {array.dtype}, but only numbers of up to 64 bits can be kept"
            )
    plain = {k: v for k, v in state.items() if not isinstance(v, np.ndarray)}
    for name, value in plain.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise TypeError(
                f"{name!r} is a {kind}, but only NumPy arrays and JSON values can be kept"
            ) from None
    return save(arrays, metadata={"plain": json.dumps(plain)})


def decode(data: bytes) -> dict[str, Any]:
    """The inverse of `encode`."""
    size = int.from_bytes(data[:8], "little")
    plain = json.loads(json.loads(data[8 : 8 + size]).get("__metadata__", {}).get("plain", "{}"))
    return {**load(data), **plain}


class ClientStore:
    """Client id -> lasting state.

    Args:
        folder: Where the log lies, made when the first state is kept; None is a temporary folder that
            goes with the process. What lies there is not touched before `load` or the first `write`.

    """

    def __init__(self, folder: Path | None = None) -> None:
        self._chosen = folder
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._index: dict[int, tuple[int, int]] = {}
        self._undo: list[tuple[int, tuple[int, int] | None]] = []
        self._generation = 0
        self._end = 0
        self._live = 0
        self._log: Any = None

    @property
    def folder(self) -> Path:
        """Where the log lies; a temporary folder is made now if none was chosen."""
        if self._chosen is not None:
            return self._chosen
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="muster-")
        return Path(self._temporary.name)

    def _path(self, generation: int) -> Path:
        return self.folder / f"clients-{generation:04d}.log"

    def _open(self, truncate: bool) -> Any:
        make_folder(self.folder)
        return open(self._path(self._generation), "w+b" if truncate else "r+b", buffering=0)

    @property
    def _file(self) -> Any:
        if self._log is None:
            self._log = self._open(truncate=True)
        return self._log

    def __len__(self) -> int:
        return len(self._index)

    def read(self, client: int) -> bytes | None:
        """The client's encoded state after its last accepted task; None if it has none."""
        if client not in self._index:
            return None
        offset, size = self._index[client]
        return os.pread(self._file.fileno(), size, offset)

    def write(self, client: int, state: bytes) -> None:
        """Replaces the client's state by `state`, as `encode` made it."""
        view = memoryview(state)
        at = self._end
        while view:
            written = os.pwrite(self._file.fileno(), view, at)
            at, view = at + written, view[written:]
        before = self._index.get(client)
        self._undo.append((client, before))
        self._index[client] = (self._end, len(state))
        self._live += len(state) - (before[1] if before else 0)
        self._end += len(state)

    def mark(self) -> None:
        """Everything written so far belongs to the version that is done."""
        self._undo.clear()

    def rollback(self) -> None:
        """Forgets what was written since the last `mark`."""
        for client, before in reversed(self._undo):
            self._live += (before[1] if before else 0) - self._index[client][1]
            if before is None:
                del self._index[client]
            else:
                self._index[client] = before
        self._undo.clear()

    def save(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.int64]]]:
        """The index and where the log ends, for a checkpoint; the log itself is on disk when it returns."""
        if self._end > max(MIN_COMPACT_BYTES, 2 * self._live):
            self._compact()
        if self._log is not None:
            os.fsync(self._log.fileno())
            sync(self.folder)  # the log may be new
        ids = np.fromiter(self._index, np.int64, len(self._index))
        spans = np.array(list(self._index.values()), np.int64).reshape(-1, 2)
        control = {"generation": self._generation, "end": self._end}
        return control, {"ids": ids, "offsets": spans[:, 0].copy(), "sizes": spans[:, 1].copy()}

    def load(self, control: Mapping[str, Any], columns: Mapping[str, npt.NDArray[np.int64]]) -> None:
        """Goes back to what `save` returned; what was appended after it is cut off.

        Raises:
            ValueError: The log is missing or shorter than the checkpoint says.

        """
        path, end = self._path(int(control["generation"])), int(control["end"])
        if end and (not path.is_file() or path.stat().st_size < end):
            raise ValueError(f"{path} is missing or shorter than {end} bytes")
        if self._log is not None:
            self._log.close()
            self._log = None
        self._generation, self._end = int(control["generation"]), end
        if end:
            self._log = self._open(truncate=False)
            self._log.truncate(end)
        spans = zip(columns["offsets"].tolist(), columns["sizes"].tolist(), strict=True)
        self._index = dict(zip(columns["ids"].tolist(), spans, strict=True))
        self._live = sum(size for _, size in self._index.values())
        self._undo.clear()

    def prune(self, generations: set[int]) -> None:
        """Deletes logs that neither this store nor a kept checkpoint (`generations`) refers to."""
        if self._log is None:
            return
        for path in self.folder.glob("clients-*.log"):
            number = int(path.stem.partition("-")[2])
            if number != self._generation and number not in generations:
                path.unlink()

    def close(self) -> None:
        """Lets go of the log, and of the folder if it is a temporary one. Nothing may follow."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _compact(self) -> None:
        """Copies what is live into the next log; the old one stays for older checkpoints."""
        old = self._file
        self._generation += 1
        self._log = self._open(truncate=True)
        entries, self._index, self._end = self._index, {}, 0
        for client, (offset, size) in sorted(entries.items()):
            self.write(client, os.pread(old.fileno(), size, offset))
        self._live = self._end
        self._undo.clear()
        old.close()
