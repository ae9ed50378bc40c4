"""Work E: a million clients on a clock, up to 10,000 participants a round of work B's model, trained.

    python benchmarks/million.py [--rounds N] [--workers 1,2] [--participants 10,100,1000,10000]

Clients hold 15 to 25 rows of 64 bytes in 10 classes, 1.4 GB on disk, prepared once (in a process of its own).
Phones that are unequal and always there; over-commitment 1.3. Each setting is `muster run --profile` in a
process of its own: seconds a round after the first two, peak RSS of all processes, and how much more is
resident than with 10 participants. Writes the table to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from marked import write_between

from muster import DataSet
from muster.core.examples import Examples, Facts
from muster.data.dataset import Raw
from muster.data.partition import Natural, Partition

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Many(DataSet):
    """Work B's clients, many more of them, and in bytes."""

    partition: Partition = field(default_factory=lambda: Natural(min_examples=1))
    num_clients: int = 1_000_000

    def load(self) -> Raw:
        """All examples, client after client."""
        draw = np.random.default_rng(1)
        owner = np.repeat(
            np.arange(self.num_clients, dtype=np.int32), draw.integers(15, 26, self.num_clients)
        )
        centres = draw.integers(0, 128, (10, 64), np.uint8)
        y = draw.integers(0, 10, len(owner))
        x = centres[y]
        x += draw.integers(0, 128, x.shape, np.uint8)
        facts = Facts("work_E", input_shape=(64,), num_classes=10)
        return Raw(facts, Examples(x, y), Examples(x[:1000], y[:1000]), owner, ())


def job(num_clients: int, participants: int, workers: int, rounds: int) -> dict[str, object]:
    """The job of one setting."""
    return {
        "name": "work-E",
        "data": {"name": f"{HERE}/million.py:Many", "num_clients": num_clients},
        "model": {"name": "mlp", "hidden": [64]},
        "algorithm": {"name": "fedavg", "pace": {"cohort": participants}, "local": {"lr": 0.1}},
        "population": {"name": "mobile", "availability": "always"},
        "train": {"epochs": 1, "batch_size": 10},
        "engine": {"workers": workers},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 10**9, "checkpoint_every": 10**9},
    }


def measure(num_clients: int, participants: int, workers: int, rounds: int) -> dict[str, float]:
    """One run: seconds a round, and peak RSS."""
    with tempfile.TemporaryDirectory() as folder:
        conf, out = Path(folder) / "e.yml", Path(folder) / "out"
        conf.write_text(json.dumps(job(num_clients, participants, workers, rounds)))
        command = [sys.executable, "-m", "muster", "run", str(conf), "--profile", "--out", str(out), "--json"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        walls = [json.loads(line)["wall_secs"] for line in (out / "records.jsonl").read_text().splitlines()]
        profile = json.loads((out / "profile.json").read_text())
    assert profile["num_tasks"] >= 0.8 * participants * rounds, profile
    print(participants, workers, {k: round(v / rounds, 3) for k, v in profile["secs"].items()}, flush=True)
    secs = statistics.median(np.diff(walls)[2:-1].tolist())  # the first warm up, the last is evaluated
    return {"secs": secs, "rss": float(sum(profile["peak_rss_bytes"].values()))}


def main() -> None:
    """Prepares, measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=1_000_000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--participants", default="10,100,1000,10000")
    args = parser.parse_args()
    measure(args.clients, 10, 1, 5)  # prepares the data
    lines = ["| participants | workers | s a round | peak RSS, all processes |", "| --- | --- | --- | --- |"]
    for workers in map(int, args.workers.split(",")):
        for participants in map(int, args.participants.split(",")):
            found = measure(args.clients, participants, workers, args.rounds)
            lines.append(
                f"| {participants:,} | {workers} | {found['secs']:.3f} | {found['rss'] / 1e6:.0f} MB |"
            )
    print("\n".join(lines))
    if args.clients == 1_000_000:
        write_between(HERE.parent / "docs/benchmarks.md", "million", "\n".join(lines))


if __name__ == "__main__":
    main()
