"""Works A and B with Flower's own FedAvg on its simulation engine. Installs: flwr[simulation], torch.

Flower draws the clients itself and runs its rounds in one call, so the clock is in its strategy. What clients
do is in flower_client.py: workers get a copy of what a script defines with each call, and would make the
data anew for each client.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time

import numpy as np
import psutil
from flower_client import client_train
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_models import model
from workload import workload


def memory_mb() -> float:
    """Resident memory of this process and its children, those that have just ended left out."""
    total = 0
    for process in (me := psutil.Process(), *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


class Timed(FedAvg):
    """FedAvg that notes when each round's updates have been aggregated."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.times: list[float] = []
        self.peak_mb = 0.0

    def configure_train(self, *args: object, **others: object):
        """The round begins."""
        self.begun = time.perf_counter()
        return super().configure_train(*args, **others)

    def aggregate_train(self, *args: object, **others: object):
        """The round ends."""
        done = super().aggregate_train(*args, **others)
        self.times.append(time.perf_counter() - self.begun)
        self.peak_mb = max(self.peak_mb, memory_mb())
        return done


def main() -> None:
    """Runs and prints one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("A", "B"))
    parser.add_argument("--rounds", type=int, help="that are timed, after one that warms up")
    args = parser.parse_args()
    os.environ["MUSTER_PEER_WORK"] = args.work
    work = workload(args.work)
    client_app, server_app = ClientApp(), ServerApp()
    client_app.train()(client_train)
    strategy = Timed(fraction_train=work.per_round / len(work.clients), fraction_evaluate=0.0)

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        arrays = ArrayRecord(model(args.work).state_dict())
        rounds = 1 + (args.rounds or work.rounds)
        strategy.start(grid, arrays, num_rounds=rounds, train_config=ConfigRecord())

    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(work.clients),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": 2, "include_dashboard": False},
        },
    )
    secs = float(np.median(strategy.times[1:]))
    told = {"peer": "flower", "work": args.work, "secs": secs, "cpu_secs": None, "rss_mb": strategy.peak_mb}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
