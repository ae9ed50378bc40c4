"""Cohorts of dense models in JAX: `jit(vmap(scan))`, each client one row of one compiled program.

The local rule's own methods are traced, a client at a time, so every rule for clients side by side works
here as it is. Clients are padded to a few shapes, since each new one is compiled anew: their number to a
power of two, their steps to 1, 2, 3, 4, 6, 8, 12, ... of which the superfluous ones change nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local, Vectors
from muster.core.examples import Examples, Facts
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.task import Task

from .cohort import few, stacked
from .compiled import CompiledLearner
from .learner import Matrix

if "jax" not in sys.modules:  # a learner computes on one thread; XLA reads this once
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
import jax
import jax.numpy as jnp


class JaxLearner(CompiledLearner):
    """Trains dense models of many clients as one compiled program; evaluates as `NumpyLearner` does.

    Raises:
        UserError: The model is not a dense one, the task has no loss in JAX, or clients train by code of a
            user's own.
    """

    backend = "jax"

    def __init__(self, model: Model, task: Task, facts: Facts, local: Local, work: Work) -> None:
        super().__init__(model, task, facts, local, work)
        task.jax_loss(jnp.zeros((1, facts.num_classes)), jnp.zeros(1, jnp.int32))
        self._program = jax.jit(self._clients, static_argnames="shared")

    def _descended(
        self,
        received: Vectors,
        before: Sequence[Vectors | None],
        examples: Examples,
        index: npt.NDArray[np.int64],
        filled: npt.NDArray[np.int64],
        delta: Matrix,
    ) -> tuple[Vectors, Vectors, list[tuple[int, npt.NDArray[Any]]]]:
        count, most = filled.shape
        rows, steps = _power_of_two(count), few(most)
        index = np.pad(index, ((0, rows - count), (0, steps - most), (0, 0)))
        filled = np.pad(filled, ((0, rows - count), (0, steps - most)))
        inputs, targets = self._task.batch(self._facts, examples, index.reshape(-1))
        inputs = inputs.reshape(*index.shape, -1)
        shared = all(vector.strides[0] == 0 or count == 1 for vector in received.values())
        sent = {n: np.asarray(v[0]) if shared else _rows(v, rows) for n, v in received.items()}
        kept = {n: _rows(v, rows) for n, v in stacked(self._local.fresh(received), before).items()}
        done = self._program(
            sent, kept, inputs, targets.reshape(index.shape), filled.astype(np.int32), shared=shared
        )
        delta[:], ups, state, losses = jax.tree.map(lambda array: np.asarray(array)[:count], done)
        each = [
            (number, losses[:, number, again]) for number in range(most) for again in range(losses.shape[2])
        ]
        return ups, state, each

    def _clients(
        self, sent: Vectors, kept: Vectors, inputs: Any, targets: Any, filled: Any, *, shared: bool
    ) -> Any:
        """`_client` of all rows; if `shared` they were sent the same."""
        return jax.vmap(self._client, (None if shared else 0, 0, 0, 0, 0))(
            sent, kept, inputs, targets, filled
        )

    def _client(self, sent: Vectors, kept: Vectors, inputs: Any, targets: Any, filled: Any) -> Any:
        """One client's task, traced.

        Args:
            sent: f32[n] by name.
            kept: f32[n] by name.
            inputs: f32[T, B, in].
            targets: i32[T, B].
            filled: i32[T], how many of each batch are real: 0 from its last step on, which changes nothing.

        Returns:
            The delta, the other vectors that go up, the lasting state, and each step's losses, f32[T, R, B].

        """
        local, losses = self._local, []
        params, memory = local.begin(sent, kept)
        for number in range(local.passes):
            params, memory = local.enter(number, params, sent, memory)
            # Each client has a first step. It is done before the loop, which wants a memory of fixed shape.
            carried, first = self._batch(sent, (params, memory), inputs[0], targets[0], filled[0])
            rest = partial(self._step, sent)
            carried, others = jax.lax.scan(rest, carried, (inputs[1:], targets[1:], filled[1:]))
            params, memory = carried
            losses.append(jnp.concatenate([first[None], others]))
        params, ups, state = local.finish(params, sent, memory, jnp.sum(filled > 0)[None].astype(jnp.float32))
        return params - sent["model"], ups, state, jnp.concatenate(losses, axis=1)

    def _step(self, sent: Vectors, carried: Any, batch: Any) -> tuple[Any, Any]:
        """A step that may be beyond the client's last: it then changes nothing."""
        moved, losses = self._batch(sent, carried, *batch)
        live = batch[2] > 0
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), moved, carried), losses

    def _batch(self, sent: Vectors, carried: Any, inputs: Any, targets: Any, filled: Any) -> tuple[Any, Any]:
        """All the rule does on one batch: parameters and memory after it, and the losses f32[R, B]."""
        (params, memory), losses = carried, []
        real = (jnp.arange(len(targets)) < filled).astype(jnp.float32)

        def mean_loss(layers: Any) -> tuple[Any, Any]:
            each = self._task.jax_loss(_scores(layers, inputs), targets)
            return jnp.sum(each * real) / jnp.maximum(filled, 1), each

        for _ in range(self._local.repeats):
            slopes, each = jax.grad(mean_loss, has_aux=True)(self._views(params))
            params, memory = self._local.step(params, self._flat(slopes), sent, memory)
            losses.append(each)
        params, memory = self._local.settle(params, sent, memory)
        return (params, memory), jnp.stack(losses)

    def _flat(self, slopes: Any) -> Any:
        """The layers' gradients as one vector, f32[size]; 0 in the padding."""
        arrays = {
            n: a
            for names, pair in zip(self._names, slopes, strict=True)
            for n, a in zip(names, pair, strict=True)
        }
        pieces, at = [], 0
        for e in self.spec.entries:
            pieces += [jnp.zeros(e.offset - at)] * (e.offset > at) + [arrays[e.name].reshape(-1)]
            at = e.offset + e.size
        return jnp.concatenate([*pieces, jnp.zeros(self.spec.size - at)])


def _scores(layers: Any, inputs: Any) -> Any:
    """f32[B, classes]."""
    for i, (weight, bias) in enumerate(layers):
        inputs = inputs @ weight.T + bias
        if i + 1 < len(layers):
            inputs = jax.nn.relu(inputs)
    return inputs


def _rows(matrix: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A matrix with rows of zeros added, up to so many."""
    return np.pad(np.asarray(matrix), ((0, count - len(matrix)), (0, 0)))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
