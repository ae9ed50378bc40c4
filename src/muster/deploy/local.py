"""`muster deploy CONF --local N`: a server and N real client processes on one machine, with mutual TLS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from muster.core.errors import JobError, UserError
from muster.job import Job, num_clients
from muster.learn.device import choose_device, device_of
from muster.track.folder import JOB, to_stderr

from .listen import Listen
from .server import serve
from .worker import check_device, chosen

NAME = "client-{}"
CERTS, LOGS = "certs", "logs"


def deploy(
    job: Job,
    out: Path,
    num: int,
    *,
    insecure: bool = False,
    step_secs: Sequence[float] = (),
    device: str | None = None,
    json: bool = False,
    conf: str = "",
    command: str = "",
) -> dict[str, Any]:
    """Runs a job with `num` client processes beside the server; returns the summary as JSON data.

    Args:
        job: The job; its population must have `num` clients.
        out: The run folder; certificates, clients' states and their logs lie beside it, in OUT.local.
        num: Clients.
        insecure: Plaintext on the loopback address instead of certificates.
        step_secs: The least that a step takes, by client; those beyond its end are not slowed.
        device: What the clients' torch computes on: cpu, cuda (several GPUs are dealt out in turn), cuda:N or
            auto; None: as the job's `engine.device`.
        json: Keep stdout free.
        conf: The job file as the user named it.
        command: What the user typed.

    Raises:
        UserError: The job cannot be run, or has another number of clients.

    """
    known = num_clients(job)
    if known is not None and known != num:
        raise JobError(
            f"the job has {known} clients, not {num}: say data.partition.num_clients={num} or --local {known}"
        )
    if device is None:
        device = choose_device(job.engine.device, job.engine.backend, job.model)
    else:
        check_device(device)
        device = chosen(device, job.engine.backend, job.model)
    if job.deploy.start_with is None:
        job = replace(job, deploy=replace(job.deploy, start_with=num))
    side = out.with_name(f"{out.name}.local")
    certs = None if insecure else _certificates(side / CERTS, num)
    crowd = Crowd(side, num, certs, step_secs, device)
    try:
        listen = Listen(port=0, certs=certs, insecure=insecure)
        summary = serve(
            job,
            out,
            listen,
            json=json,
            conf=conf,
            command=command or f"muster deploy {out / JOB} --local {num} --out {out}",
            ready=crowd.start,
            deserted=crowd.gone,
        )
        if summary["status"] != "interrupted":
            secs = job.deploy.call_secs
            crowd.wait(secs)
            for line in crowd.failed():
                to_stderr(line)
            if left := crowd.left():
                said = f"deploy.call_secs = {secs:g} s after the run; killed"
                to_stderr(f"{', '.join(left)}: not ended {said}")
        elif crowd.gone():
            raise UserError(f"no client is left, so the run cannot go on: {'; '.join(crowd.failed())}")
        return summary
    finally:
        crowd.kill()


def _certificates(folder: Path, num: int) -> Path:
    from muster.net import certs

    if not (folder / "ca.key").exists():
        certs.init(folder)
    for name in map(NAME.format, range(num)):
        if not (folder / f"{name}.crt").exists():
            certs.issue(folder, name)
    return folder


class Crowd:
    """Client processes of this machine.

    Args:
        folder: Where their states and logs lie.
        num: How many there are.
        certs: Their certificates; None: plaintext.
        step_secs: The least that a step takes, by client.
        device: What their torch computes on; of `cuda` the GPUs are dealt out.

    """

    def __init__(
        self,
        folder: Path,
        num: int,
        certs: Path | None,
        step_secs: Sequence[float] = (),
        device: str = "cpu",
    ) -> None:
        self._folder, self._num, self._certs, self._step_secs = folder, num, certs, step_secs
        self._device = device
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, port: int) -> None:
        """Starts them all; each computes on one thread."""
        logs = self._folder / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        for number, name in enumerate(map(NAME.format, range(self._num))):
            way = ["--insecure"] if self._certs is None else ["--certs", str(self._certs)]
            command = [sys.executable, "-m", "muster", "join", f"127.0.0.1:{port}", "--name", name, *way]
            command += ["--home", str(self._folder / name), "--allow-code"]
            command += ["--device", device_of(self._device, number)]
            if number < len(self._step_secs):
                command += ["--step-secs", str(self._step_secs[number])]
            with (logs / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    env={**os.environ, **threads},
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for the server, after which we end them
                )
            self.processes.append(process)

    def gone(self) -> bool:
        """Whether all that were started have ended."""
        return bool(self.processes) and all(process.poll() is not None for process in self.processes)

    def left(self) -> list[str]:
        """The names of those that have not ended."""
        return [NAME.format(i) for i, process in enumerate(self.processes) if process.poll() is None]

    def failed(self) -> list[str]:
        """A line about each that has ended with an error; its log says which."""
        codes = [(NAME.format(number), process.poll()) for number, process in enumerate(self.processes)]
        return [
            f"{name} ended with exit code {code}; {self._folder / LOGS / name}.log says why"
            for name, code in codes
            if code and code > 0
        ]

    def wait(self, secs: float) -> None:
        """Returns when all have ended, or after `secs`."""
        until = time.monotonic() + secs
        for process in self.processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))

    def kill(self) -> None:
        """Ends those that are left."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()
