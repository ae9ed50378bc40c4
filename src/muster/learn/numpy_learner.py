"""Dense models by hand in NumPy: needs no ML framework, and is the fast double of torch in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from muster.core.algorithm import Local
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.params import Vector
from muster.core.work import Work
from muster.models.dense import Dense
from muster.models.model import Model
from muster.tasks.task import Task

from .client import ArrayModel, ClientData, OwnClient, run_client
from .descent import descend, to_arrays
from .learner import Matrix, Sent, Trained

EVALUATION_BATCH = 500
"""Examples that go through the model at once in evaluation: it bounds the memory."""


class NumpyLearner:
    """Trains dense models on one thread; see `Learner`. From equal vectors it agrees with torch to rounding.

    Raises:
        UserError: The model is not a dense one, or the task's inputs are no float32 features.
    """

    def __init__(self, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> None:
        if not isinstance(model, Dense):
            raise UserError(
                f"backend numpy trains logistic and mlp, found {model.part_name()}; use backend torch"
            )
        if task.blank(facts, 1).dtype != np.float32:
            raise UserError(
                f"model {model.part_name()} reads numbers, but task {task.part_name()} gives it codes of "
                "characters; use char_lstm"
            )
        self._model, self._task, self._facts, self._local, self._work = model, task, facts, local, work
        self.spec = model.spec(facts)
        self._params, self._gradient = self.spec.zeros(), self.spec.zeros()
        names = [(f"dense{i}.weight", f"dense{i}.bias") for i in range(len(model.layers(facts)))]
        params, gradients = self.spec.views(self._params), self.spec.views(self._gradient)
        self._layers = [(params[weight], params[bias]) for weight, bias in names]
        self._slopes = [(gradients[weight], gradients[bias]) for weight, bias in names]
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
        steps: int = 0,
    ) -> Trained:
        """Trains one client and writes what it sends back into `up`; see `Learner`.

        A client without examples trains nothing: its loss is given as 0.
        """
        if isinstance(self._local, OwnClient):
            return self._train_own(self._local, sent["model"], examples, rng, up[0], kept)
        local, batches = self._local, list(self._work.batches(len(examples), rng, steps))
        up[:] = 0
        if not batches:
            return Trained(0, 0.0, 0.0)

        def backward(index: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
            return self._backward(*self._task.batch(self._facts, examples, index))

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

    def evaluate(self, params: Vector, examples: Examples) -> dict[str, float]:
        """Means over all `examples` (at least one): `loss`, and the task's metrics."""
        np.copyto(self._params, params)
        sums = {"loss": 0.0}
        with self._blas.limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(examples), EVALUATION_BATCH):
                chosen = slice(start, start + EVALUATION_BATCH)
                inputs, targets = self._task.batch(self._facts, examples, chosen)
                outputs = self._forward(inputs)[-1]
                sums["loss"] += float(self._task.numpy_loss(outputs, targets)[0].sum(dtype=np.float64))
                for name, value in self._task.numpy_metrics(outputs, targets).items():
                    sums[name] = sums.get(name, 0.0) + value
        return {name: value / len(examples) for name, value in sums.items()}

    def _forward(self, inputs: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """What each layer reads, f32[B, in], and last the scores f32[B, classes]."""
        values = [inputs.reshape(len(inputs), -1)]
        for i, (weight, bias) in enumerate(self._layers):
            outputs = values[-1] @ weight.T
            outputs += bias
            if i + 1 < len(self._layers):
                np.maximum(outputs, 0, out=outputs)
            values.append(outputs)
        return values

    def _backward(self, inputs: npt.NDArray[Any], targets: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Leaves the gradient of the mean loss in the flat gradient; returns each example's loss."""
        values = self._forward(inputs)
        losses, slope = self._task.numpy_loss(values[-1], targets)
        slope /= np.float32(len(targets))
        for i in reversed(range(len(self._layers))):
            weight_slope, bias_slope = self._slopes[i]
            np.matmul(slope.T, values[i], out=weight_slope)
            slope.sum(0, out=bias_slope)
            if i > 0:
                slope = slope @ self._layers[i][0]
                slope *= values[i] > 0
        return losses

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
