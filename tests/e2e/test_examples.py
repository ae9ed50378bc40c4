"""Every example runs as its own first line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
JOBS = sorted(path.stem for path in EXAMPLES.glob("*.yml"))
NEED_TORCH = {"own_model", "own_training", "stateful_client"}


def _skip_without_torch(name: str) -> None:
    if name in NEED_TORCH:
        pytest.importorskip("torch", reason="this example needs the extra [torch]")


def test_there_is_an_example_of_each_kind() -> None:
    assert set(JOBS) == {"my_fedavgm", "own_data", "own_server"} | NEED_TORCH
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*JOBS, "notebook"}


@pytest.mark.parametrize("name", JOBS)
def test_an_example_learns(shell: Any, name: str) -> None:
    _skip_without_torch(name)
    summary = shell.json("run", str(EXAMPLES / f"{name}.yml"), "stop.rounds=12", "engine.workers=1")
    assert summary["status"] == "rounds" and summary["rounds"] == 12
    assert summary["metrics"]["accuracy"] > 0.5


def test_a_new_algorithm_is_one_file_of_less_than_25_lines(shell: Any) -> None:
    assert len((EXAMPLES / "my_fedavgm.py").read_text().splitlines()) < 25
    hashes = {
        shell.json("run", str(EXAMPLES / "my_fedavgm.yml"), "stop.rounds=3", f"algorithm.server.beta={beta}")[
            "model_sha256"
        ]
        for beta in (0.0, 0.9)
    }
    assert len(hashes) == 2


def test_a_client_remembers_the_same_under_two_workers(shell: Any) -> None:
    _skip_without_torch("stateful_client")
    one, two = (
        shell.json("run", str(EXAMPLES / "stateful_client.yml"), "stop.rounds=4", f"engine.workers={workers}")
        for workers in (1, 2)
    )
    assert one["model_sha256"] == two["model_sha256"]


def test_the_notebook() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "notebook.py"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert "round 20: " in done.stdout and "fedyogi: 0." in done.stdout
    assert "20 rounds would take" in done.stdout
