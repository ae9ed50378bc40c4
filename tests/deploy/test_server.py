"""What a server refuses before anything is done."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from muster.core.errors import TrainingError, UserError
from muster.deploy.listen import Listen
from muster.deploy.server import serve
from muster.net.hub import Hub
from muster.net.service import Service
from worlds.deployed import job_of


def test_a_target_that_nobody_would_see_is_refused(tmp_path: Path) -> None:
    stop = {"rounds": 1, "target": {"metric": "accuracy", "value": 0.5}}
    job = job_of(stop=stop, deploy={"evaluate": False})
    with pytest.raises(UserError, match=r"stop\.target waits for accuracy, but deploy\.evaluate is false"):
        serve(job, tmp_path / "run", Listen(port=0, insecure=True))
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_ends_at_once_and_leaves_nobody_listening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no end that its clients could be told: they try again until somebody serves it again."""

    async def fail(_: Hub) -> None:
        raise TrainingError("the examiner died")

    ports: list[int] = []
    monkeypatch.setattr(Hub, "run", fail)
    monkeypatch.setattr(Service, "farewell", lambda *_: pytest.fail("it says goodbye"))
    with pytest.raises(TrainingError, match="the examiner died"):
        serve(job_of(), tmp_path / "run", Listen(port=0, insecure=True), ready=ports.append)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0])).close()
