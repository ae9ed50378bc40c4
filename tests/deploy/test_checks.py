"""`muster serve --dry-run`, and ports that are taken."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from muster.core.errors import UserError
from muster.deploy.checks import check
from muster.deploy.listen import Listen
from worlds.deployed import Rig, job_of

ESYNC = {"name": "esync", "pace": {"cohort": 2}}


@pytest.fixture
def taken() -> Any:
    """A port that somebody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_all_is_fine(tmp_path: Path) -> None:
    found = check(job_of(num_clients=2), tmp_path / "run", Listen(port=0, insecure=True))
    assert [what for what, _, _ in found] == ["port", "certificates", "clock", "data", "disk"]
    assert all(fine for _, fine, _ in found), found
    assert {what: said for what, _, said in found}["data"].startswith("2 clients")


def test_what_is_wrong_is_found_whether_or_not_the_rest_is_fine(tmp_path: Path, taken: int) -> None:
    listen = Listen(port=taken, certs=tmp_path, state_port=0)
    found = {what: (fine, said) for what, fine, said in check(job_of(num_clients=2), tmp_path, listen)}
    assert not found["port"][0] and "choose another --port" in found["port"][1]
    assert not found["certificates"][0] and found["data"][0]


def test_a_pace_with_leases_needs_a_second_port(tmp_path: Path, taken: int) -> None:
    job = job_of(num_clients=2, algorithm=ESYNC)
    listen = Listen(port=0, insecure=True, state_port=taken)
    found = {what: (fine, said) for what, fine, said in check(job, tmp_path, listen)}
    assert found["port"][0] and not found["state port"][0]
    assert "choose another --state-port" in found["state port"][1]
    with pytest.raises(UserError, match=f"port {taken} is in use .* choose another --state-port"):
        Rig(job, tmp_path / "run", listen=listen)
    with pytest.raises(UserError, match="--port and --state-port are both 7000"):
        Listen(port=7000, state_port=7000, insecure=True)
