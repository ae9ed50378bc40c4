"""`engine.device` in whole runs: refused where there is no GPU, the CPU by `auto`, and whole on `meta`."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import muster
from muster.job import load_job

torch = pytest.importorskip("torch")
from worlds.one_device import OneDevice  # noqa: E402

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@NO_GPU
def test_a_run_on_a_gpu_that_is_not_there_is_refused(shell: Any) -> None:
    asked = ("digits.yml", "engine.device=cuda", "engine.backend=torch")
    shell("check", *asked)  # it may be meant for another machine
    for how in ((), ("--explain",)):
        _, err = shell("run", *asked, *how, code=2)
        assert "engine.device is cuda, but torch" in err and "use engine.device=cpu" in err
        assert "Traceback" not in err
    _, err = shell("join", "localhost:1", "--name", "me", "--insecure", "--device", "gpu", code=2)
    assert "--device is 'gpu', but must be cpu, cuda, cuda:N for one GPU of several, or auto" in err
    _, err = shell("deploy", "digits.yml", "engine.backend=torch", "--device", "cuda", code=2)
    assert "--device is cuda, but torch" in err and "use --device cpu" in err


@NO_GPU
def test_auto_without_a_gpu_is_the_cpu_and_stays_it(shell: Any) -> None:
    shell("run", "digits.yml", "engine.device=auto", "stop.rounds=1", "--out", "there")
    shell("run", "digits.yml", "stop.rounds=1", "--out", "other")
    assert load_job(shell.folder / "there" / "job.yml").engine.device == "cpu"
    one, other = ((shell.folder / name / "model.safetensors").read_bytes() for name in ("there", "other"))
    assert one == other


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ("fedavg", {}),
        ("fedavg", {"engine": {"mode": "sequential"}, "track": {"per_client": 3}}),
        ("fedavg", {"compress": "qsgd"}),
        ("fedavg", {"clock": {"compute": "measured"}}),
        ("scaffold", {}),
        ("krum", {}),
        ("fedper", {}),
        ("fedbuff", {}),
        ("power_of_choice", {}),
    ],
)
def test_a_whole_run_never_mixes_what_is_on_the_device(
    algorithm: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed: what comes back are zeros, so that the model stays."""
    monkeypatch.setattr("muster.job.settings.DEVICES", re.compile("cpu|auto|meta"))
    monkeypatch.setattr("muster.compose.choose_device", lambda asked, backend, model: "meta")
    job = {
        "data": {"name": "digits", "partition": {"name": "iid", "num_clients": 30}},
        "model": {"name": "mlp", "hidden": [7, 5]},
        "algorithm": algorithm,
        "stop": {"rounds": 2},
        **more,
        "engine": {"workers": 1, "device": "auto", **more.get("engine", {})},
    }
    with OneDevice() as machine:
        run = muster.simulate(job)
        records = list(run)
    assert len(records) == 3 and records[-1].metrics["loss"] == 0.0
    assert machine.back and all(np.isfinite(record.loss) for record in records[1:])
