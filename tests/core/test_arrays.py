"""What is written beside a `facts.json` has the hash that is told."""

import errno
import hashlib

import numpy as np
import pytest

from muster.core.arrays import HashedFile, digest_of, write_array


def test_the_hash_is_that_of_the_file(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T  # not contiguous
    told = write_array(tmp_path / "a.npy", array)
    assert told == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert np.load(tmp_path / "a.npy").tolist() == array.tolist()


def test_the_reason_of_a_failed_write_is_kept(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HashedFile, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_array(tmp_path / "a.npy", np.zeros(3))


def test_the_digest_is_of_all_but_itself():
    assert digest_of({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a": [2], "b": 1}').hexdigest()
    assert digest_of({"b": 1, "a": [2], "sha256": "x"}) == digest_of({"a": [2], "b": 1})
    assert digest_of({"b": 2, "a": [2]}) != digest_of({"b": 1, "a": [2]})
