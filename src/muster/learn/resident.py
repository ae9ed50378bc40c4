"""A data set on a device: inputs and targets as the task makes them, put there once, drawn there by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from muster.core.examples import Examples, Facts
from muster.data.federated import FederatedData
from muster.tasks.task import Task

from .device import free_bytes

SHARE = 2
"""A data set stays on a device if it takes no more than one part in so many of the memory free there."""
BLOCK = 4096
"""Examples that are turned into inputs and sent at a time."""


@dataclass(frozen=True)
class Resident:
    """All training examples on a device."""

    inputs: Tensor
    """[N, ...]."""
    targets: Tensor
    """[N]."""


@dataclass(frozen=True)
class Placed(Examples):
    """Examples that lie on a device too, from `start` on. The arrays are there, and nobody reads them."""

    there: Resident | None = None
    start: int = 0

    def slice(self, start: int, stop: int) -> Placed:
        """Examples start..stop, as views."""
        plain = super().slice(start, stop)
        return Placed(plain.x, plain.y, plain.text, self.there, self.start + start)


class ResidentData(FederatedData):
    """The data of `data`, whose training examples are `Placed`.

    Args:
        data: As it is on disk.
        there: All its training examples.

    """

    def __init__(self, data: FederatedData, there: Resident) -> None:
        self.__dict__.update(vars(data))
        train = data.train
        self._placed = Placed(train.x, train.y, train.text, there)

    def clients(self, ids: Sequence[int]) -> tuple[Examples, list[slice]]:
        """All examples, and where those of each client lie; nothing is read.

        Raises:
            IndexError: One is not in 0..num_clients-1.
        """
        return self._placed, self.owned(ids)


def resident(data: FederatedData, task: Task, facts: Facts, device: torch.device) -> FederatedData:
    """The data with its training examples on a device; `data` itself if they take too much of its memory.

    Raises:
        DataError: A target is none of `facts.num_classes`.
    """
    train = data.train
    if not len(train):
        return data
    one = task.batch(facts, train, slice(0, 1))
    if SHARE * len(train) * sum(array.nbytes for array in one) > free_bytes(device):
        return data
    inputs, targets = (
        torch.empty((len(train), *array.shape[1:]), dtype=torch.from_numpy(array).dtype, device=device)
        for array in one
    )
    for start in range(0, len(train), BLOCK):
        part = slice(start, min(start + BLOCK, len(train)))
        for whole, array in zip((inputs, targets), task.batch(facts, train, part), strict=True):
            whole[part].copy_(torch.from_numpy(array))
    return ResidentData(data, Resident(inputs, targets))
