"""Works A and B with pfl-research's own FedAvg. Installs: pfl[pytorch], torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch_models import model
from workload import Workload, measure


class Net(torch.nn.Module):
    """The model in the shape that pfl wants: with a loss and metrics."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner = model(name)
        self.criterion = torch.nn.CrossEntropyLoss()

    def loss(self, x, y):
        """Mean cross-entropy of a batch."""
        self.train()
        return self.criterion(self.inner(x), y)

    def metrics(self, x, y):
        """None: this benchmark does not evaluate."""
        return {"loss": Weighted(0.0, 1)}


def prepare(name: str, work: Workload) -> Callable[[list[int]], None]:
    """A central iteration of pfl over the clients named."""
    wanted: list[int] = []
    data = [[torch.from_numpy(x), torch.from_numpy(y)] for x, y in work.clients]
    clients = FederatedDataset(lambda i: Dataset(data[i], user_id=str(i)), lambda: wanted.pop())
    backend = SimulatedBackend(clients, None)
    net = Net(name)
    network = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    params = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=work.lr, local_batch_size=work.batch_size
    )
    every = NNAlgorithmParams(
        central_num_iterations=2,
        evaluation_frequency=10**9,
        train_cohort_size=work.per_round,
        val_cohort_size=0,
    )

    def train(ids: list[int]) -> None:
        wanted.extend(ids)
        algorithm = FederatedAveraging()
        algorithm._current_central_iteration = 1  # of 2: the iteration 0 would be evaluated as well
        algorithm.run(every, backend, network, params, NNEvalHyperParams(local_batch_size=None))

    return train


if __name__ == "__main__":
    measure("pfl", prepare)
