"""Cohorts of dense models in JAX: `jit(vmap(scan))`, each client one row of one compiled program.

The local rule's own methods are traced, a client at a time, so every rule for clients side by side works
here as it is. Clients are padded to a few shapes, since each new one is compiled anew: their number to a
power of two, their steps to 1, 2, 3, 4, 6, 8, 12, ... of which the superfluous ones change nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Local, Vectors
from muster.core.examples import Examples, Facts
from muster.core.work import Work
from muster.models.model import Model
from muster.tasks.task import Task

from .cohort import few, stacked
from .compiled import CompiledLearner
from .descent import fixed_stride
from .learner import Matrix

if "jax" not in sys.modules:  # a learner computes on one thread; XLA reads this once
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
import jax
import jax.numpy as jnp

FEW = 24
"""Examples of a batch, up to which a weight's gradient is written as a sum of outer products: XLA's own
product of matrices so thin takes up to twice as long."""

Layers: TypeAlias = list[tuple[Any, Any]]
"""Weight [in, out] and bias [out] of each dense layer, traced."""


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
        self._stride = fixed_stride(local) if type(local).settle is Local.settle else None
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
        index, filled = _padded(index, rows, steps, index.shape[2]), _padded(filled, rows, steps)
        inputs, targets = self._task.batch(self._facts, examples, index.reshape(-1))
        inputs = inputs.reshape(*index.shape, -1)
        shared = all(vector.strides[0] == 0 or count == 1 for vector in received.values())
        sent = {n: np.asarray(v[0]) if shared else _padded(v, rows, v.shape[1]) for n, v in received.items()}
        kept = {
            n: _padded(v, rows, v.shape[1]) for n, v in stacked(self._local.fresh(received), before).items()
        }
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
            if self._stride is not None and inputs.shape[1] <= FEW:
                layers, found = jax.lax.scan(self._straight, self._turned(params), (inputs, targets, filled))
                params = self._flat(layers)
                losses.append(found)
                continue
            # Each client has a first step. It is done before the loop, which wants a memory of fixed shape.
            carried, first = self._batch(sent, (params, memory), inputs[0], targets[0], filled[0])
            rest = partial(self._step, sent)
            carried, others = jax.lax.scan(rest, carried, (inputs[1:], targets[1:], filled[1:]))
            params, memory = carried
            losses.append(jnp.concatenate([first[None], others]))
        params, ups, state = local.finish(params, sent, memory, jnp.sum(filled > 0)[None].astype(jnp.float32))
        return params - sent["model"], ups, state, jnp.concatenate(losses, axis=1)

    def _straight(self, layers: Layers, batch: Any) -> tuple[Layers, Any]:
        """As `_step`, where each step of the rule is as far: the gradient goes straight into the layers."""
        losses, live = [], batch[2] > 0
        for _ in range(self._local.repeats):
            slopes, each = jax.grad(self._mean_loss, has_aux=True)(layers, *batch, _thin)
            layers = jax.tree.map(
                lambda value, slope: jnp.where(live, value - self._stride * slope, value), layers, slopes
            )
            losses.append(each)
        return layers, jnp.stack(losses)

    def _step(self, sent: Vectors, carried: Any, batch: Any) -> tuple[Any, Any]:
        """A step that may be beyond the client's last: it then changes nothing."""
        moved, losses = self._batch(sent, carried, *batch)
        live = batch[2] > 0
        return jax.tree.map(lambda new, old: jnp.where(live, new, old), moved, carried), losses

    def _batch(self, sent: Vectors, carried: Any, inputs: Any, targets: Any, filled: Any) -> tuple[Any, Any]:
        """All the rule does on one batch: parameters and memory after it, and the losses f32[R, B]."""
        (params, memory), losses = carried, []
        for _ in range(self._local.repeats):
            slopes, each = jax.grad(self._mean_loss, has_aux=True)(
                self._turned(params), inputs, targets, filled, _dense
            )
            params, memory = self._local.step(params, self._flat(slopes), sent, memory)
            losses.append(each)
        params, memory = self._local.settle(params, sent, memory)
        return (params, memory), jnp.stack(losses)

    def _mean_loss(
        self, layers: Layers, inputs: Any, targets: Any, filled: Any, dense: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """Of a batch, over its first `filled` examples; and the losses of all, f32[B]."""
        for i, (weight, bias) in enumerate(layers):
            inputs = dense(inputs, weight, bias)
            if i + 1 < len(layers):
                inputs = jax.nn.relu(inputs)
        each = self._task.jax_loss(inputs, targets)
        real = (jnp.arange(len(targets)) < filled).astype(jnp.float32)
        return jnp.sum(each * real) / jnp.maximum(filled, 1), each

    def _turned(self, params: Any) -> Layers:
        """Weight [in, out] and bias [out] of each layer: the way round in which XLA multiplies faster."""
        return [(weight.T, bias) for weight, bias in self._views(params)]

    def _flat(self, layers: Layers) -> Any:
        """Arrays like those of `_turned` as one vector, f32[size]; 0 in the padding."""
        arrays = {}
        for (weight, bias), (its_weight, its_bias) in zip(self._names, layers, strict=True):
            arrays[weight], arrays[bias] = its_weight.T, its_bias
        pieces, at = [], 0
        for e in self.spec.entries:
            pieces += [jnp.zeros(e.offset - at)] * (e.offset > at) + [arrays[e.name].reshape(-1)]
            at = e.offset + e.size
        return jnp.concatenate([*pieces, jnp.zeros(self.spec.size - at)])


def _dense(inputs: Any, weight: Any, bias: Any) -> Any:
    """What a layer makes of a batch, f32[B, out]."""
    return inputs @ weight + bias


def _thin_backward(read: Any, slope: Any) -> Any:
    """The gradients at `_thin`'s arguments, from inputs and weight, and the gradient at the outputs."""
    inputs, weight = read
    # as they are, not made anew for each product
    fixed = jax.lax.optimization_barrier((inputs, slope))  # type: ignore[no-untyped-call]
    products = [x[:, None] * y[None] for x, y in zip(*fixed, strict=True)]
    return slope @ weight.T, sum(products[1:], products[0]), slope.sum(0)


_thin = jax.custom_vjp(_dense)
_thin.defvjp(lambda inputs, weight, bias: (_dense(inputs, weight, bias), (inputs, weight)), _thin_backward)


def _padded(array: npt.NDArray[Any], *shape: int) -> npt.NDArray[Any]:
    """The array with zeros behind it in each direction, up to this shape."""
    if array.shape == shape:
        return np.asarray(array)
    whole = np.zeros(shape, array.dtype)
    whole[tuple(map(slice, array.shape))] = array
    return whole


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
