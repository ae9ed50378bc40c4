"""Cohorts of any torch model whose examples do not see each other: `vmap(grad)`, a row for each client.

Only the gradient is torch's. What a client holds are rows of NumPy matrices on the same memory, so the local
rules work on them as they do in every cohort.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.func import functional_call, grad, vmap

from muster.core.algorithm import Local, Vectors
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.work import Work
from muster.models.model import Model
from muster.models.own import called
from muster.tasks.task import Task

from .client import OwnClient
from .cohort import descend_together
from .learner import Matrix
from .numerics import Numerics
from .together import TrainsTogether
from .torch_learner import TorchLearner
from .torch_module import host, seeded
from .unfolded import unfolded
from .unrolled import unrolled

AGREES = 1e-4
"""Of the largest coordinate of a gradient: what a model may differ by when clients are side by side."""


class TorchCohort(TrainsTogether, TorchLearner):
    """Trains many clients' models as one program of torch; evaluates, and trains one, as `TorchLearner` does.

    `engine.convolutions: unfolded` makes products of matrices of the grouped convolutions that vmap makes.

    Raises:
        UserError: As `TorchLearner`; or clients train by code of a user's own, gradients are to be fused
            or in factors, or the model is none for clients side by side: it has BatchNorm or dropout, say.
    """

    ways: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "gradients": ("auto", "plain"),
        "layout": ("auto", "channels_first"),
        "precision": ("float32",),
    }
    """What may be asked for."""
    unfolds: ClassVar[bool] = False
    """Whether convolutions are unfolded if the job leaves it to us."""
    records: ClassVar[bool] = False
    """Whether steps can be recorded."""

    def __init__(
        self,
        model: Model,
        task: Task,
        facts: Facts,
        local: Local,
        work: Work,
        numerics: Numerics = Numerics(),
    ) -> None:
        if isinstance(local, OwnClient):
            raise UserError("a client of your own trains alone; use engine.mode sequential")
        for name, only in self.ways.items():
            if (asked := getattr(numerics, name)) not in only:
                allowed = " or ".join(only)
                raise UserError(f"engine.{name} {asked} is for clients one after another; use {allowed}")
        graphs = numerics.graphs and not self.records  # what cannot be is refused where devices are
        plain = Numerics(precision=numerics.precision, device=numerics.device, graphs=graphs)
        super().__init__(model, task, facts, local, work, plain)
        unfold = numerics.convolutions == "unfolded" or (numerics.convolutions == "auto" and self.unfolds)
        module = unrolled(self._flat.module)
        self._module = unfolded(module) if unfold else module
        self.numerics = replace(self.numerics, convolutions="unfolded" if unfold else "direct")
        self._blas = ThreadpoolController()
        self._trained = [e.name for e in self.spec.entries if e.kind != "statistic"]
        self._program = vmap(grad(self._mean_loss, has_aux=True), randomness="error")
        if found := self._differs():
            raise UserError(
                f"engine.mode cohort cannot train model {called(model)} in torch: {found}; "
                "use engine.mode sequential"
            )

    def _descended(
        self,
        received: Vectors,
        before: Sequence[Vectors | None],
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
        delta: Matrix,
    ) -> tuple[Vectors, Vectors, list[tuple[int, npt.NDArray[Any]]]]:
        # in torch's own memory, whose alignment is always the same: BLAS may round otherwise
        params = torch.empty(received["model"].shape).numpy()
        np.copyto(params, received["model"])
        trained = self.spec.trained
        gradient = np.zeros((len(params), trained), np.float32)
        models, slopes = torch.from_numpy(params), torch.from_numpy(gradient)
        seen = {name: vector[:, :trained] for name, vector in received.items()}
        self._flat.load(params[0])  # forgets the last clients' buffers that do not travel
        self._module.train()

        def backward(number: int, live: int) -> npt.NDArray[Any]:
            chosen = index[:live, number]
            inputs, targets = self._tensors(examples, chosen.reshape(-1))
            inputs = inputs.reshape(*chosen.shape, *inputs.shape[1:])
            real = torch.from_numpy(np.ascontiguousarray(filled[:live, number]))
            gradient[:live] = 0  # a rule may have written between the entries
            return self._backward(models[:live], inputs, targets.reshape(chosen.shape), real, slopes).numpy()

        counts = np.count_nonzero(filled, axis=1)
        with (
            self._blas.limit(limits=1, user_api="blas"),
            np.errstate(over="ignore", invalid="ignore"),
            looping_quietly(),
        ):
            ups, state, losses = descend_together(
                self._local, params[:, :trained], gradient, seen, before, counts, backward
            )
        np.subtract(params, received["model"], out=delta)
        return ups, state, losses

    def _backward(
        self, params: Tensor, inputs: Tensor, targets: Tensor, real: Tensor, gradient: Tensor
    ) -> Tensor:
        """Leaves the gradients at `params`, f32[K, size], in `gradient`; returns the losses, f32[K, B].

        Args:
            params: The clients' models.
            inputs: [K, B, ...].
            targets: [K, B].
            real: i64[K], how many examples of each batch count; the others come last.
            gradient: f32[>= K, trained].

        """
        slopes, losses = self._slopes(self._views(params), inputs, targets, real)
        for e in self.spec.entries:
            if e.name in slopes:
                flat = slopes[e.name].reshape(len(params), e.size)
                gradient[: len(params), e.offset : e.offset + e.size] = flat
        return losses

    def _slopes(
        self, views: dict[str, Tensor], inputs: Tensor, targets: Tensor, real: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Each client's gradient by name, f32[K, *shape], and the losses; see `_backward`."""
        trained = {name: views[name] for name in self._trained}
        others = {name: view for name, view in views.items() if name not in trained}
        found: tuple[dict[str, Tensor], Tensor] = self._program(trained, others, inputs, targets, real)
        return found

    def _mean_loss(
        self,
        trained: dict[str, Tensor],
        others: dict[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        real: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Of one client's batch: the mean loss of its real examples, and each example's, f32[B]."""
        outputs = functional_call(self._module, {**trained, **others}, (inputs,))
        each = self._task.torch_loss(outputs, targets)
        counted = torch.where(torch.arange(len(targets), device=each.device) < real, each, 0.0)
        return counted.sum() / real, each.detach()

    def _views(self, params: Tensor) -> dict[str, Tensor]:
        """Name -> f32[K, *shape], on the memory of `params`, f32[K, size]."""
        return {
            e.name: params[:, e.offset : e.offset + e.size].view(len(params), *e.shape)
            for e in self.spec.entries
        }

    def _differs(self) -> str:
        """What is wrong with the model, if clients side by side do not get what each gets alone; else "".

        It is tried, as rules are: two clients of three examples and two, of which the latter's batch is
        filled up with one that must not count.
        """
        if self._flat.norms:
            return "it has BatchNorm, which mixes the examples of a batch and keeps statistics"
        draw, blank = rng(0, "models side by side"), self._task.blank(self._facts, 6)
        if blank.dtype == np.float32:
            drawn = draw.normal(size=blank.shape).astype(np.float32)
        else:
            drawn = draw.integers(0, self._facts.num_classes, blank.shape).astype(blank.dtype)
        device, counts = self._device, (3, 2)
        inputs = torch.from_numpy(drawn).reshape(2, 3, *blank.shape[1:]).to(device)
        targets = torch.from_numpy(draw.integers(0, self._facts.num_classes, (2, 3))).to(device)
        params = torch.from_numpy(np.stack([self.initial(0), self.initial(1)])).to(device)
        real, together = torch.tensor(counts).to(device), torch.zeros(2, self.spec.trained, device=device)
        self._flat.load(params[0])
        self._flat.module.train()
        self._module.train()
        try:
            with looping_quietly(), seeded(0, device):
                self._backward(params.clone(), inputs, targets, real, together)
                for row, count in enumerate(counts):
                    self._flat.load(params[row])
                    self._flat.gradient.zero_()
                    scores = self._flat.module(inputs[row, :count])
                    self._task.torch_loss(scores, targets[row, :count]).mean().backward()  # type: ignore[no-untyped-call]
                    alone, found = host(self._flat.gradient), host(together[row])
                    if not np.abs(found - alone).max() <= AGREES * np.abs(alone).max():
                        return "an example's gradient depends on the others of its batch"
        except Exception as error:  # whatever torch or a user's code says of what it cannot do
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return ""


@contextmanager
def looping_quietly() -> Iterator[None]:
    """Within it torch does not warn where it has no batched form of an operation and loops over clients."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield
