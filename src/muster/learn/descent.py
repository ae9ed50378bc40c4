"""One client's local training by single steps: the same lines for every library of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Array, Local, Vectors
from muster.core.work import Batch, Stepwise


def descend(
    local: Local,
    params: Array,
    gradient: Array,
    sent: Vectors,
    kept: Vectors | None,
    batches: Sequence[Batch] | Stepwise,
    backward: Callable[[Batch], Any],
    step: Callable[[Array, Vectors], tuple[Array, Vectors]] | None = None,
) -> tuple[Vectors, Vectors, list[Any]]:
    """Trains from the model sent; `params` ends as the model whose difference to it is the delta.

    Args:
        local: The rule.
        params: The working model's parameters, f32[P], holding the model sent.
        gradient: Where `backward` leaves the gradient at `params`, f32[P].
        sent: What the client was sent, each f32[P], by name.
        kept: What the client has kept; None if it has nothing yet.
        batches: Indices of each step's examples; at least one batch.
        backward: Indices -> the loss of each example; leaves the gradient of their mean.
        step: Does what the rule's own step does, if the gradient lies elsewhere.

    Returns:
        The vectors that go up beside the delta, the lasting state, and the losses of each step.

    """

    def put(moved: Array) -> None:
        if moved is not params:
            params[...] = moved

    losses = []
    moved, memory = local.begin(sent, local.fresh(sent) if kept is None else kept)
    put(moved)
    for number in range(local.passes):
        moved, memory = local.enter(number, params, sent, memory)
        put(moved)
        for index in batches:
            for _ in range(local.repeats):
                losses.append(backward(index))
                if step is None:
                    moved, memory = local.step(params, gradient, sent, memory)
                else:
                    moved, memory = step(params, memory)
                put(moved)
            moved, memory = local.settle(params, sent, memory)
            put(moved)
    count = gradient[:1] * 0 + len(batches)
    moved, ups, state = local.finish(params, sent, memory, count)
    put(moved)
    return ups, state, losses


def fixed_stride(local: Local) -> float | None:
    """s, if each step of the rule is y ← y - s·g however long g is (`Local.stride`); else None."""
    asked = []

    def norm() -> float:
        asked.append(True)
        return 1.0

    stride = local.stride(norm)
    return None if asked else stride


def copied(array: Array) -> Array:
    """A copy, of the same library and on the same device."""
    return np.array(array) if isinstance(array, np.ndarray) else array.clone()


def beside(array: Array, values: npt.NDArray[Any]) -> Array:
    """`values` as an array of the same library and on the same device as `array`."""
    return values if isinstance(array, np.ndarray) else array.new_tensor(values)


def to_arrays(vectors: Vectors) -> Mapping[str, Any]:
    """The vectors as NumPy arrays of their own."""
    return {name: np.asarray(vector).copy() for name, vector in vectors.items()}
