"""Names of received updates: on the disk before they are promised, and once for many."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from muster.net.spool import Spool
from muster.net.wire import Layout, compressed, encode
from worlds.disk import written_down

LAYOUT = Layout((("delta", 5),))
UPDATE = b"".join(encode(LAYOUT, {"delta": np.ones(5, np.float32)}))


def received(spool: Spool, ticket: int, data: bytes = UPDATE) -> None:
    """An upload that has come, but for being taken."""
    incoming = spool.receive(ticket, 0)
    incoming.write(memoryview(data), 0)
    incoming.close()


def test_updates_that_are_on_their_way_are_synced_with_the_first_that_is_taken(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LAYOUT)
    for ticket in (1, 2):
        received(spool, ticket)
    with written_down(tmp_path) as told:
        spool.sync_names([1])
        assert told == ["sync updates"]
        spool.sync_names([2])
        spool.sync_names([1, 2])
        assert told == ["sync updates"]
        received(spool, 3)
        spool.sync_names([2, 3])
        assert told == ["sync updates"] * 2


def test_an_upload_that_was_damaged_and_comes_again_has_a_new_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LAYOUT)
    received(spool, 1)
    spool.sync_names([1])
    spool.drop([1])
    with written_down(tmp_path) as told:
        spool.sync_names([1])
        assert told == []
        received(spool, 1)
        spool.sync_names([1])
    assert told == ["sync updates"]


def test_what_is_written_out_of_a_compressed_update_has_a_name_of_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path, LAYOUT, packed=True)
    packed = b"".join(compressed(iter([UPDATE])))
    received(spool, 1, packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    with written_down(tmp_path) as told:
        spool.sync_names([1])
        assert told == []  # what came is not what is read
        spool.finish(1, sha256, sha256)
        spool.sync_names([1])
    assert told == [f"sync updates/{1:010d}.raw", "sync updates"]
    assert spool.vectors(1)["delta"].tolist() == [1.0] * 5


def test_what_an_earlier_process_has_received_is_synced_at_the_start(tmp_path: Path) -> None:
    received(Spool(tmp_path, LAYOUT), 1)
    with written_down(tmp_path) as told:
        again = Spool(tmp_path, LAYOUT)
        again.sync_names([1])
    assert told == ["sync updates"]
