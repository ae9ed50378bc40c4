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
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import Draws
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.task import Task

from .cohort import descend_together, few, lives
from .compiled import CompiledShuffles
from .descent import fixed_stride
from .device_learner import DeviceLearner
from .graphs import FixedSteps
from .learner import Sent, Stack, Together
from .numerics import Numerics
from .resident import Placed, Resident
from .torch_cohort import TorchCohort, looping_quietly
from .torch_module import host, products


class DeviceCohort(CompiledShuffles, TorchCohort, DeviceLearner):
    """Trains many clients' models as one program of torch on `numerics.device`; see `TorchCohort`.

    Where the local rule only steps along the gradient, however long it is, `gradients: auto` is `fused`: each
    tensor's gradients are subtracted as they are. Convolutions are unfolded unless the job says otherwise.
    With `engine.graphs` a step is recorded as a CUDA graph; see `graphs`.

    Raises:
        UserError: As `TorchCohort`; or gradients are to be fused under a rule whose stride is not fixed, or
            steps are to be recorded where the batches are not of one size.
    """

    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gradients": ("auto", "plain", "fused"),
        "layout": ("auto", "channels_first"),
        "precision": ("float32", "tf32"),
    }
    unfolds: ClassVar[bool] = True
    records: ClassVar[bool] = True

    def __init__(
        self, model: Model, task: Task, facts: Facts, local: Local, work: Work, numerics: Numerics
    ) -> None:
        super().__init__(model, task, facts, local, work, numerics)
        self._stride = None if numerics.gradients == "plain" else fixed_stride(local)
        if self._stride is None and numerics.gradients == "fused":
            raise UserError(
                "engine.gradients is fused, but must be auto or plain: fused steps of clients side by side "
                "are for SGD without momentum, weight decay or a clip, which goes by the gradient's length"
            )
        if self._stride is not None:
            self.numerics = replace(self.numerics, gradients="fused")
        if numerics.graphs and not work.batch_size:
            raise UserError(
                "engine.graphs needs batches of one size, but each client's is all that it has: "
                "train.batch_size is 0, or the clients' rule makes it so; give it, or use engine.graphs=false"
            )
        self.numerics = replace(self.numerics, graphs=numerics.graphs)
        self._steps: FixedSteps | None = None

    def _differs(self) -> str:
        """As `TorchCohort`, in float32: TF32 alone would be too far off."""
        with products(False):
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
        try:
            with products(self._short):
                done = super().train_together(sent, examples, owned, draws, rows, kept, steps)
        except torch.OutOfMemoryError as error:
            count, why = len(owned), str(error).strip().partition("\n")[0]
            raise UserError(
                f"{count:,} clients at once do not fit into the GPU's memory ({why}); "
                + (f"use engine.chunk={count // 2} or less" if count > 1 else "use engine.mode=sequential")
            ) from error
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
        params, ups, state, losses = self._descended_there(given, mine, examples, index, filled)
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
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
    ) -> tuple[Tensor, Vectors, Vectors, list[tuple[int, Tensor]]]:
        """Trains clients with tensors of the device alone, and waits for none of them.

        Returns:
            The models, f32[K, size], until the next clients train; then as `descend_together`.

        """
        counts, trained = np.count_nonzero(filled, axis=1), self.spec.trained
        seen = {name: vectors[:, :trained] for name, vectors in given.items()}
        real = torch.from_numpy(filled).to(self._device)
        there = examples.there if isinstance(examples, Placed) else None
        places = None if there is None else torch.from_numpy(index).to(self._device)
        self._flat.load(given["model"][0])  # forgets the last clients' buffers that do not travel
        self._module.train()
        fixed = self._fixed(there, index) if self.numerics.graphs else None
        if fixed is None:
            params = given["model"].clone(memory_format=torch.contiguous_format)
            gradient = torch.zeros((len(params), self._slopes_kept), device=self._device)
        else:
            with looping_quietly():
                params, gradient = fixed.begin(given["model"], lives(counts))

        def backward(number: int, live: int) -> Tensor:
            if fixed is not None and places is not None:
                return fixed(places[:, number], real[:, number], live)
            if there is None or places is None:
                inputs, targets = self._tensors(examples, index[:live, number].reshape(-1))
            else:
                chosen = places[:live, number].reshape(-1)
                inputs, targets = there.inputs.index_select(0, chosen), there.targets.index_select(0, chosen)
            inputs = inputs.reshape(live, -1, *inputs.shape[1:])
            targets = targets.reshape(inputs.shape[:2])
            return self._taught(params[:live], inputs, targets, real[:live, number], gradient)

        step = None if self._stride is None else lambda live, memory: (live, memory)
        with looping_quietly():
            ups, state, losses = descend_together(
                self._local, params[:, :trained], gradient, seen, mine, counts, backward, step
            )
        return params, ups, state, losses

    def _taught(
        self, params: Tensor, inputs: Tensor, targets: Tensor, real: Tensor, gradient: Tensor
    ) -> Tensor:
        """One step; see `graphs.Teach`.

        A client none of whose examples count has no gradient: nothing over nothing is no number, but its
        slope ends where `_mean_loss` leaves examples out.
        """
        if self._stride is None:
            gradient[: len(params)] = 0  # a rule may have written between the entries
            return self._backward(params, inputs, targets, real, gradient)
        views = self._views(params)
        slopes, losses = self._slopes(views, inputs, targets, real)
        torch._foreach_sub_([views[name] for name in slopes], list(slopes.values()), alpha=self._stride)
        return losses

    @property
    def _slopes_kept(self) -> int:
        """Numbers of a client's gradient that are kept beside its model."""
        return self.spec.trained if self._stride is None else 1

    def _fixed(self, there: Resident | None, index: npt.NDArray[np.int64]) -> FixedSteps:
        """Steps on tensors of their own, as those of the clients before if they will do."""
        if there is None:
            raise UserError(
                "engine.graphs needs the training examples on the GPU, but they take more than half of the "
                "memory that is free there; use engine.graphs=false"
            )
        count, _, batch = index.shape
        steps = self._steps
        if steps is None or steps.there is not there or steps.rows < count:
            self._steps = None  # gives its memory back before the next takes its own
            sizes = self.spec.size, self._slopes_kept, batch
            steps = self._steps = FixedSteps(self._taught, few(count), *sizes, there)
        return steps

    def _rows_there(self, name: str, vectors: npt.NDArray[np.float32]) -> Tensor:
        """What clients were sent by this name, f32[K, n]: one vector seen many times where it is the same."""
        if len(vectors) and vectors.strides[0] == 0:
            return self._there(name, vectors[0]).expand(vectors.shape)
        return torch.from_numpy(np.array(vectors)).to(self._device)
