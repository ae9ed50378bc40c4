"""Cohorts on a device of its own, a GPU: stacked models, batches, updates and rules' memories lie there.

A program of torch is a series of kernels that are started one by one, some microseconds each. Training
clients one after another, a GPU waits for the next start most of the time; a cohort starts as many kernels
for hundreds of clients as the other does for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from muster.core.algorithm import Local, Vectors
from muster.core.examples import Examples, Facts
from muster.core.randomness import Draws
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.task import Task

from .cohort import descend_together
from .descent import fixed_stride
from .device_learner import DeviceLearner
from .learner import Sent, Stack, Together
from .numerics import Numerics
from .resident import Placed
from .torch_cohort import TorchCohort, looping_quietly
from .torch_module import host


class DeviceCohort(TorchCohort, DeviceLearner):
    """Trains many clients' models as one program of torch on `numerics.device`; see `TorchCohort`.

    Where the local rule only steps along the gradient, however long it is, `gradients: auto` is `fused`: each
    tensor's gradients are subtracted as they are. Convolutions are unfolded unless the job says otherwise.

    Raises:
        UserError: As `TorchCohort`.
    """

    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gradients": ("auto", "plain", "fused"),
        "layout": ("auto", "channels_first"),
        "precision": ("float32", "tf32"),
    }
    unfolds: ClassVar[bool] = True

    def __init__(
        self, model: Model, task: Task, facts: Facts, local: Local, work: Work, numerics: Numerics
    ) -> None:
        super().__init__(model, task, facts, local, work, numerics)
        if numerics.gradients != "plain" and fixed_stride(local) is not None:
            self.numerics = replace(self.numerics, gradients="fused")

    def _differs(self) -> str:
        """As `TorchCohort`, in float32: TF32 alone would be too far off."""
        with self._products(False):
            return super()._differs()

    def train_together(
        self,
        sent: Sent,
        examples: Examples,
        owned: Sequence[slice],
        draws: Draws,
        up: Stack,
        kept: Sequence[Mapping[str, Any] | None],
        steps: npt.NDArray[np.int64],
    ) -> Together:
        """As `TorchCohort`; `up` may be a tensor on the device, and stays there then."""
        here = isinstance(up, np.ndarray)
        rows: Any = torch.empty(up.shape, device=self._device) if here else up
        with self._products(self._short):
            done = super().train_together(sent, examples, owned, draws, rows, kept, steps)
        if here:
            np.copyto(up, host(rows))
        return done

    def _descended(
        self,
        received: Vectors,
        before: Sequence[Vectors | None],
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
        delta: Any,
    ) -> tuple[Vectors, Vectors, list[tuple[int, npt.NDArray[Any]]]]:
        given = {name: self._rows_there(name, vectors) for name, vectors in received.items()}
        mine = [None if kept is None else self._copied(kept) for kept in before]
        params = given["model"].clone(memory_format=torch.contiguous_format)
        ups, state, losses = self._descended_there(given, mine, params, examples, index, filled)
        told = host(torch.cat([each.flatten() for _, each in losses]))
        ends = np.cumsum([each.numel() for _, each in losses])[:-1]
        parts = zip(losses, np.split(told, ends), strict=True)
        measured = [(number, part.reshape(each.shape)) for (number, each), part in parts]
        lasting = {name: host(vectors) for name, vectors in state.items()} if self._local.keeps else {}
        torch.sub(params, given["model"], out=delta)
        return ups, lasting, measured

    def _descended_there(
        self,
        given: Mapping[str, Tensor],
        mine: Sequence[Mapping[str, Tensor] | None],
        params: Tensor,
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
    ) -> tuple[Vectors, Vectors, list[tuple[int, Tensor]]]:
        """Trains `params`, f32[K, size], with tensors of the device alone, and waits for none of them."""
        local, trained = self._local, self.spec.trained
        stride = fixed_stride(local) if self.numerics.gradients == "fused" else None
        fused = stride is not None
        gradient = torch.zeros((len(params), 1 if fused else trained), device=self._device)
        seen = {name: vectors[:, :trained] for name, vectors in given.items()}
        real = torch.from_numpy(filled).to(self._device)
        there = examples.there if isinstance(examples, Placed) else None
        places = None if there is None else torch.from_numpy(index).to(self._device)
        slopes: dict[str, Tensor] = {}
        self._flat.load(params[0])  # forgets the last clients' buffers that do not travel
        self._module.train()

        def backward(number: int, live: int) -> Tensor:
            nonlocal slopes
            if there is None or places is None:
                inputs, targets = self._tensors(examples, index[:live, number].reshape(-1))
            else:
                chosen = places[:live, number].reshape(-1)
                inputs, targets = there.inputs.index_select(0, chosen), there.targets.index_select(0, chosen)
            inputs = inputs.reshape(live, -1, *inputs.shape[1:])
            batch = inputs, targets.reshape(inputs.shape[:2]), real[:live, number]
            if not fused:
                gradient[:live] = 0  # a rule may have written between the entries
                return self._backward(params[:live], *batch, gradient)
            slopes, losses = self._slopes(self._views(params[:live]), *batch)
            return losses

        def step(live: Tensor, memory: Vectors) -> tuple[Tensor, Vectors]:
            assert stride is not None
            views = self._views(params[: len(live)])
            torch._foreach_sub_([views[name] for name in slopes], list(slopes.values()), alpha=stride)
            return live, memory

        counts = np.count_nonzero(filled, axis=1)
        with looping_quietly():
            return descend_together(
                local,
                params[:, :trained],
                gradient,
                seen,
                mine,
                counts,
                backward,
                step if fused else None,
            )

    def _rows_there(self, name: str, vectors: npt.NDArray[np.float32]) -> Tensor:
        """What clients were sent by this name, f32[K, n]: one vector seen many times where it is the same."""
        if len(vectors) and vectors.strides[0] == 0:
            return self._there(name, vectors[0]).expand(vectors.shape)
        return torch.from_numpy(np.array(vectors)).to(self._device)
