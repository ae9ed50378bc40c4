"""Real processes: a server killed with SIGKILL and started again ends in the same bits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.net import certs

JOB = """
data: {name: digits, partition: {name: iid, num_clients: 2}}
model: logistic
algorithm: {name: fedavg, pace: {cohort: 2}}
population: always_on
engine: {backend: numpy, mode: sequential, workers: 1}
train: {epochs: 20}
stop: {rounds: 12}
track: {checkpoint_every: 4, evaluate_every: 100}
deploy: {start_with: 2, retry_secs: 0.3, lease_secs: 60}
"""


SYNCHRONOUS = """
algorithm: {name: fedavg, pace: {cohort: 2, over_commit: 1}}
population: always_on
train: {steps: 2, batch_size: 20}
stop: {rounds: 2}
track: {evaluate_sample: 100}
deploy: {lease_secs: 60}
"""
WHAT = {
    "digits": """
model: mlp
data: {name: digits, partition: {num_clients: 2}}
engine: {backend: numpy, mode: sequential, workers: 1}
""",
    "fashion_mnist": """
model: leaf_cnn
data: {name: fashion_mnist, partition: {num_clients: 2}}
engine: {backend: torch, mode: sequential, workers: 1}
""",
}


@pytest.mark.parametrize("name", WHAT)
def test_run_and_deploy_end_in_the_same_bits(name: str, shell: Any) -> None:
    """What users do: six processes and mutual TLS, which takes seconds."""
    if name == "fashion_mnist" and not os.environ.get("MUSTER_DATA"):
        pytest.skip("MUSTER_DATA is not set")
    (shell.folder / "job.yml").write_text(WHAT[name] + SYNCHRONOUS)
    drawn = name == "digits" and find_spec("tensorboard") is not None
    more = ["track.sinks=[tensorboard]"] if drawn else []
    simulated = shell.json("run", "job.yml", *more, "--out", "simulated")
    deployed = shell.json("deploy", "job.yml", *more, "--local", "2", "--out", "deployed")
    assert deployed["model_sha256"] == simulated["model_sha256"]
    assert deployed["metrics"] == simulated["metrics"]
    assert deployed["num_tasks"] == simulated["num_tasks"]
    for out in ("simulated", "deployed"):
        assert len(list((shell.folder / out).rglob("*tfevents*"))) == drawn


def test_a_run_whose_clients_all_fail_ends_and_says_where_to_look(shell: Any) -> None:
    """Tasks that raise are quarantine, and quarantine ends a client."""
    (shell.folder / "broken.py").write_text(
        "import muster\nclass Broken(muster.Client):\n    def train(self, *_):\n        1 / 0\n"
    )
    (shell.folder / "job.yml").write_text(
        "data: {name: digits, partition: {num_clients: 2}}\nmodel: logistic\nengine: {backend: numpy}\n"
        "algorithm: {local: broken.py:Broken, pace: {cohort: 2}}\npopulation: always_on\nstop: {rounds: 3}\n"
        "deploy: {quarantine_after: 1}\n"
    )
    out, err = shell("deploy", "job.yml", "--local", "2", "--insecure", "--out", "run", code=2)
    assert "client-0 is in quarantine: 1 of its tasks in a row went wrong" in out + err
    assert (
        "no client is left, so the run cannot go on: client-0 ended with exit code 2; run.local/logs/" in err
    )
    log = (shell.folder / "run.local" / "logs" / "client-0.log").read_text()
    assert log.count("ZeroDivisionError: division by zero") == 2  # of the task, and why it ends


@pytest.mark.timeout(180)
def test_a_server_killed_by_the_system_goes_on_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "job.yml").write_text(JOB)
    certs.init(tmp_path / "certs")
    for number in range(2):
        certs.issue(tmp_path / "certs", f"client-{number}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    processes: list[subprocess.Popen[bytes]] = []

    def start(*args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "muster", *args, "--certs", "certs"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        quiet = subprocess.DEVNULL
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet))
        return processes[-1]

    try:
        server = start("serve", "job.yml", "--port", port, "--out", "run")
        clients = [start("join", f"127.0.0.1:{port}", "--name", f"client-{i}") for i in range(2)]
        records = tmp_path / "run" / "records.jsonl"
        until = time.monotonic() + 90
        while not (records.exists() and records.read_bytes().count(b"\n") > 4):
            assert time.monotonic() < until and server.poll() is None
            time.sleep(0.01)
        server.kill()
        server.wait()
        assert not (tmp_path / "run" / "summary.json").exists()
        assert start("serve", "job.yml", "--port", port, "--out", "run").wait(90) == 0
        assert [client.wait(90) for client in clients] == [0, 0]
        live = json.loads((tmp_path / "run" / "live.json").read_text())
        assert sum(live["clients"].values()) == 2
        # As if killed between the run's end and its summary: clients that come are told of the end.
        (tmp_path / "run" / "summary.json").unlink()
        server = start("serve", "job.yml", "--port", port, "--out", "run")
        clients = [start("join", f"127.0.0.1:{port}", "--name", f"client-{i}") for i in range(2)]
        assert [client.wait(90) for client in clients] == [0, 0] and server.wait(90) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    run = muster.simulate(tmp_path / "job.yml")
    versions = [record.version for record in run]
    assert run.summary is not None
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["model_sha256"] == run.summary.model_sha256
    told = [json.loads(line)["version"] for line in records.read_text().splitlines()]
    assert told == versions


@pytest.mark.timeout(180)
def test_ctrl_c_ends_a_local_deployment_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """It reaches every process of the terminal's foreground group, in which clients are not."""
    (tmp_path / "job.yml").write_text(JOB.replace("{epochs: 20}", "{steps: 1}"))

    def start(*args: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "muster", *args]
        piped = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, stdout=piped, stderr=piped, text=True, start_new_session=True
        )

    deployment = ("deploy", "job.yml", "--local", "2", "--out", "run")
    slow = ("--step-secs", "0.5", "--step-secs", "0.5")
    records = tmp_path / "run" / "records.jsonl"
    with start(*deployment, *slow) as process:
        until = time.monotonic() + 90
        while not (records.exists() and records.read_bytes().count(b"\n") > 2):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert f"  muster {' '.join((*deployment, *slow))}\n" in out and "no client" not in err
    with start(*deployment, "--json") as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out + err
    assert json.loads(out)["rounds"] == 12
    told = [json.loads(line)["version"] for line in records.read_text().splitlines()]
    assert told == list(range(13))
