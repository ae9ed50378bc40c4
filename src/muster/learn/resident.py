"""A data set on a device: inputs and targets as the task makes them, put there once, drawn there by index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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
    places: npt.NDArray[np.int64] | None = None
    """Where each lies, i64[N], if not one after another; `x` is empty then."""

    def slice(self, start: int, stop: int) -> Placed:
        """Examples start..stop, as views."""
        plain = super().slice(start, stop)
        places = None if self.places is None else self.places[start:stop]
        return Placed(plain.x, plain.y, plain.text, self.there, self.start + start, places)

    def joined(self, others: Sequence[Examples]) -> Placed:
        """These and those of others that lie there too, by their places; no input is copied."""
        every = [self, *(each for each in others if isinstance(each, Placed) and each.there is self.there)]
        assert len(every) == 1 + len(others), "of one data set, as they are"
        places = np.concatenate([each._where() for each in every])
        labels = np.concatenate([each.y for each in every])
        return Placed(self.x[:0], labels, self.text, self.there, 0, places)

    def _where(self) -> npt.NDArray[np.int64]:
        """Where each lies."""
        return np.arange(self.start, self.start + len(self)) if self.places is None else self.places

    def tensors(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of start..stop on the device: views, if they lie one after another."""
        assert self.there is not None
        both = self.there.inputs, self.there.targets
        if self.places is None:
            inputs, targets = (each[self.start + start : self.start + stop] for each in both)
        else:
            chosen = torch.from_numpy(self.places[start:stop]).to(both[0].device)
            inputs, targets = (each.index_select(0, chosen) for each in both)
        return inputs, targets


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
