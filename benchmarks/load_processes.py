"""The processes of the load benchmark: a server of a job, clients that share a process, and what they use."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
JOB = """
data: {{name: digits, partition: {{name: iid, num_clients: {clients}}}}}
model: {{name: mlp, hidden: {hidden}}}
algorithm: {{name: fedavg, pace: {{cohort: {clients}, min_start: {min_start}}}}}
population: always_on
engine: {{backend: numpy, mode: sequential, workers: 1}}
stop: {{rounds: {rounds}}}
track: {{checkpoint_every: 1, keep_checkpoints: {keep}, evaluate_every: 1000}}
deploy: {{start_with: {start_with}, lease_secs: {lease}, memory_mb: {memory}, evaluate: {evaluate}}}
"""

USUAL = {"rounds": 1000, "keep": 3, "lease": 10, "min_start": "null", "memory": "null", "evaluate": "true"}


class Usage:
    """What a process uses, by its id; Linux.

    Raises:
        SystemExit: It is not there any more.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def status(self, key: str) -> int:
        """A number of /proc/PID/status; of memory, in bytes."""
        for line in self._read("status").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * (1024 if line.endswith("kB") else 1)
        raise SystemExit(f"this system does not tell {key} of process {self.pid}, or it has ended")

    def cpu_secs(self) -> float:
        """CPU time that it has used."""
        user, system = self._read("stat").rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS

    def reset_peak(self) -> None:
        """VmHWM counts from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except FileNotFoundError:
            raise SystemExit(f"process {self.pid} has ended") from None


class Process(Usage):
    """A process that is spoken to in lines.

    Args:
        command: A script and what it is told.
        cwd: Where it runs.
        python: Its interpreter; None: this one.
        env: Its environment; None: this one's, with one thread for products of matrices.
        log: Where its errors go; None: to this one's.

    """

    def __init__(
        self,
        *command: object,
        cwd: Path | None = None,
        python: Path | None = None,
        env: dict[str, str] | None = None,
        log: IO[str] | None = None,
    ) -> None:
        self._process = subprocess.Popen(
            [str(python or sys.executable), *map(str, command)],
            cwd=cwd,
            env=env or {**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        super().__init__(self._process.pid)

    def ask(self, line: str) -> dict[str, Any]:
        """Writes a line and reads the answer."""
        self.write(line)
        return self.answer()

    def write(self, line: str) -> None:
        """Writes a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise SystemExit(f"a process ended with code {self._process.wait()}: {self._process.args}")
        return line

    def answer(self) -> dict[str, Any]:
        """The next line as JSON."""
        return dict(json.loads(self.line()))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait(60)
        self._process.stdout.close()


@contextmanager
def serving(
    within: Path | None = None, patience: float = 60.0, **settings: Any
) -> Iterator[tuple[Process, str]]:
    """A server of a job in a folder of its own, `within` another if one is given, and its address.

    It is waited for `patience` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="muster-load-", dir=within) as name:
        folder = Path(name)
        (folder / "job.yml").write_text(JOB.format(**{**USUAL, **settings}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        args = (
            "-m",
            "muster",
            "serve",
            "job.yml",
            "--insecure",
            "--json",
            "--port",
            str(port),
            "--out",
            "run",
        )
        server = Process(*args, cwd=folder)
        try:
            wait_for(port, patience)
            yield server, f"127.0.0.1:{port}"
        finally:
            server.close()


def wait_for(port: int, secs: float = 60.0, host: str = "127.0.0.1") -> None:
    """Returns when somebody listens."""
    until = time.monotonic() + secs
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), 1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nobody listens at port {port} after {secs:g} s")


@contextmanager
def swarm(what: str, address: str, count: int, first: int = 0, num_bytes: int = 0) -> Iterator[Process]:
    """Clients in a process."""
    options = ("--count", str(count), "--first", str(first), "--bytes", str(num_bytes))
    process = Process(HERE / "load_swarm.py", what, address, *options)
    try:
        yield process
    finally:
        process.close()
