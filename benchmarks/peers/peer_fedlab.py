"""Works A and B with FedLab's own FedAvg. Installs: fedlab, torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import without_torchvision  # noqa: F401  before who imports it
from fedlab.contrib.algorithm.fedavg import FedAvgSerialClientTrainer, FedAvgServerHandler
from torch.utils.data import DataLoader, TensorDataset
from torch_models import model
from workload import Workload, measure


class Data:
    """What FedLab asks of a data set."""

    def __init__(self, work: Workload) -> None:
        self.sets = [TensorDataset(torch.from_numpy(x), torch.from_numpy(y)) for x, y in work.clients]

    def get_dataloader(self, number: int, batch_size: int) -> DataLoader:
        """A client's batches."""
        return DataLoader(self.sets[number], batch_size, shuffle=True)


def prepare(name: str, work: Workload) -> Callable[[list[int]], None]:
    """A round of FedLab's serial trainer and server over the clients named."""
    trainer = FedAvgSerialClientTrainer(model(name), len(work.clients))
    trainer.setup_dataset(Data(work))
    trainer.setup_optim(1, work.batch_size, work.lr)
    server = FedAvgServerHandler(
        model(name), global_round=10**6, sample_ratio=work.per_round / len(work.clients)
    )
    server.num_clients = len(work.clients)

    def train(ids: list[int]) -> None:
        trainer.local_process(server.downlink_package, ids)
        for pack in trainer.uplink_package:
            server.load(pack)

    return train


if __name__ == "__main__":
    measure("fedlab", prepare)
