"""What travels to the clients, as a file a version: made when it is asked for, gone when no task needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from muster.core.params import Vector
from muster.core.storage import IN_MEMORY, Storage

from .wire import Layout, Route, encode, write_file

MODELS = "models"


@dataclass(frozen=True)
class Published:
    """A version's file."""

    path: Path
    sha256: str
    num_bytes: int


class Models:
    """The versions that tasks refer to.

    Args:
        folder: The run folder.
        route: Which spans of the model travel.
        snapshot: The vectors of a version that travel to clients, whole.
        storage: Where one is kept meanwhile that travels in part.

    """

    def __init__(
        self,
        folder: Path,
        route: Route,
        snapshot: Callable[[int], Mapping[str, Vector]],
        storage: Storage = IN_MEMORY,
    ) -> None:
        self._folder, self._route, self._snapshot = folder / MODELS, route, snapshot
        self._storage, self._making = storage, threading.Lock()
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            left.unlink()
        self._known: dict[int, Published] = {}

    def of(self, version: int) -> Published:
        """The file of a version, written now if it is not there.

        Raises:
            OSError: The disk is full, say.
        """
        with self._making:  # clients ask at once, each in a thread
            if version not in self._known:
                vectors = dict(self._snapshot(version))
                vectors["model"] = self._route.pick(vectors["model"], self._storage.empty)
                layout = Layout(tuple((name, len(vector)) for name, vector in vectors.items()))
                path = self._folder / f"{version:08d}.safetensors"
                self._known[version] = Published(path, *write_file(path, encode(layout, vectors)))
            return self._known[version]

    def keep(self, versions: Collection[int]) -> None:
        """Deletes the files of all other versions; transfers that are under way end well."""
        for version in set(self._known) - set(versions):
            self._known.pop(version).path.unlink(missing_ok=True)
