"""Updates on disk from the first byte of their upload until a checkpoint covers them.

`updates/<ticket>.up` holds what has been received; if that was compressed, `updates/<ticket>.raw` holds the
vectors written out.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from muster.core.durable import make_folder, sync
from muster.core.params import Vector

from .wire import Layout, Stored, WireError, decompress, expand, mapped

UPDATES = "updates"
READ_BYTES = 1 << 20
"""Of what is read again of an upload that goes on."""


class DamagedError(Exception):
    """What was received does not have the hash that was announced: to be sent again."""


class Incoming:
    """An upload that is being written, and hashed as it comes: nothing is read again.

    Args:
        path: Its file; what lies behind `offset` is cut off.
        offset: Where it goes on; what lies before it is read once, for the hash.

    """

    def __init__(self, path: Path, offset: int) -> None:
        self.at, self._digest = offset, hashlib.sha256()
        self._writing, self._closed = threading.Lock(), False
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._handle, offset)
        for start in range(0, offset, READ_BYTES):
            self._digest.update(os.pread(self._handle, min(READ_BYTES, offset - start), start))

    def write(self, data: memoryview, at: int) -> None:
        """Writes what comes at byte `at`; after an OSError the same call writes what is left of it."""
        with self._writing:
            while (left := data[self.at - at :]) and not self._closed:
                written = os.pwrite(self._handle, left, self.at)
                self._digest.update(left[:written])
                self.at += written

    @property
    def sha256(self) -> str:
        """Of all that is there."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Lets go of the file, after the write that is under way: its number may be another file's next."""
        with self._writing:
            self._closed = True
            os.close(self._handle)


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
        make_folder(self.folder)
        sync(self.folder)  # what another process has left
        self._new: set[Path] = set()
        """Files whose names may not be on the disk yet. Threads add to it: each operation is one step."""

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

    def receive(self, ticket: int, offset: int) -> Incoming:
        """An upload, to be written from `offset` on."""
        incoming = Incoming(self._up(ticket), offset)
        if offset == 0:
            self._new.add(self._up(ticket))  # now that it is there, or it might be taken for synced
        return incoming

    def finish(self, ticket: int, found: str, sha256: str) -> None:
        """Takes a whole upload and writes its vectors out; they are on the disk when this returns, and their
        name when `sync_names` has.

        Args:
            ticket: Whose it is.
            found: The hash of what was received.
            sha256: The hash that was announced.

        Raises:
            DamagedError: They differ; the upload is forgotten.
            WireError: It is not an update of this run; it is forgotten too.
        """
        up, path = self._up(ticket), self.path(ticket)
        try:
            if found != sha256:
                raise DamagedError(f"update {ticket} does not have the hash {sha256:.16}...")
            if path != up:
                self._write_out(up, path)
            else:
                Stored.of(up, self.layout)
        except (DamagedError, WireError):
            self.drop([ticket])
            raise
        sync(path)

    def sync_names(self, tickets: Iterable[int]) -> None:
        """Returns when updates are found again after a power cut; so are those on their way, then."""
        if not self._new.isdisjoint(map(self.path, tickets)):
            known = self._new.copy()
            sync(self.folder)
            self._new -= known

    def _write_out(self, up: Path, path: Path) -> None:
        unpacked = up.with_suffix(".unpacked") if self.packed else up
        try:
            if self.packed:
                decompress(up, unpacked, self.layout.max_bytes)
            expand(unpacked, self.layout, path)
            self._new.add(path)
        finally:
            if self.packed:
                unpacked.unlink(missing_ok=True)

    def stored(self, ticket: int) -> Stored:
        """An update, to be read in parts.

        Raises:
            OSError: It is not there.
            WireError: It is damaged.
        """
        return Stored.of(self.path(ticket), Layout(self.layout.vectors))

    def vectors(self, ticket: int) -> dict[str, Vector]:
        """The vectors of an update, mapped read-only."""
        return mapped(self.path(ticket), Layout(self.layout.vectors))

    def drop(self, tickets: Iterable[int]) -> None:
        """Forgets updates, whole or not."""
        for ticket in tickets:
            for path in (self._up(ticket), self.path(ticket)):
                path.unlink(missing_ok=True)
                self._new.discard(path)

    def tickets(self) -> set[int]:
        """Of which tickets something is here."""
        return {int(path.stem) for path in self.folder.iterdir() if path.stem.isdigit()}
