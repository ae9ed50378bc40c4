"""One client after another on a device of its own, a GPU: nothing model-sized leaves it for a client.

The model that was sent lies there once for all clients that train from it, the data set lies there, a task's
batches are drawn there by index, and updates are gated and added there (`DeviceSum`). What comes back are a
task's losses, what a client keeps, and for each call of the trainer the sum.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.core.algorithm import Local
from muster.core.examples import Examples, Facts
from muster.core.params import Vector
from muster.core.sums import FixedPointSum
from muster.core.work import Batch, Steps, Stepwise, Work
from muster.data.federated import FederatedData
from muster.models.model import Model
from muster.tasks.task import Task

from .client import OwnClient
from .descent import descend, fixed_stride
from .device import steady
from .device_sum import DeviceSum
from .layout import pools
from .learner import Matrix, Sent, Trained
from .numerics import Gradients, Numerics
from .resident import Placed, resident
from .torch_learner import TorchLearner
from .torch_module import host, products, seeded


class DeviceLearner(TorchLearner):
    """Trains clients with torch on `numerics.device`; see `TorchLearner`, whose rules it keeps but for two.

    `gradients: auto` is `fused` only where the local rule does not ask for the gradient's norm, which would
    have to be waited for, and never `factored`. `layout: auto` is channels last for bfloat16 alone.

    Raises:
        UserError: As `TorchLearner`.
    """

    evaluation_batch = 1000

    def __init__(
        self, model: Model, task: Task, facts: Facts, local: Local, work: Work, numerics: Numerics
    ) -> None:
        steady(torch.device(numerics.device))
        super().__init__(model, task, facts, local, work, numerics)
        self._held: dict[str, tuple[Vector, Tensor]] | None = None

    def _gradients(self, numerics: Numerics) -> Gradients:
        """Never with a wait in each step, unless it is asked for."""
        if numerics.gradients != "auto":
            return numerics.gradients
        return "plain" if fixed_stride(self._local) is None else "fused"

    def _turns(self, numerics: Numerics) -> bool:
        """Tensor cores read images channels last."""
        return numerics.precision == "bfloat16" and pools(self._flat.module)

    def _load(self, params: Vector) -> None:
        self._flat.load(self._there("model", params))

    def lent(self) -> None:
        """What the host could write to lies elsewhere."""
        return None

    def place(self, data: Any) -> Any:
        """The data set on the device, if it fits."""
        if not isinstance(data, FederatedData):
            return data
        return resident(data, self._task, self._facts, self._device)

    def summing(self, total: FixedPointSum) -> DeviceSum:
        """Gates and adds on the device."""
        return DeviceSum(total, self._device)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within it what clients are sent is not written to, so that it is copied to the device once."""
        self._held = {}
        try:
            yield
        finally:
            self._held = None

    def _there(self, name: str, vector: Vector) -> Tensor:
        """What was sent by this name, on the device."""
        if self._held is not None and name in self._held and _same(self._held[name][0], vector):
            return self._held[name][1]
        made = torch.from_numpy(np.array(vector)).to(self._device)
        if self._held is not None:
            self._held[name] = vector, made
        return made

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int | Steps = 0,
    ) -> Trained:
        """Trains one client; see `Learner`. `up` may be a tensor on the device, and stays there then."""
        local = self._local
        if isinstance(local, OwnClient):
            return self._train_own(local, sent["model"], examples, rng, up[0], kept)
        batches = self._work.plan(len(examples), rng, steps)
        here = isinstance(up, np.ndarray)
        rows: Any = torch.empty(up.shape, device=self._device) if here else up
        if not len(examples):
            up[:] = 0
            return Trained(0, 0.0, 0.0)
        given = {name: self._there(name, vector) for name, vector in sent.items()}
        mine = None if kept is None else self._copied(kept)
        draw = self._drawing(examples)
        with seeded(int(rng.integers(2**63)), self._device), products(self._short), compacting_quietly():
            state, losses = self._descended_alone(given, mine, self._indices(batches), draw, rows)
        each = host(losses).astype(np.float64)
        if here:
            np.copyto(up, host(rows))
        lasting = {name: host(vector).copy() for name, vector in state.items()} if local.keeps else None
        return Trained(len(batches), float(each.mean()), float(np.square(each).mean()), lasting)

    def _descended_alone(
        self,
        given: Mapping[str, Tensor],
        mine: Mapping[str, Tensor] | None,
        batches: Any,
        draw: Callable[[Any], tuple[Tensor, Tensor]],
        rows: Tensor,
    ) -> tuple[Mapping[str, Tensor], Tensor]:
        """Trains one client with tensors of the device alone, and waits for none of them.

        Args:
            given: What the client was sent.
            mine: What it has kept.
            batches: The examples of each step.
            draw: A batch -> its inputs and targets.
            rows: What goes up, f32[U, size]; it is written.

        Returns:
            The client's lasting state, and the losses of all steps, one after another.

        """
        flat, local, trained, fused = self._flat, self._local, self.spec.trained, self._fused
        flat.load(given["model"])
        flat.module.train()

        def backward(index: Any) -> Tensor:
            if fused is None:
                flat.gradient.zero_()
            else:
                fused.clear()
            with self._precision():
                loss = self._loss_of(*draw(index))
            loss.mean().backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        step = None if fused is None else partial(fused.step, local)
        before = {name: vector[:trained] for name, vector in given.items()}
        ups, state, each = descend(
            local, flat.vector[:trained], flat.gradient, before, mine, batches, backward, step
        )
        flat.collect()
        rows.zero_()
        torch.sub(flat.vector, given["model"], out=rows[0])
        for row, name in zip(rows[1:], local.up[1:], strict=True):
            row[:trained] = ups[name]
        return state, torch.cat(each)

    @property
    def _short(self) -> bool:
        return self.numerics.precision == "tf32"

    def _precision(self) -> AbstractContextManager[Any]:
        """Of the products in training."""
        if self.numerics.precision != "bfloat16":
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def scores(self, params: Vector, examples: Examples) -> Mapping[str, npt.NDArray[np.float64]]:
        """In float32, 1,000 examples at a time; what is told of each comes back at the end."""
        with products(False), compacting_quietly():
            return super().scores(params, examples)

    def _copied(self, kept: Mapping[str, Any]) -> dict[str, Tensor]:
        """What a client has kept, on the device."""
        return {name: torch.from_numpy(np.array(v)).to(self._device) for name, v in kept.items()}

    def _indices(self, batches: Any) -> Any:
        """The batches as tensors on the device, which one copy takes there if they are known."""
        if isinstance(batches, Stepwise):
            return batches
        whole = torch.from_numpy(np.concatenate(batches)).to(self._device)
        return torch.split(whole, [len(batch) for batch in batches])

    def _drawing(self, examples: Examples) -> Callable[[Any], tuple[Tensor, Tensor]]:
        """Who gives inputs and targets of a batch.

        They come from the data set on the device, or from a copy of all of the client's examples, made now.
        """
        inputs, targets = self._tensors(examples, slice(0, len(examples)))

        def draw(index: Tensor | Batch) -> tuple[Tensor, Tensor]:
            if not isinstance(index, Tensor):
                index = torch.from_numpy(index).to(self._device)
            return inputs.index_select(0, index), targets.index_select(0, index)

        return draw

    def _tensors(self, examples: Examples, index: npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """On the device: as they lie there, or copied."""
        if isinstance(examples, Placed) and isinstance(index, slice):
            start, stop, _ = index.indices(len(examples))
            return examples.tensors(start, stop)
        inputs, targets = self._task.batch(self._facts, examples, index)
        return torch.from_numpy(inputs).to(self._device), torch.from_numpy(targets).to(self._device)


@contextmanager
def compacting_quietly() -> Iterator[None]:
    """Within it torch does not warn that it brings a recurrent layer's weights together for cuDNN.

    They are views of the model's vector, in another order than cuDNN's. To copy them is little work beside
    going through the layer.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
        yield


def _same(one: Vector, other: Vector) -> bool:
    """Whether two arrays are one stretch of memory, which both keep from being used for something else."""
    return one.shape == other.shape and one.__array_interface__["data"] == other.__array_interface__["data"]
