"""Updates learnt again from the journal are those that came: to the bit on the machine of the clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.core.errors import RunFolderError
from muster.core.tables import Kind
from muster.data.federated import FederatedData
from muster.deploy.assembly import Assembly, assemble, deliver_all, errand_of
from muster.deploy.local_training import LocalTraining
from muster.deploy.relearn import Relearning
from muster.job import Job, dump_job
from muster.net.journal import JOURNAL, Entry, read
from muster.net.rpc import pb
from muster.net.spool import UPDATES
from worlds.deployed import Rig, crowd, job_of, start_of

FEDBUFF = {"name": "fedbuff", "pace": {"size": 2, "concurrency": 3}}
KEEP = {"keep_updates": True}


def relearnt(job: Job, folder: Path, tolerance: float = 1e-4) -> tuple[Assembly, dict[str, Any]]:
    """The run of a folder, learnt again in this process: what it ends with, and what came of it."""
    start = start_of(job)
    data = FederatedData.open(start.data)
    training = LocalTraining(errand_of(job, start, data), data)
    make_crew = partial(Relearning, training=training, tolerance=tolerance)
    made = assemble(job, folder, start, lambda params: {}, store=None, evaluates=False, make_crew=make_crew)
    assert isinstance(made.crew, Relearning)
    made.conductor.handed = made.crew.note
    deliver_all(made, folder / JOURNAL, 0)
    made.plane.close()
    return made, made.crew.to_json()


def deployed(job: Job, folder: Path) -> str:
    """A run with a client for each of the job; the hash that it ends in."""
    rig = Rig(job, folder)
    crowd(rig)
    return rig.wait()


def test_a_run_of_fedbuff_is_learnt_again_in_another_process(tmp_path: Path) -> None:
    job = job_of(rounds=6, algorithm=FEDBUFF, deploy=KEEP)
    sha256 = deployed(job, tmp_path)
    (tmp_path / "job.yml").write_text(dump_job(job))
    command = [sys.executable, "-m", "muster", "replay", str(tmp_path), "--relearn", "--json"]
    body = json.loads(subprocess.run(command, capture_output=True, check=True, env=os.environ).stdout)
    assert (body["model_sha256"], body["version"], body["first"]) == (sha256, 6, 0)
    assert (body["num_updates"], body["num_exact"], body["num_missing"]) == (12, 12, 0)
    assert body["largest_difference"] == 0.0


# What clients keep from task to task, what they send beside the model, and steps on a lease.
KINDS: dict[str, dict[str, Any]] = {
    "scaffold": {"algorithm": {"name": "scaffold", "pace": {"cohort": 3}}},
    "unsent remains": {"algorithm": FEDBUFF, "compress": {"name": "top_k", "share": 0.1}},
    "fedper": {"algorithm": {"name": "fedper", "pace": {"cohort": 3}}, "model": "mlp"},
    "esync": {"algorithm": {"name": "esync", "pace": {"cohort": 4}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_learnt_again_to_the_bit(kind: str, tmp_path: Path) -> None:
    job = job_of(rounds=4, deploy=KEEP, **KINDS[kind])
    sha256 = deployed(job, tmp_path)
    made, body = relearnt(job, tmp_path, tolerance=0)
    assert made.spec.sha256(made.plane.result) == sha256
    assert body["num_updates"] == body["num_exact"] >= 8


def test_updates_that_are_gone_are_replaced(tmp_path: Path) -> None:
    job = job_of(rounds=3, algorithm=FEDBUFF, deploy=KEEP)
    sha256 = deployed(job, tmp_path)
    arrived = [
        e.ticket for _, e in read(tmp_path / JOURNAL) if isinstance(e, Entry) and e.kind == Kind.ARRIVED
    ]
    for ticket in arrived[:4]:  # in the order in which they are folded; one of all may never be
        (tmp_path / UPDATES / f"{ticket:010d}.up").unlink()
    made, body = relearnt(job, tmp_path)
    assert made.spec.sha256(made.plane.result) == sha256
    assert (body["num_updates"], body["num_exact"], body["num_missing"]) == (6, 2, 4)


def test_an_update_that_was_not_learnt_so_is_named(tmp_path: Path) -> None:
    job = job_of(rounds=1, num_clients=1, deploy=KEEP)
    rig = Rig(job, tmp_path)
    mine = rig.client(0)
    task = mine.take()
    assert task is not None
    delta = np.full(mine.spec.size, 0.01, np.float32)
    said = {"num_examples": 10, "num_steps": 1, "loss": 1.0, "loss_sq_mean": 1.0}
    assert task.send({"delta": delta}, pb.Report(**said)) == "taken"
    rig.wait()
    with pytest.raises(
        RunFolderError, match=r"update 0 \(client 0, version 0\) differs by .* 0.0001 is allowed"
    ):
        relearnt(job, tmp_path)
    _, body = relearnt(job, tmp_path, tolerance=1e6)
    assert body["num_exact"] == 0 and body["largest_difference"] > 0.1
