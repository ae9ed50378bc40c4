"""A data set dealt out to clients: memory-mapped, a client a pair of offsets."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Sequence
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


RESIDENT_BYTES = 4 << 20
"""Bytes of training examples that a process keeps mapped in, more or less."""


class FederatedData:
    """A data set dealt out to clients, memory-mapped from a prepared folder. Never written to.

    The folder holds `x.npy` and `y.npy` sorted by client, `offsets.npy` i64[C + 1], `test_x.npy`,
    `test_y.npy`, of a text `text.npy` u8[T], and `facts.json` with the sha256 of each.

    Attributes:
        path: The folder; `FederatedData.open(path)` maps the same files in another process.
        facts: What models and tasks must know.
        num_examples: i32[C], training examples of each client.
        client_names: Names of natural clients, one per client; empty if clients are artificial.
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
        self._train = Examples(arrays["x"], arrays["y"], text)
        self.test = Examples(arrays["test_x"], arrays["test_y"], text)
        self._offsets = arrays["offsets"]
        self.num_examples: npt.NDArray[np.int32] = np.diff(self._offsets).astype(np.int32)
        self.num_examples.flags.writeable = False
        self._example_bytes = sum(a.dtype.itemsize * prod(a.shape[1:]) for a in (arrays["x"], arrays["y"]))
        self._handed_out = 0

    @property
    def num_clients(self) -> int:
        """C, the number of clients."""
        return len(self.num_examples)

    def client(self, i: int) -> Examples:
        """The training examples of client `i`, as read-only views: nothing is read until it is used.

        Pages that earlier clients' examples were read into are given back now and then, so that a
        process is not charged for the whole data set; views that are still in use read them again.

        Raises:
            IndexError: `i` is not in 0..num_clients-1.
        """
        every, (own,) = self.clients([i])
        return every.slice(own.start, own.stop)

    def clients(self, ids: Sequence[int]) -> tuple[Examples, list[slice]]:
        """The training examples of all clients, and where those of `ids` lie; see `client`."""
        owned = []
        for i in ids:
            if not 0 <= i < self.num_clients:
                raise IndexError(f"client {i} does not exist; there are {self.num_clients}")
            owned.append(slice(int(self._offsets[i]), int(self._offsets[i + 1])))
        handed_out = sum(own.stop - own.start for own in owned) * self._example_bytes
        self._handed_out += handed_out
        if self._handed_out > RESIDENT_BYTES:
            self._handed_out = handed_out
            for array in (self._train.x, self._train.y):
                _give_back(array)
        return self._train, owned

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


def _give_back(array: npt.NDArray[Any]) -> None:
    """Has the operating system forget that this process has read a mapped array; its content stays."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


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
