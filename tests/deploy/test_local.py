"""The clients of `muster deploy --local`: where they compute, and what becomes of those that stay."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.core.errors import UserError
from muster.deploy import local
from muster.deploy.local import Crowd, deploy
from worlds.deployed import job_of

torch = pytest.importorskip("torch")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has this machine have so many GPUs, as far as torch's questions go."""

    def have(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


class Started:
    """In place of a client's process: it has ended well, and its command is kept."""

    commands: list[list[str]]

    def __init__(self, command: list[str], **_: Any) -> None:
        self.commands.append(command)

    def poll(self) -> int:
        return 0

    def wait(self, secs: float | None = None) -> int:
        return 0


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The devices of the clients that were started, none of which runs; nor does a server."""

    def serve(*_: Any, ready: Callable[[int], None], **__: Any) -> dict[str, str]:
        ready(1)
        return {"status": "rounds"}

    monkeypatch.setattr(Started, "commands", [], raising=False)
    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(local, "serve", serve)
    return lambda: [command[command.index("--device") + 1] for command in Started.commands]


@pytest.mark.parametrize(
    ("asked", "of_the_job", "come_to"),
    [
        (None, "cpu", ["cpu"] * 3),
        (None, "auto", ["cuda:0", "cuda:1", "cuda:0"]),
        (None, "cuda:1", ["cuda:1"] * 3),
        ("cuda", "cpu", ["cuda:0", "cuda:1", "cuda:0"]),
        ("cpu", "cuda", ["cpu"] * 3),
    ],
)
def test_clients_compute_where_the_option_says_or_else_the_job(
    asked: str | None,
    of_the_job: str,
    come_to: list[str],
    gpus: Callable[[int], None],
    devices: Callable[[], list[str]],
    tmp_path: Path,
) -> None:
    gpus(2)
    job = job_of(num_clients=3, model="mlp", engine={"backend": "torch", "device": of_the_job})
    deploy(job, tmp_path / "run", 3, insecure=True, device=asked)
    assert devices() == come_to


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_made(
    gpus: Callable[[int], None], devices: Callable[[], list[str]], tmp_path: Path
) -> None:
    gpus(0)
    job = job_of(num_clients=1, model="mlp", engine={"backend": "torch", "device": "cuda"})
    with pytest.raises(UserError, match=r"^engine\.device is cuda, but torch .* use engine\.device=cpu"):
        deploy(job, tmp_path / "run", 1)
    with pytest.raises(UserError, match=r"^--device is cuda:1, but torch .* use --device cpu"):
        deploy(job, tmp_path / "run", 1, device="cuda:1")
    assert devices() == [] and list(tmp_path.iterdir()) == []


def test_clients_that_have_not_ended_are_named_and_killed(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, 2, None)
    for secs in (0, 60):
        crowd.processes.append(subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({secs})"]))
    crowd.processes[0].wait()
    crowd.wait(0.01)
    assert crowd.left() == ["client-1"]
    crowd.kill()
    assert crowd.left() == [] and crowd.failed() == []
