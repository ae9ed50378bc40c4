"""Dense models by hand in NumPy: needs no ML framework, and is the fast double of torch in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from muster.core.algorithm import Local, Vectors
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.params import Vector
from muster.core.work import Steps, Work
from muster.models.dense import Dense
from muster.models.model import Model
from muster.models.own import called
from muster.tasks.task import Task

from .client import ArrayModel, ClientData, OwnClient, run_client
from .cohort import descend_together
from .descent import descend, to_arrays
from .learner import Matrix, Scores, Sent, Trained
from .numerics import Numerics
from .together import TrainsTogether

EVALUATION_BATCH = 500
"""Examples that go through the model at once in evaluation: it bounds the memory."""

Layers: TypeAlias = list[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
"""Weight and bias of each layer."""


class NumpyLearner(TrainsTogether):
    """Trains dense models on one thread; see `Learner`. From equal vectors it agrees with torch to rounding.

    Raises:
        UserError: The model is not a dense one, or the task's inputs are no float32 features.
    """

    numerics = Numerics()

    def __init__(self, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> None:
        if not isinstance(model, Dense):
            raise UserError(
                "backends numpy, numba and jax train dense layers with relu between them (logistic, mlp, or "
                f"a module of your own that is no more), but {called(model)} is something else; use backend "
                "torch"
            )
        if task.blank(facts, 1).dtype != np.float32:
            raise UserError(
                f"model {model.part_name()} reads numbers, but task {task.part_name()} gives it codes of "
                "characters; use char_lstm"
            )
        self._model, self._task, self._facts, self._local, self._work = model, task, facts, local, work
        self.spec = model.spec(facts)
        self._names = model.names(facts)
        self._params, self._gradient = self.spec.zeros(), self.spec.zeros()
        self._gradients = self._gradient[None]
        self._layers, self._slopes = self._views(self._params), self._views(self._gradient)
        ends = [*(e.offset for e in self.spec.entries[1:]), self.spec.size]
        between = (slice(e.offset + e.size, end) for e, end in zip(self.spec.entries, ends, strict=True))
        self._padding = [gap for gap in between if gap.start < gap.stop]
        self._blas = ThreadpoolController()

    def initial(self, seed: int) -> Vector:
        """The untrained model, f32[spec.size]; depends on the seed only."""
        return self.spec.pack(self._model.initial(self._facts, seed))

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int | Steps = 0,
    ) -> Trained:
        """Trains one client and writes what it sends back into `up`; see `Learner`.

        A client without examples trains nothing: its loss is given as 0.
        """
        if isinstance(self._local, OwnClient):
            return self._train_own(self._local, sent["model"], examples, rng, up[0], kept)
        local, batches = self._local, self._work.plan(len(examples), rng, steps)
        up[:] = 0
        if not len(examples):
            return Trained(0, 0.0, 0.0)

        def backward(index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
            inputs, targets = self._task.batch(self._facts, examples, index)
            real = np.array(len(index))
            self._clear_padding(self._gradient)
            return self._backward(inputs.reshape(len(index), -1), targets, self._layers, self._slopes, real)

        np.copyto(self._params, sent["model"])
        # training that diverges is no warning here: the gate refuses an update that is not finite
        with self._blas.limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
            ups, state, losses = descend(local, self._params, self._gradient, sent, kept, batches, backward)
            np.subtract(self._params, sent["model"], out=up[0])
        for row, name in zip(up[1:], local.up[1:], strict=True):
            row[:] = ups[name]
        every = np.concatenate(losses).astype(np.float64)
        mine = to_arrays(state) if local.keeps else None
        return Trained(len(batches), float(every.mean()), float(np.square(every).mean()), mine)

    def _descended(
        self,
        received: Vectors,
        before: Sequence[Vectors | None],
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
        delta: Matrix,
    ) -> tuple[Vectors, Vectors, list[tuple[int, npt.NDArray[Any]]]]:
        params, gradient = self._room(delta)
        np.copyto(params, received["model"])
        views: dict[int, tuple[Layers, Layers]] = {}

        def backward(number: int, live: int) -> npt.NDArray[Any]:
            chosen, real = index[:live, number], filled[:live, number]
            inputs, targets = self._task.batch(self._facts, examples, chosen.reshape(-1))
            shape = chosen.shape
            inputs, targets = inputs.reshape(*shape, -1), targets.reshape(shape)
            if live not in views:
                views[live] = self._views(params[:live]), self._views(gradient[:live])
            self._clear_padding(gradient[:live])
            return self._backward(inputs, targets, *views[live], real)

        counts = np.count_nonzero(filled, axis=1)
        with self._blas.limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
            ups, state, losses = descend_together(
                self._local, params, gradient, received, before, counts, backward
            )
            np.subtract(params, received["model"], out=delta)
        return ups, state, losses

    def _room(self, delta: Matrix) -> tuple[Matrix, Matrix]:
        """Parameters and gradients of clients, f32[K, size]; of the gradients the padding is 0.

        Parameters lie where the deltas are to be left: half as much goes through the cache.
        """
        if len(self._gradients) < len(delta):
            self._gradients = np.zeros((len(delta), self.spec.size), np.float32)
        params = delta if delta.flags.c_contiguous else np.empty(delta.shape, np.float32)
        return params, self._gradients[: len(delta)]

    def scores(self, params: Vector, examples: Examples) -> Scores:
        """One batch after another, whose size changes rounding only."""
        np.copyto(self._params, params)
        found: dict[str, list[Any]] = {}
        with self._blas.limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(examples), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                inputs, targets = self._task.batch(self._facts, examples, chosen)
                outputs = self._forward(inputs.reshape(len(inputs), -1), self._layers)[-1]
                each = {"loss": self._task.numpy_loss(outputs, targets)[0]}
                for name, values in (each | self._task.numpy_metrics(outputs, targets)).items():
                    found.setdefault(name, []).append(values)
        return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}

    def _views(self, vector: Any) -> Layers:
        """Weight [..., out, in] and bias [..., out] of each layer as views of vectors [..., size]."""
        entries = {e.name: e for e in self.spec.entries}

        def view(name: str) -> Any:
            e = entries[name]
            return vector[..., e.offset : e.offset + e.size].reshape(*vector.shape[:-1], *e.shape)

        return [(view(weight), view(bias)) for weight, bias in self._names]

    def _clear_padding(self, gradient: Any) -> None:
        """A rule may have written between the entries of the last step's gradient, where none of this is."""
        for gap in self._padding:
            gradient[..., gap] = 0

    def _forward(self, inputs: npt.NDArray[Any], layers: Layers) -> list[npt.NDArray[Any]]:
        """What each layer reads, f32[..., B, in], and last the scores f32[..., B, classes]."""
        values = [inputs]
        for i, (weight, bias) in enumerate(layers):
            outputs = values[-1] @ weight.swapaxes(-1, -2)
            outputs += bias[..., None, :]
            if i + 1 < len(layers):
                np.maximum(outputs, 0, out=outputs)
            values.append(outputs)
        return values

    def _backward(
        self,
        inputs: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        layers: Layers,
        slopes: Layers,
        filled: npt.NDArray[np.int64],
    ) -> npt.NDArray[Any]:
        """Leaves the gradients of the mean losses in `slopes`; returns each example's loss, f32[..., B].

        Args:
            inputs: f32[..., B, in], of one client or of many.
            targets: i64[..., B].
            layers: What is trained.
            slopes: Views like those of `layers`.
            filled: i64[...], how many of a batch's examples are real; the others come last.

        """
        values = self._forward(inputs, layers)
        losses, flat = self._task.numpy_loss(
            values[-1].reshape(-1, values[-1].shape[-1]), targets.reshape(-1)
        )
        slope = flat.reshape(values[-1].shape)
        slope /= filled[..., None, None].astype(np.float32)
        if filled.min() < targets.shape[-1]:
            slope[np.arange(targets.shape[-1]) >= filled[:, None]] = 0
        for i in reversed(range(len(layers))):
            weight_slope, bias_slope = slopes[i]
            np.matmul(slope.swapaxes(-1, -2), values[i], out=weight_slope)
            slope.sum(-2, out=bias_slope)
            if i > 0:
                slope = slope @ layers[i][0]
                slope *= values[i] > 0
        return losses.reshape(targets.shape)

    def _train_own(
        self,
        local: OwnClient,
        sent: Vector,
        examples: Examples,
        rng: np.random.Generator,
        delta: Vector,
        kept: Mapping[str, Any] | None,
    ) -> Trained:
        model = ArrayModel(self.spec.views(np.array(sent)))
        given = dict(model.parameters)
        with self._blas.limit(limits=1, user_api="blas"):
            data = ClientData(*self._task.batch(self._facts, examples, slice(0, len(examples))))
            done = run_client(local, self._work, data, model, rng, kept)
        done.write_delta(
            self.spec, sent, given, lambda it: it.parameters if isinstance(it, ArrayModel) else None, delta
        )
        return done.trained(lambda: self.evaluate(sent, examples)["loss"])
