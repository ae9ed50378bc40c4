"""Models that are kept on disk: the same bits, through a kill and a full disk; who cannot do it is told."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster import checkpoint
from muster.core import storage
from muster.core.errors import UserError
from muster.core.storage import Storage
from muster.deploy.assembly import assemble
from worlds.deployed import Rig, Worker, crowd, job_of, simulated, start_of
from worlds.proxy import Proxy

Make = Callable[..., Rig]
ON_DISK = {"memory_mb": 0}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are much smaller than the models here."""
    monkeypatch.setattr(storage, "WIDTH", 100)
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 0)


@pytest.mark.parametrize("name", ["fedavg", "fedyogi", "scaffold", "fedper"])
def test_a_model_on_disk_gives_the_bits_of_the_simulation(name: str, make: Make) -> None:
    model = "mlp" if name == "fedper" else "logistic"  # of one layer nothing stays at the client
    job = job_of(algorithm={"name": name, "pace": {"cohort": 3}}, model=model, deploy=ON_DISK)
    rig = make(job)
    crowd(rig)
    assert rig.wait() == simulated(job)
    kept = [rig.made.plane.params, *rig.made.plane.moment.opt.values()]
    assert all(isinstance(vector, np.memmap) for vector in kept)


def test_a_killed_server_goes_on_from_what_its_checkpoint_has_on_disk(make: Make) -> None:
    algorithm = {"name": "fedyogi", "pace": {"cohort": 4}}
    job = job_of(rounds=8, algorithm=algorithm, track={"checkpoint_every": 2}, deploy=ON_DISK)
    rig = make(job)
    proxy = Proxy(rig.port)
    for number in range(4):
        Worker(rig, number, lambda t: time.sleep(0.2 * (t.version == 5)), f"127.0.0.1:{proxy.port}")
    rig.until(lambda: rig.made.conductor.state.version == 5)
    rig.kill()
    again = make(job)
    assert isinstance(again.made.plane.params, np.memmap)
    proxy.target = again.port
    assert again.wait() == simulated(job)
    proxy.close()


def test_a_version_for_which_there_is_no_room_waits_until_there_is(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(job_of(rounds=2, deploy=ON_DISK))
    full, empty = threading.Event(), Storage.empty

    def refusing(self: Storage, size: int, dtype: Any = np.float32) -> Any:
        if full.is_set():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return empty(self, size, dtype)

    monkeypatch.setattr(Storage, "empty", refusing)
    full.set()
    crowd(rig)
    rig.until(lambda: any("the disk is full: the run waits" in line for line in rig.said))
    full.clear()
    assert rig.wait() == simulated(rig.job)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"algorithm": {"name": "median", "pace": {"cohort": 4}}},
            r"algorithm.combine: \w+ with .*server: add works on whole vectors.*fedavg.*deploy.memory_mb",
        ),
        ({"compress": {"name": "top_k", "share": 0.1}}, r"compress: top_k decodes whole updates"),
    ],
    ids=["median", "compressed"],
)
def test_what_needs_whole_vectors_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    job = job_of(**changes, deploy=ON_DISK)
    start = replace(start_of(job), storage=Storage(tmp_path))
    with pytest.raises(UserError, match=said):
        assemble(job, tmp_path, start, lambda params: {}, store=None)
