"""Works A and B with FLSim's own FedAvg. Installs: flsim, torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

# FLSim's settings have settings as defaults; Python 3.11 refuses defaults that have no hash.
dataclasses._hash_action[False, True, False, False] = None

import flsim.configs  # noqa: E402, F401  its settings by name
import torch  # noqa: E402
from flsim.clients.base_client import ClientConfig  # noqa: E402
from flsim.common.timeline import Timeline  # noqa: E402
from flsim.data.data_provider import IFLDataProvider, IFLUserData  # noqa: E402
from flsim.interfaces.model import IFLModel  # noqa: E402
from flsim.optimizers.local_optimizers import LocalOptimizerSGDConfig  # noqa: E402
from flsim.servers.sync_servers import SyncServerConfig  # noqa: E402
from flsim.trainers.sync_trainer import SyncTrainer, SyncTrainerConfig  # noqa: E402
from flsim.utils.simple_batch_metrics import FLBatchMetrics  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch_models import model  # noqa: E402
from workload import Workload, measure  # noqa: E402

Batch = dict[str, torch.Tensor]


class User(IFLUserData):
    """A client's batches, cut once, as FLSim's own example does."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> None:
        order = torch.randperm(len(x)).split(batch_size)
        self.batches = [{"features": x[i], "labels": y[i]} for i in order]
        self.num_examples = len(x)

    def train_data(self) -> Iterator[Batch]:
        """Batch after batch."""
        return iter(self.batches)

    def num_train_examples(self) -> int:
        """Its weight."""
        return self.num_examples

    def num_train_batches(self) -> int:
        """Steps of an epoch."""
        return len(self.batches)

    def eval_data(self) -> Iterator[Batch]:
        """None."""
        return iter(())

    def num_eval_batches(self) -> int:
        """None."""
        return 0

    def num_eval_examples(self) -> int:
        """None."""
        return 0


class Users(IFLDataProvider):
    """All clients; nobody evaluates."""

    def __init__(self, work: Workload) -> None:
        self.users = [User(*map(torch.from_numpy, client), work.batch_size) for client in work.clients]

    def train_user_ids(self) -> list[int]:
        """All numbers."""
        return list(range(len(self.users)))

    def num_train_users(self) -> int:
        """How many there are."""
        return len(self.users)

    def get_train_user(self, user_index: int) -> User:
        """One of them."""
        return self.users[user_index]

    def train_users(self) -> list[User]:
        """All of them."""
        return self.users

    def eval_users(self) -> list[User]:
        """None."""
        return []

    def test_users(self) -> list[User]:
        """None."""
        return []


class Net(IFLModel):
    """The model in the shape that FLSim wants."""

    def __init__(self, name: str) -> None:
        self.inner, self.criterion = model(name), torch.nn.CrossEntropyLoss()

    def fl_forward(self, batch: Batch) -> FLBatchMetrics:
        """Scores and mean loss of a batch."""
        scores = self.inner(batch["features"])
        loss = self.criterion(scores, batch["labels"])
        return FLBatchMetrics(
            loss=loss,
            num_examples=len(scores),
            predictions=scores.detach(),
            targets=batch["labels"],
            model_inputs=[],
        )

    def fl_create_training_batch(self, **batch: torch.Tensor) -> Batch:
        """As it comes."""
        return batch

    def fl_get_module(self) -> torch.nn.Module:
        """The module itself."""
        return self.inner

    def fl_cuda(self) -> None:
        """No GPU."""

    def get_eval_metrics(self, batch: Batch) -> FLBatchMetrics:
        """Not asked for."""
        return self.fl_forward(batch)

    def get_num_examples(self, batch: Batch) -> int:
        """Rows of a batch."""
        return len(batch["labels"])


def prepare(name: str, work: Workload) -> Callable[[list[int]], None]:
    """A round of FLSim's synchronous trainer over the clients named."""
    settings = SyncTrainerConfig(
        client=ClientConfig(epochs=1, optimizer=LocalOptimizerSGDConfig(lr=work.lr)),
        server=SyncServerConfig(),
        users_per_round=work.per_round,
        do_eval=False,
        report_train_metrics=False,
        always_keep_trained_model=False,
    )
    trainer, users = SyncTrainer(model=Net(name), **OmegaConf.structured(settings)), Users(work)

    def train(ids: list[int]) -> None:
        clients = [trainer.create_or_get_client_for_data(i, users) for i in ids]
        now = Timeline(epoch=1, round=1, rounds_per_epoch=10**6)
        trainer._train_one_round(now, clients, [], len(ids))

    return train


if __name__ == "__main__":
    measure("flsim", prepare)
