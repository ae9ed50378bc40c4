"""The run's secret: whole, for its owner, and there after a power cut; or nobody could trust a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.deploy.assembly import SECRET, SECRET_BYTES, _secret
from worlds.disk import written_down


def test_a_secret_is_made_once_and_is_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    with written_down(tmp_path) as told:
        made = _secret(tmp_path)
    assert told == [f"sync .{SECRET}.aside", f"name {SECRET}", "sync ."]
    assert len(made) == SECRET_BYTES and _secret(tmp_path) == made
    assert (tmp_path / SECRET).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", [b"", b"half"])
def test_a_secret_that_is_not_whole_is_made_anew(left: bytes, tmp_path: Path) -> None:
    """A crash may leave an empty file, from which everybody could make sessions."""
    (tmp_path / SECRET).write_bytes(left)
    made = _secret(tmp_path)
    assert len(made) == SECRET_BYTES and made == (tmp_path / SECRET).read_bytes()
