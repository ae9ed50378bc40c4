"""The command `muster` in a process of its own, and runs of digits that take a second or two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import muster

PATIENCE_SECS = 100.0
"""Longer than any machine needs, shorter than the time-out of a test."""


@dataclass(frozen=True)
class Shell:
    """Runs `muster` in `folder`, as its user would."""

    folder: Path

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Starts the command."""
        return subprocess.Popen(
            [sys.executable, "-m", "muster", *args],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *args: str, code: int = 0) -> tuple[str, str]:
        """Runs the command to its end; returns what it wrote to stdout and stderr."""
        with self.start(*args) as process:
            out, err = process.communicate(timeout=PATIENCE_SECS)
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
        return out, err

    def json(self, *args: str, code: int = 0) -> dict[str, Any]:
        """Runs the command with --json; returns the object on its stdout."""
        body = json.loads(self(*args, "--json", code=code)[0])
        assert isinstance(body, dict)
        return body


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Ctrl-C reaches what is started even where the tests run in the background, in which it is ignored.

    What is ignored stays so in a new program, unlike what is handled; to set it between fork and exec would
    be a fork, of which JAX warns where another test has loaded it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A folder with a job file `digits.yml`."""
    (tmp_path / "digits.yml").write_text(
        "engine: {backend: numpy, workers: 1}\nmodel: logistic\nstop: {rounds: 20}\n"
        "track: {checkpoint_every: 2}\n"
    )
    return Shell(tmp_path)


@pytest.fixture
def records() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a run's records.jsonl."""

    def read(folder: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def wait_for_records() -> Callable[[subprocess.Popen[str], Path, int, float], bool]:
    """Waits until a run has written so many records, and then a fraction of the time of one more."""

    def wait(process: subprocess.Popen[str], folder: Path, count: int, fraction: float = 0.0) -> bool:
        """False if the run ended before."""
        path, end = folder / "records.jsonl", time.monotonic() + PATIENCE_SECS
        first: float | None = None
        while time.monotonic() < end:
            now = time.monotonic()
            lines = path.read_bytes().count(b"\n") if path.exists() else 0
            first = now if first is None and lines else first
            if lines >= count:
                begun = now if first is None else first
                time.sleep(fraction * (now - begun) / max(lines - 1, 1))
                return process.poll() is None
            if process.poll() is not None:
                return False
            time.sleep(0.001)
        process.kill()
        raise TimeoutError(f"no {count} records in {PATIENCE_SECS} s")

    return wait


@pytest.fixture
def hash_of() -> Callable[..., str]:
    """The hash that a job ends in when nothing stops it, trained in this process."""

    def compute(conf: Path, *overrides: str) -> str:
        job = muster.load_job(conf, overrides)
        run = muster.simulate(job)
        for _ in run:
            pass
        assert run.summary is not None and run.summary.model_sha256 is not None
        return run.summary.model_sha256

    return compute
