"""A data set dealt out to clients: memory-mapped, a client a pair of offsets."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import numpy.typing as npt

from muster.core.arrays import digest_of
from muster.core.errors import DataError
from muster.core.examples import Examples, Facts

FORMAT = 1
"""Version of the layout of a prepared folder. Another number is prepared anew."""


RESIDENT_BYTES = 64 << 20
"""Training examples of no more bytes are all read into a process's map at once; of more, a client's are read
when they are asked for, and stay nowhere. See docs/decisions/workers.md."""


class FederatedData:
    """A data set dealt out to clients, memory-mapped from a prepared folder. Never written to.

    The folder holds `x.npy` and `y.npy` sorted by client, `offsets.npy` i64[C + 1], `test_x.npy`,
    `test_y.npy`, of a text `text.npy` u8[T], and `facts.json` with the sha256 of each.

    Attributes:
        path: The folder; `FederatedData.open(path)` maps the same files in another process.
        facts: What models and tasks must know.
        num_examples: i32[C], training examples of each client.
        client_names: Names of natural clients, one per client; empty if clients are artificial.
        train: All training examples, client after client: mapped, and read when they are looked at.
        test: The test examples, shared by all.
    """

    def __init__(
        self,
        path: Path,
        facts: Facts,
        client_names: tuple[str, ...],
        arrays: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.path, self.facts, self.client_names = path, facts, client_names
        text = arrays.get("text")
        self.train = Examples(arrays["x"], arrays["y"], text)
        self._readers = _readers(path, self.train)
        self.test = Examples(arrays["test_x"], arrays["test_y"], text)
        self._offsets = arrays["offsets"]
        self.num_examples: npt.NDArray[np.int32] = np.diff(self._offsets).astype(np.int32)
        self.num_examples.flags.writeable = False

    @property
    def num_clients(self) -> int:
        """C, the number of clients."""
        return len(self.num_examples)

    def client(self, i: int) -> Examples:
        """The training examples of client `i`, read-only; see `clients`.

        Raises:
            IndexError: `i` is not in 0..num_clients-1.
        """
        every, (own,) = self.clients([i])
        return every.slice(own.start, own.stop)

    def clients(self, ids: Sequence[int]) -> tuple[Examples, list[slice]]:
        """Examples among which are those of all clients `ids`, and where those of each lie.

        Of a small data set they are views of all examples; of a large one they are read from the disk, for
        the caller alone.

        Raises:
            IndexError: One is not in 0..num_clients-1.
            DataError: The prepared data was cut short meanwhile.
        """
        owned = self.owned(ids)
        if self._readers is None:
            return self.train, owned
        x, y = (reader.read(owned) for reader in self._readers)
        ends = np.cumsum([0, *(own.stop - own.start for own in owned)]).tolist()
        return Examples(x, y, self.train.text), [slice(a, b) for a, b in pairwise(ends)]

    def owned(self, ids: Sequence[int]) -> list[slice]:
        """Which of all training examples are those of each of the clients `ids`.

        Raises:
            IndexError: One is not in 0..num_clients-1.
        """
        chosen = np.asarray(ids, np.int64)
        missing = chosen[(chosen < 0) | (chosen >= self.num_clients)]
        if len(missing):
            raise IndexError(f"client {missing[0]} does not exist; there are {self.num_clients}")
        starts, ends = self._offsets[chosen].tolist(), self._offsets[chosen + 1].tolist()
        return [slice(start, end) for start, end in zip(starts, ends, strict=True)]

    @classmethod
    def open(cls, path: Path, verify: bool = False) -> FederatedData:
        """Maps a prepared folder.

        Args:
            path: The folder, as `prepare` made it.
            verify: Also compare the sha256 of every array, which reads all of them.

        Raises:
            DataError: The folder is missing, damaged, or of another format.
        """
        stored = _stored(path)
        arrays = {name: _mapped(path / f"{name}.npy", sha, verify) for name, sha in stored["arrays"].items()}
        facts = Facts(**{**stored["facts"], "input_shape": tuple(stored["facts"]["input_shape"])})
        return cls(path, facts, tuple(stored["client_names"]), arrays)


class _Reader:
    """Reads rows of a prepared array without mapping them.

    Args:
        file: The array's file.
        array: The array, mapped from it.
    """

    def __init__(self, file: Path, array: npt.NDArray[Any]) -> None:
        self._file, self._kind, self._shape = file, array.dtype, array.shape[1:]
        self._row_bytes = array.itemsize * prod(self._shape)
        self._offset = file.stat().st_size - array.nbytes
        self._descriptor = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, parts: Sequence[slice]) -> npt.NDArray[Any]:
        """The rows of some parts, one after another."""
        rows = np.empty((sum(part.stop - part.start for part in parts), *self._shape), self._kind)
        view, at = memoryview(rows.reshape(-1).view(np.uint8).data), 0
        for part in parts:
            end = at + (part.stop - part.start) * self._row_bytes
            start = self._offset + part.start * self._row_bytes
            while at < end:
                count = os.preadv(self._descriptor, [view[at:end]], start)
                if count == 0:
                    raise _unusable(self._file.parent, f"{self._file.name} ends before byte {start + 1}")
                at, start = at + count, start + count
        rows.flags.writeable = False
        return rows


def _readers(path: Path, train: Examples) -> tuple[_Reader, _Reader] | None:
    """Of x and y, if they are too large to stay in the map. If not, all of them are read into it now.

    A page at a time would do that too, but then a process would grow with the clients that it trains.
    """
    if train.x.nbytes + train.y.nbytes > RESIDENT_BYTES and hasattr(os, "preadv"):
        return _Reader(path / "x.npy", train.x), _Reader(path / "y.npy", train.y)
    for array in (train.x, train.y):
        if array.flags.c_contiguous:
            array.reshape(-1).view(np.uint8)[:: mmap.PAGESIZE].max(initial=0)
    return None


def _stored(path: Path) -> dict[str, Any]:
    """What `facts.json` of a prepared folder says.

    Raises:
        DataError: It is missing, damaged (always checked), or of another format.
    """
    try:
        stored: dict[str, Any] = json.loads((path / "facts.json").read_bytes())
        sound = stored.pop("sha256") == digest_of(stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(path, f"facts.json is missing or damaged ({error})") from error
    if not sound:
        raise _unusable(path, "facts.json does not match its own sha256")
    if stored["format"] != FORMAT:
        raise _unusable(path, f"it has format {stored['format']}, but this version reads format {FORMAT}")
    return stored


def _mapped(file: Path, sha256: str, verify: bool) -> npt.NDArray[Any]:
    """A prepared array, mapped read-only."""
    try:
        if verify and file_sha256(file) != sha256:
            raise _unusable(file.parent, f"{file.name} does not match its sha256")
        # A plain view of the mapping: a memmap itself is several times slower to slice.
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except DataError:
        raise
    except (OSError, EOFError, ValueError) as error:
        raise _unusable(file.parent, f"{file.name} is missing or damaged ({error})") from error


def _unusable(path: Path, why: str) -> DataError:
    return DataError(f"the prepared data in {path} cannot be used: {why}")


def file_sha256(file: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
