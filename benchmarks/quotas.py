"""ESync under CPU quotas 1, 0.5, 0.25, 0.125, as deploy/compose.yml has them, without a container engine.

    python benchmarks/quotas.py [--rounds 10]

`muster serve deploy/esync.yml` and four `muster join` processes. A worker that has computed for longer than
its quota of the time that has passed, by more than a tenth of a second's worth, is stopped (SIGSTOP) until it
has paid, as the kernel does with a container that has used its quota of a period of 100 ms. Twice: with the
job's steps of some 30 ms, shorter than the period, and with FashionMNIST in batches of 400, half a second.
Writes the table in docs/benchmarks.md. Needs MUSTER_DATA, [torch], [net], and two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import yaml
from esync_processes import ROOT, SPEEDS, Run
from marked import write_between

PERIOD_SECS, LOOK_SECS = 0.1, 0.01
TICKS = os.sysconf("SC_CLK_TCK")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cpu_secs(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def hold(process: subprocess.Popen[bytes], quota: float) -> None:
    """Keeps a process to its quota until it ends."""
    owed, used, last = 0.0, cpu_secs(process.pid), time.monotonic()
    while process.poll() is None:
        time.sleep(LOOK_SECS)
        try:
            now, spent = time.monotonic(), cpu_secs(process.pid)
        except OSError:
            return  # it has ended
        owed = max(0.0, owed + spent - used - quota * (now - last))
        used, last = spent, now
        process.send_signal(signal.SIGSTOP if owed > quota * PERIOD_SECS else signal.SIGCONT)


def deployed(job: dict[str, Any], folder: Path) -> Run:
    """Serves a job to four workers under quotas."""
    conf = folder / "job.json"
    conf.write_text(json.dumps(job))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def muster(*command: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "muster", *command, "--insecure"]
        return subprocess.Popen(line, env={**os.environ, **ONE_THREAD}, stdout=subprocess.DEVNULL)

    out = folder / "run"
    server = muster("serve", str(conf), "--out", str(out), "--json", f"--port={port}", "--state-port=0")
    workers = [muster("join", f"127.0.0.1:{port}", "--name", f"worker-{k}", "--json") for k in range(4)]
    for worker, quota in zip(workers, SPEEDS, strict=True):
        if quota < 1:
            threading.Thread(target=hold, args=(worker, quota), daemon=True).start()
    try:
        if server.wait(600):
            raise SystemExit(f"the server ended with exit code {server.returncode}")
        return Run.of(out, 0.0)
    finally:
        for process in (server, *workers):
            process.kill()
            process.wait()


def row(name: str, run: Run) -> str:
    """Median steps and seconds of a round without the first, in which speeds are not known."""
    rounds = [after - before for before, after in zip(run.versions, run.versions[1:], strict=False)]
    steps = ", ".join(f"{n:g}" for n in run.typical())
    each = [
        task.compute_secs / made
        for tasks, counts in zip(run.tasks, run.steps, strict=True)
        for task, made in [(tasks[-1], counts[-1])]
    ]
    times = ", ".join(f"{1000 * secs:,.0f}" for secs in each)
    return f"| {name} | {times} | {steps} | {statistics.median(rounds):.2f} | {len(run.versions)} |"


def main() -> None:
    """Runs both jobs and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    digits = yaml.safe_load((ROOT / "deploy" / "esync.yml").read_text("utf-8"))
    digits |= {"stop": {"rounds": args.rounds}, "track": {"evaluate_every": 10_000, "evaluate_sample": 200}}
    pace = {**digits["algorithm"]["pace"], "margin_secs": -0.2}
    fashion = {
        **digits,
        "data": {**digits["data"], "name": "fashion_mnist"},
        "train": {"batch_size": 400},
        "algorithm": {**digits["algorithm"], "pace": pace},
    }
    lines = [
        "| job | ms a step, by worker | steps of a round, by worker | s a round | rounds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, job in {"digits": digits, "FashionMNIST, batches of 400": fashion}.items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, deployed(job, Path(folder))))
    print(table := "\n".join(lines))
    write_between(ROOT / "docs" / "benchmarks.md", "quotas", table)


if __name__ == "__main__":
    main()
