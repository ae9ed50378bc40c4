"""Works A and B with FedML's own FedAvg, its single-process simulator. Installs: fedml, torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import torch
import without_torchvision  # noqa: F401  before who imports it
from fedml.core import mlops
from fedml.simulation.sp.fedavg.fedavg_api import FedAvgAPI
from torch.utils.data import DataLoader, TensorDataset
from torch_models import model
from workload import Workload, measure


class Timed(FedAvgAPI):
    """FedAvg of the clients that are named, without an evaluation."""

    wanted: list[int]

    def _client_sampling(self, *_: object) -> list[int]:
        return self.wanted

    def _local_test_on_all_clients(self, round_idx: int) -> None:
        """Nothing: nobody here is evaluated."""


def prepare(name: str, work: Workload) -> Callable[[list[int]], None]:
    """A round of FedML over the clients named."""
    logging.disable(logging.CRITICAL)
    args = SimpleNamespace(
        dataset="muster",
        client_num_in_total=len(work.clients),
        client_num_per_round=work.per_round,
        comm_round=1,
        epochs=1,
        batch_size=work.batch_size,
        client_optimizer="sgd",
        learning_rate=work.lr,
        enable_wandb=False,
        using_mlops=False,
    )
    mlops.pre_setup(args)
    sizes = {number: len(x) for number, (x, _) in enumerate(work.clients)}
    loaders = {
        number: DataLoader(
            TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), work.batch_size, shuffle=True
        )
        for number, (x, y) in enumerate(work.clients)
    }
    total = sum(sizes.values())
    dataset = [total, 0, None, None, sizes, loaders, dict.fromkeys(sizes), work.num_classes]
    platform = Timed(args, torch.device("cpu"), dataset, model(name))

    def train(ids: list[int]) -> None:
        platform.wanted = ids
        platform.train()

    return train


if __name__ == "__main__":
    measure("fedml", prepare)
