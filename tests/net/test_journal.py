"""The journal: what was appended is read, a torn end is dropped, damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import RunFolderError
from muster.core.tables import Kind, Reason
from muster.net.journal import Entry, Journal, read

ENTRIES = [
    Entry(5, Kind.JOINED, 2, more={"name": "client-2"}),
    Entry(9, Kind.LOST, 2, 7, Reason.OFFLINE),
    {"made": 1, "sha256": "ab"},
    Entry(11, Kind.ARRIVED, 2, 8, steps=3, secs=0.1),
]


def written(folder: Path) -> Path:
    journal = Journal(folder)
    for entry in ENTRIES:
        journal.append(entry)
    journal.close()
    return journal.path


def test_entries_and_notes_come_back_with_their_ends(tmp_path: Path) -> None:
    path = written(tmp_path)
    found = list(read(path))
    assert [body for _, body in found] == ENTRIES
    assert found[-1][0] == path.stat().st_size
    assert [body for _, body in read(path, found[1][0])] == ENTRIES[2:]


def test_a_torn_line_is_dropped_and_then_cut_off(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-4])
    assert [body for _, body in read(path)] == ENTRIES[:3]
    journal = Journal(tmp_path)
    journal.append(ENTRIES[3])
    journal.close()
    assert [body for _, body in read(path)] == ENTRIES


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_read_as_something_else(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = written(folder)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        found = [body for _, body in read(path)]
    except RunFolderError:
        return
    assert (found == ENTRIES[: len(found)] and len(found) >= 3) or found == ENTRIES
