"""Updates on disk from the first byte of their upload until a checkpoint covers them.

`updates/<ticket>.up` holds what has been received; if that was compressed, `updates/<ticket>.raw` holds the
vectors written out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from muster.core.params import Vector

from .wire import Layout, WireError, decompress, expand, mapped

UPDATES = "updates"


class DamagedError(Exception):
    """What was received does not have the hash that was announced: to be sent again."""


class Spool:
    """The updates of a run folder.

    Args:
        folder: The run folder.
        layout: What an update holds, under the rule under which it comes.
        packed: Whether it comes as a zstd stream.

    Every method raises OSError when the disk is full or cannot be written.
    """

    def __init__(self, folder: Path, layout: Layout, packed: bool = False) -> None:
        self.folder, self.layout, self.packed = folder / UPDATES, layout, packed
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def max_bytes(self) -> int:
        """The longest upload that is taken."""
        return self.layout.max_bytes

    def _up(self, ticket: int) -> Path:
        return self.folder / f"{ticket:010d}.up"

    def path(self, ticket: int) -> Path:
        """Where the vectors of an update lie, under no rule."""
        raw = self._up(ticket).with_suffix(".raw")
        return raw if self.packed or self.layout.rule is not None else self._up(ticket)

    def held(self, ticket: int) -> int:
        """How many bytes of an upload are here."""
        try:
            return self._up(ticket).stat().st_size
        except FileNotFoundError:
            return 0

    def receive(self, ticket: int, offset: int) -> int:
        """A file descriptor to write an upload to from `offset` on; what lay behind it is cut off."""
        handle = os.open(self._up(ticket), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(handle, offset)
        return handle

    def finish(self, ticket: int, sha256: str) -> None:
        """Checks a whole upload and writes its vectors out; they are on the disk when this returns.

        Raises:
            DamagedError: The hash is another; the upload is forgotten.
            WireError: It is not an update of this run; it is forgotten too.
        """
        up, path = self._up(ticket), self.path(ticket)
        try:
            with up.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise DamagedError(f"update {ticket} does not have the hash {sha256:.16}...")
            if path != up:
                self._write_out(up, path)
            else:
                mapped(up, self.layout)
        except (DamagedError, WireError):
            self.drop([ticket])
            raise
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _write_out(self, up: Path, path: Path) -> None:
        unpacked = up.with_suffix(".unpacked") if self.packed else up
        try:
            if self.packed:
                decompress(up, unpacked, self.layout.max_bytes)
            expand(unpacked, self.layout, path)
        finally:
            if self.packed:
                unpacked.unlink(missing_ok=True)

    def vectors(self, ticket: int) -> dict[str, Vector]:
        """The vectors of an update, mapped read-only."""
        return mapped(self.path(ticket), Layout(self.layout.vectors))

    def drop(self, tickets: Iterable[int]) -> None:
        """Forgets updates, whole or not."""
        for ticket in tickets:
            for path in (self._up(ticket), self.path(ticket)):
                path.unlink(missing_ok=True)

    def tickets(self) -> set[int]:
        """Of which tickets something is here."""
        return {int(path.stem) for path in self.folder.iterdir() if path.stem.isdigit()}
