"""Every algorithm of the shelf runs from a job file, and leaves what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from muster.core.errors import UserError
from muster.job import load_job
from muster.run import run
from worlds.rig import NAMES

NEEDS_NORMS = "fedbn"
FILES = "job.yml plan.json records.jsonl summary.json model.safetensors log.txt curve.png checkpoints"
STATES = "clients"
"""Beside them where clients keep something."""


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_runs_from_a_job_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    job = load_job(
        {
            "model": "mlp",
            "algorithm": name,
            "population": "always_on",  # on unequal phones ESync has the fastest make hundreds of steps
            "engine": {"backend": "numpy", "workers": 1},
            "stop": {"rounds": 3},
            "track": {"checkpoint_every": 1},
        }
    )
    if name == NEEDS_NORMS:
        with pytest.raises(UserError, match="this model has none; take one of your own with batch or group"):
            run(job, tmp_path / "run")
        return
    run(job, tmp_path / "run")
    capsys.readouterr()
    assert {path.name for path in (tmp_path / "run").iterdir()} - {STATES} == set(FILES.split())
    assert not (tmp_path / "run" / STATES).is_dir() or list((tmp_path / "run" / STATES).iterdir())
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["rounds"] == 3 and summary["num_tasks"]["accepted"] >= 3
    told = [json.loads(line)["metrics"] for line in (tmp_path / "run/records.jsonl").read_text().splitlines()]
    assert told[0]["loss"] != told[-1]["loss"]
    assert all(np.isfinite(array).all() for array in load_file(tmp_path / "run/model.safetensors").values())
