"""The journal: every event that `step` was told, in order, on disk before anything is done about it.

A line an entry: eight hexadecimal digits of CRC-32, a space, JSON. A line that a crash has cut short at
the end is dropped; a line that is damaged anywhere else ends the reading with an error. With the updates
and a checkpoint, or the beginning, it is all that a replay needs.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core import durable
from muster.core.errors import RunFolderError
from muster.core.tables import EVENT, Kind, Reason, Table, rows

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class Entry:
    """One event with what must be known of it to do the same again."""

    now: int
    """ns since the run began."""
    kind: Kind
    client: int = -1
    ticket: int = 0
    reason: Reason = Reason.NONE
    steps: int = 0
    secs: float = 0.0
    send_secs: float = 0.0
    wait_secs: float = 0.0
    more: Mapping[str, Any] = field(default_factory=dict)
    """Of `Joined`: name, instance; of `Arrived`: the report and where the update lies."""

    def row(self) -> Table:
        """One EVENT row."""
        return rows(
            EVENT,
            1,
            now=self.now,
            kind=self.kind,
            client=self.client,
            ticket=self.ticket,
            reason=self.reason,
            steps=self.steps,
            secs=self.secs,
            send_secs=self.send_secs,
            wait_secs=self.wait_secs,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON data; what is at its default is left out."""
        body = {"now": self.now, "kind": self.kind.name.lower(), "client": self.client, "ticket": self.ticket}
        extra: dict[str, Any] = {"reason": int(self.reason), "steps": self.steps, "secs": self.secs}
        extra |= {"send_secs": self.send_secs, "wait_secs": self.wait_secs, "more": dict(self.more)}
        return body | {name: value for name, value in extra.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """The inverse of `to_json`."""
        kind, reason = Kind[data["kind"].upper()], Reason(data.get("reason", 0))
        return cls(**{**data, "kind": kind, "reason": reason})


Note = Mapping[str, Any]
"""What came of an entry: `{"made": version, "sha256": ...}` or `{"end": status, "why": ...}`."""


class Journal:
    """The journal of a run folder, opened for appending; a torn last line is cut off.

    Raises:
        RunFolderError: A line that is not the last is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self._file = self.path.open("ab", buffering=0)
        durable.sync(folder)  # it may be new
        self.end = _whole(self.path)
        self._file.truncate(self.end)

    def append(self, body: Entry | Note) -> None:
        """Adds an entry or a note; it is with the operating system when this returns.

        Raises:
            OSError: The disk is full, say; nothing of the line stays.
        """
        data = body.to_json() if isinstance(body, Entry) else {"note": dict(body)}
        text = json.dumps(data, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
        except BaseException:
            self._file.truncate(self.end)
            raise
        self.end += len(line)

    def sync(self) -> None:
        """Returns when all that was appended is on the disk."""
        os.fsync(self._file.fileno())

    def cut(self, end: int) -> None:
        """Drops what lies behind `end`: a run that goes on from an older checkpoint writes it anew."""
        self._file.truncate(end)
        self.end = end

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def read(path: Path, start: int = 0) -> Iterator[tuple[int, Entry | Note]]:
    """The entries and notes from byte `start` on, each with the offset behind it.

    Raises:
        RunFolderError: The journal is missing, or a line that is not the last is damaged.
    """
    if not path.is_file():
        raise RunFolderError(f"{path} is missing: this is no folder of a deployed run")
    with path.open("rb") as file:
        file.seek(start)
        at = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            at += len(line)
            try:
                yield at, _parse(line)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RunFolderError(f"{path} is damaged before byte {at:,} ({error!r:.200})") from error


def _parse(line: bytes) -> Entry | Note:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if int(crc, 16) != zlib.crc32(text):
        raise ValueError("the CRC does not match")
    data = json.loads(text)
    return dict(data["note"]) if "note" in data else Entry.from_json(data)


def _whole(path: Path) -> int:
    """Length of the file without a torn last line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(end - 65536, 0)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
