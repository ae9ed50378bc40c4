"""Servers and clients of real deployments killed by the system, at random moments, again and again.

    python benchmarks/kills.py [--kills N] [server] [client]

server: the server of a synchronous job is killed with SIGKILL up to three seconds after it was started,
whatever it is doing, and started again; every run must end in the simulation's hash, with no update missing.
client: of twelve clients one to six at once are killed at a random moment of each round, and started again
at once or up to two seconds later; every run must end, no round may last longer than its bound, and `muster
replay` must make every model again from the updates that were acknowledged. These clients are forked from a
process that has imported Muster already, so that a thousand starts do not take the machine to themselves.
What the machine stood still (suspended, or its processes stopped) is taken off a round, and told.
Writes docs/benchmarks.md; exits with 1 if anything of this does not hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marked import write_between

import muster

JOB = """
data: {{name: digits, partition: {{name: iid, num_clients: {clients}}}}}
model: logistic
algorithm: {{name: fedavg, pace: {{cohort: {clients}, min_reports: 1}}}}
population: always_on
engine: {{backend: numpy, mode: sequential, workers: 1}}
train: {{epochs: {epochs}}}
stop: {{rounds: {rounds}}}
seed: {seed}
track: {{checkpoint_every: 5, evaluate_every: 1000}}
deploy: {{start_with: {clients}, retry_secs: 0.3, lease_secs: {lease}, keep_updates: {keep}}}
"""
LEASE_SECS = 1.0
BOUND_SECS = 30.0
"""A round of the second kind may last so long: two leases, and the start of a client on a busy machine."""
CLIENTS, AT_ONCE = 12, 6
"""Clients of the second kind, and how many are killed at once at most."""
AWAY_SECS = 2.0
"""The longest time before a client that was killed comes back."""
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["muster.cli", "muster.deploy.worker", "muster.learn.numpy_learner"])


class Pulse:
    """How long this process stood still at most, s: while it is entered, a thread looks at the clock."""

    def __init__(self) -> None:
        self.longest, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(0.05):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last - 0.05), now

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Rig:
    """A server and its clients, each a process."""

    folder: Path
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    forked: list[Any] = field(default_factory=list)

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """A process of Muster."""
        command = [sys.executable, "-m", "muster", *args, "--insecure"]
        with (self.folder / "log.txt").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                )
            )
        return self.processes[-1]

    def serve(self) -> subprocess.Popen[bytes]:
        """The server, of a new run or of one that goes on."""
        return self.start("serve", "job.yml", "--port", str(self.port), "--out", "run")

    def join(self, number: int) -> subprocess.Popen[bytes]:
        """A client."""
        return self.start("join", f"127.0.0.1:{self.port}", "--name", f"client-{number}")

    def fork(self, number: int) -> Any:
        """A client, forked from the process that is warm."""
        args = (f"127.0.0.1:{self.port}", f"client-{number}", self.folder / "log.txt")
        self.forked.append(WARM.Process(target=forked, args=args, daemon=True))
        self.forked[-1].start()
        return self.forked[-1]

    def records(self) -> list[dict[str, Any]]:
        """What the server has written down so far."""
        path = self.folder / "run" / "records.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        """Ends all that is left."""
        for process in self.processes:
            process.kill()
            process.wait()
        for process in self.forked:
            process.kill()
            process.join()


def forked(address: str, name: str, log: Path) -> None:
    """What a forked client does: `muster join`."""
    from muster.cli import main as command

    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    command(["join", address, "--name", name, "--insecure"])


def rig(folder: Path, **settings: object) -> Rig:
    """A job file in a folder, and a free port."""
    (folder / "job.yml").write_text(JOB.format(**settings))
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Rig(folder, free.getsockname()[1])


def kill_server(seed: int, most: int, draw: random.Random) -> dict[str, Any]:
    """One run whose server is killed, at most so many times; what came of it."""
    with tempfile.TemporaryDirectory() as name:
        it = rig(Path(name), clients=2, epochs=10, rounds=150, seed=seed, lease=10, keep="false")
        back: list[float] = []
        kills = 0
        try:
            server = it.serve()
            clients = [it.join(number) for number in range(2)]
            while not it.records():  # until the run is there, nothing can be lost
                time.sleep(0.02)
            while kills < most:
                time.sleep(draw.uniform(0.0, 3.0))
                if server.poll() is not None:
                    break
                server.kill()
                server.wait()
                kills += 1
                before, began = len(it.records()), time.monotonic()
                server = it.serve()
                if kills % 10 == 1:  # now and then it is left alone until it has gone on, to time that
                    while server.poll() is None and len(it.records()) <= before:
                        assert time.monotonic() - began < 120, "the server does not go on"
                        time.sleep(0.01)
                    back.append(time.monotonic() - began)
            code = server.wait(600)
            codes = [client.wait(60) for client in clients]
        finally:
            it.close()
        told = it.records()
        summary = json.loads((it.folder / "run" / "summary.json").read_text())
        run = muster.simulate(it.folder / "job.yml")
        versions = [record.version for record in run]
        assert run.summary is not None
        return {
            "kills": kills,
            "same hash": summary["model_sha256"] == run.summary.model_sha256,
            "whole": [r["version"] for r in told] == versions
            and all(r["num_accepted"] == 2 for r in told[1:]),
            "ended": code == 0 and codes == [0, 0],
            "back": back,
        }


def kill_clients(seed: int, most: int, draw: random.Random) -> dict[str, Any]:
    """One run whose clients are killed, at most so many times; what came of it."""
    with tempfile.TemporaryDirectory() as name, Pulse() as pulse:
        it = rig(
            Path(name), clients=CLIENTS, epochs=100, rounds=150, seed=seed, lease=LEASE_SECS, keep="true"
        )
        kills = 0
        try:
            server = it.serve()
            clients = [it.fork(number) for number in range(CLIENTS)]
            away: dict[int, float] = {}
            while len(it.records()) < 2:
                time.sleep(0.02)
            told = it.records()
            while kills < most and server.poll() is None:
                time.sleep(draw.uniform(0.0, told[-1]["now_secs"] - told[-2]["now_secs"]))
                here = [number for number in range(CLIENTS) if number not in away]
                for number in draw.sample(here, min(draw.randint(1, AT_ONCE), len(here), most - kills)):
                    clients[number].kill()
                    away[number] = time.monotonic() + max(0.0, draw.uniform(-AWAY_SECS, AWAY_SECS))
                    kills += 1
                before, end = len(told), time.monotonic() + BOUND_SECS
                while len(told) <= before and server.poll() is None and time.monotonic() < end:
                    time.sleep(0.02)
                    told = it.records()
                    for number in [n for n, until in away.items() if until <= time.monotonic()]:
                        clients[number] = it.fork(number)
                        del away[number]
            for number in away:
                it.fork(number)
            code = server.wait(600)
        finally:
            it.close()
        told = it.records()
        secs = [b["now_secs"] - a["now_secs"] for a, b in itertools.pairwise(told)]
        replayed = subprocess.run(
            [sys.executable, "-m", "muster", "replay", "run"], cwd=it.folder, capture_output=True, check=False
        )
        return {
            "kills": kills,
            "lost": sum(r["num_lost"] for r in told),
            "longest": max(secs),
            "still": pulse.longest,
            "median": statistics.median(secs),
            "replayed": replayed.returncode == 0,
            "ended": code == 0,
        }


def until(enough: int, one: Any) -> list[dict[str, Any]]:
    """Runs until there were so many kills."""
    draw, runs = random.Random(0), []
    while (left := enough - sum(run["kills"] for run in runs)) > 0:
        runs.append(one(len(runs), left, draw))
        print(runs[-1], flush=True)
    return runs


def main() -> None:
    """Kills, prints and writes what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", nargs="*", default=["server", "client"])
    parser.add_argument("--kills", type=int, default=100)
    args = parser.parse_args()
    good, page = True, Path(__file__).resolve().parent.parent / "docs/benchmarks.md"
    if "server" in args.who:
        runs = until(args.kills, kill_server)
        back = [secs for run in runs for secs in run["back"]]
        held = sum(run["same hash"] and run["whole"] and run["ended"] for run in runs)
        good &= held == len(runs)
        text = (
            f"{sum(run['kills'] for run in runs)} kills of the server in {len(runs)} runs of 150 rounds: "
            f"{held} of {len(runs)} ended in the simulation's hash, each version made of both updates. From "
            f"its new start to its next version: median {statistics.median(back):.1f} s, at most "
            f"{max(back):.1f} s."
        )
        write_between(page, "kills server", text)
    if "client" in args.who:
        runs = until(args.kills, kill_clients)
        for run in runs:
            run["longest"] -= run["still"]
        held = sum(run["replayed"] and run["ended"] and run["longest"] < BOUND_SECS for run in runs)
        still = max(run["still"] for run in runs)
        good &= held == len(runs)
        text = (
            f"{sum(run['kills'] for run in runs)} kills of clients, up to {AT_ONCE} of {CLIENTS} at once, in "
            f"{len(runs)} runs of up to 150 rounds, leases of {LEASE_SECS:g} s: {held} of "
            f"{len(runs)} ended and were replayed to the same bits. "
            f"{sum(run['lost'] for run in runs)} tasks were lost; a round took "
            f"{statistics.median(run['median'] for run in runs):.2f} s in the median, the longest "
            f"{max(run['longest'] for run in runs):.1f} s."
        )
        if still > 1:
            text += f" The machine stood still for up to {still:.0f} s, which is taken off the longest round."
        write_between(page, "kills client", text)
    sys.exit(0 if good else "a run did not hold what it must")


if __name__ == "__main__":
    main()
