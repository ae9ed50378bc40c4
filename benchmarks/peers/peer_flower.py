"""Works A and B with Flower's own FedAvg on its simulation engine. Installs: flwr[simulation], torch.

Flower draws the clients itself and runs its rounds in one call, so the clock is in its strategy.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np
import psutil
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_models import model
from workload import workload

NAME = os.environ.get("MUSTER_PEER_WORK", "A")
CACHE: dict[str, object] = {}


def client_train(message: Message, context: Context) -> Message:
    """One client's epoch."""
    torch.set_num_threads(1)
    work = CACHE.setdefault("work", workload(NAME))
    net = CACHE.setdefault("net", model(NAME))
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = work.clients[int(context.node_config["partition-id"])]
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    optimizer, criterion = torch.optim.SGD(net.parameters(), work.lr), torch.nn.CrossEntropyLoss()
    for index in torch.randperm(len(x)).split(work.batch_size):
        optimizer.zero_grad()
        criterion(net(x[index]), y[index]).backward()
        optimizer.step()
    told = MetricRecord({"num-examples": len(x)})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": told})
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """FedAvg that notes when each round's updates have been aggregated."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.times: list[float] = []

    def configure_train(self, *args: object, **others: object):
        """The round begins."""
        self.begun = time.perf_counter()
        return super().configure_train(*args, **others)

    def aggregate_train(self, *args: object, **others: object):
        """The round ends."""
        done = super().aggregate_train(*args, **others)
        self.times.append(time.perf_counter() - self.begun)
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
    me = psutil.Process()
    rss = sum(p.memory_info().rss for p in [me, *me.children(recursive=True)]) / 2**20
    secs = float(np.median(strategy.times[1:]))
    print(json.dumps({"peer": "flower", "work": args.work, "secs": secs, "cpu_secs": None, "rss_mb": rss}))


if __name__ == "__main__":
    main()
