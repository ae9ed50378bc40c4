"""Arrays on disk beside a `facts.json`, each with a sha256 that is known when it has been written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class HashedFile:
    """A file that knows the sha256 of what went in, and tells `np` why a write failed.

    NumPy writes real files by C calls that lose the reason (a full disk); this is not a real file.
    """

    def __init__(self, file: Any) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes, and hashes what it writes."""
        self.sha256.update(data)
        return int(self.file.write(data))


def write_array(file: Path, array: npt.NDArray[Any]) -> str:
    """Writes one .npy file; returns its sha256."""
    with file.open("wb") as stream:
        hashed = HashedFile(stream)
        np.lib.format.write_array(hashed, np.ascontiguousarray(array), allow_pickle=False)
    return hashed.sha256.hexdigest()


def digest_of(facts: Mapping[str, Any]) -> str:
    """The sha256 that `facts.json` carries of the rest of its content."""
    rest = {key: value for key, value in facts.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
