"""Works A to D with Muster, from the same arrays as the peers."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from workload import workload

import muster
from muster import DataSet
from muster.core.examples import Examples, Facts
from muster.data.dataset import Raw
from muster.data.partition import Natural, Partition

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Work(DataSet):
    """The clients of a work; a few of their examples stand in for a test set."""

    partition: Partition = field(default_factory=lambda: Natural(min_examples=1))
    work: str = "A"
    copies: int = 1
    """How many clients have the same examples."""

    def load(self) -> Raw:
        """All examples, client after client."""
        done = workload(self.work)
        done = replace(done, clients=[*done.clients] * self.copies)
        x = np.concatenate([x for x, _ in done.clients])
        y = np.concatenate([y for _, y in done.clients]).astype(np.int64)
        owner = np.repeat(np.arange(len(done.clients), dtype=np.int32), [len(y) for _, y in done.clients])
        facts = Facts(f"work_{self.work}", input_shape=x.shape[1:], num_classes=done.num_classes)
        names = tuple(map(str, range(len(done.clients))))
        return Raw(facts, Examples(x, y), Examples(x[:100], y[:100]), owner, names)


def cpu_secs() -> float:
    """CPU time of this process and the workers that it has."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Runs and prints one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("A", "B", "C", "D"))
    parser.add_argument("--rounds", type=int, help="that are timed, after one that warms up")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--engine", type=json.loads, default={}, help="settings of the job's engine, in JSON")
    parser.add_argument("--per-round", type=int, help="clients a round, if not the work's own")
    args = parser.parse_args()
    work = workload(args.work)
    if args.per_round:
        work = replace(work, per_round=args.per_round)
    rounds = 1 + (args.rounds or work.rounds) + 1  # the last one is evaluated, and not counted
    models = {name: f"{HERE}/torch_models.py:Work{name}" for name in "AC"}
    models |= {"B": {"name": "mlp", "hidden": [64]}, "D": {"name": "convnet2"}}
    local = {"lr": work.lr, "clip_norm": work.clip_norm}
    job = {
        "name": f"work-{args.work}",
        "data": {"name": f"{HERE}/peer_muster.py:Work", "work": args.work},
        "model": models[args.work],
        "algorithm": {"name": "fedavg", "pace": {"cohort": work.per_round}, "local": local},
        "population": "always_on",
        "train": {"epochs": 1, "batch_size": work.batch_size},
        "engine": {"workers": args.workers, **args.engine},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 10**9},
    }
    walls, cpus = [], [0.0]
    run = muster.simulate(job)
    for record in run:
        walls.append(record.wall_secs)
        cpus.append(cpu_secs())
    cpus = np.diff(cpus).tolist()
    secs = np.diff(walls)[1:-1]
    told = {
        "peer": "muster",
        "work": args.work,
        "secs": float(np.median(secs)),
        "cpu_secs": float(np.median(cpus[2:-1])),
        "rss_mb": run.summary.peak_rss_bytes / 2**20,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
