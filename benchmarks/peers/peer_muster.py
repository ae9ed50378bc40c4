"""Works A and B with Muster, in one process, from the same arrays as the peers."""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import dataclass, field
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

    def load(self) -> Raw:
        """All examples, client after client."""
        done = workload(self.work)
        x = np.concatenate([x for x, _ in done.clients])
        y = np.concatenate([y for _, y in done.clients]).astype(np.int64)
        owner = np.repeat(np.arange(len(done.clients), dtype=np.int32), [len(y) for _, y in done.clients])
        facts = Facts(f"work_{self.work}", input_shape=x.shape[1:], num_classes=done.num_classes)
        names = tuple(map(str, range(len(done.clients))))
        return Raw(facts, Examples(x, y), Examples(x[:100], y[:100]), owner, names)


def main() -> None:
    """Runs and prints one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("A", "B"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    work = workload(args.work)
    rounds = args.rounds or work.rounds
    convolutional = f"{HERE}/torch_models.py:WorkA"
    job = {
        "name": f"work-{args.work}",
        "data": {"name": f"{HERE}/peer_muster.py:Work", "work": args.work},
        "model": convolutional if args.work == "A" else {"name": "mlp", "hidden": [64]},
        "algorithm": {"name": "fedavg", "pace": {"cohort": work.per_round}, "local": {"lr": work.lr}},
        "population": "always_on",
        "train": {"epochs": 1, "batch_size": work.batch_size},
        "engine": {"workers": args.workers},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 10**9},
    }
    walls, cpus, before = [], [], resource.getrusage(resource.RUSAGE_SELF)
    for record in muster.simulate(job):
        now = resource.getrusage(resource.RUSAGE_SELF)
        walls.append(record.wall_secs)
        cpus.append(now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime)
        before = now
    secs = np.diff(walls)[1:-1] if rounds > 2 else np.diff(walls)  # the last one is evaluated
    told = {
        "peer": "muster",
        "work": args.work,
        "secs": float(np.median(secs)),
        "cpu_secs": float(np.median(cpus[2:-1] if rounds > 2 else cpus[1:])),
        "rss_mb": before.ru_maxrss / 1024,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
