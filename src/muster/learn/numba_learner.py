"""Cohorts of dense models by compiled loops (numba): extra `[numba]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local, Vectors
from muster.core.errors import UserError
from muster.core.examples import Examples, Facts
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.cross_entropy import CrossEntropy
from muster.tasks.task import Task

from . import kernels
from .cohort import descend_together
from .compiled import CompiledLearner, ExactPasses
from .descent import fixed_stride
from .learner import Matrix


class CompiledPasses(ExactPasses):
    """Norms are added in another order than NumPy's."""

    def norms(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """See `Passes`."""
        squares = np.empty(len(vectors))
        kernels.squares(vectors, squares)
        return np.sqrt(squares)


class NumbaLearner(CompiledLearner):
    """Trains dense models, many clients or one, by compiled loops; evaluates as `NumpyLearner` does.

    What a client comes to does not depend on who trains beside it, to the bit. Where the local rule only
    steps along the gradient, each time as far (`Local.stride`: SGD without momentum, weight decay or
    clipping), the gradient is added straight to the parameters and never written out.

    Raises:
        UserError: The model is not a dense one, the task's loss is not cross-entropy, or clients train by
            code of a user's own.
    """

    backend = "numba"
    passes = CompiledPasses()

    def __init__(self, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> None:
        super().__init__(model, task, facts, local, work)
        if type(task).numpy_loss is not CrossEntropy.numpy_loss:
            raise UserError(
                f"backend numba knows cross-entropy, but task {task.part_name()} has a loss of its own; "
                "use backend numpy"
            )
        entries = {e.name: e for e in self.spec.entries}
        self._at = np.array([entries[name].offset for names in self._names for name in names], np.int64)
        shapes = [entries[weight].shape for weight, _ in self._names]
        self._dims = np.array([shapes[0][1], *(outs for outs, _ in shapes)], np.int64)
        self._stride = fixed_stride(local)

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
        stride = self._stride

        def backward(number: int, live: int) -> npt.NDArray[Any]:
            chosen, real = index[:live, number], np.ascontiguousarray(filled[:live, number])
            inputs, targets = self._task.batch(self._facts, examples, chosen.reshape(-1))
            inputs, targets = inputs.reshape(*chosen.shape, -1), targets.reshape(chosen.shape)
            losses = np.empty(chosen.shape, np.float32)
            if stride is None:
                into, scale = gradient[:live], 1.0
                into[:] = 0
            else:
                into, scale = params[:live], -stride
            kernels.backward(
                params[:live], inputs, targets, real, self._dims, self._at, np.float32(scale), into, losses
            )
            return losses

        def stepped(moved: Any, memory: Vectors) -> tuple[Any, Vectors]:
            return moved, memory

        counts = np.count_nonzero(filled, axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            done = descend_together(
                self._local,
                params,
                gradient,
                received,
                before,
                counts,
                backward,
                None if stride is None else stepped,
            )
            np.subtract(params, received["model"], out=delta)
        return done
