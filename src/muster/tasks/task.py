"""What is learnt: how stored examples become a batch, the loss, and the metrics."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.errors import UserError
from muster.core.part import Part

if TYPE_CHECKING:
    from torch import Tensor

    from muster.core.examples import Examples, Facts

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = npt.NDArray[np.int64] | slice
"""Which of a client's examples: i64[B], or a slice."""


class Task(Part):
    """Stored examples to batches, and scores to losses and metrics, for every backend.

    Losses are per example, and metrics are sums over the batch, so that a mean over any batches is
    the mean over the examples.
    """

    @abstractmethod
    def batch(self, facts: Facts, examples: Examples, index: Index) -> tuple[Array, Array]:
        """(inputs [B, *facts.input_shape], targets [B]) of the chosen examples: new, writable arrays.

        Raises:
            DataError: A target is not one of `facts.num_classes`.
        """

    @abstractmethod
    def blank(self, facts: Facts, count: int) -> Array:
        """`count` inputs of zeros, of the shape and dtype that `batch` makes."""

    @abstractmethod
    def torch_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """f32[B], differentiable."""

    @abstractmethod
    def torch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """A number for each example, [B] by the metric's name."""

    def jax_loss(self, outputs: Any, targets: Any) -> Any:
        """f32[B], differentiable by JAX. Only tasks that JAX is to train need it.

        Raises:
            UserError: This task has none.
        """
        raise UserError(f"task {self.part_name()} has no loss in JAX; use another engine.backend")

    @abstractmethod
    def numpy_loss(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """f32[B], and the gradient of each example's loss with respect to its outputs, f32[B, K]."""

    @abstractmethod
    def numpy_metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """A number for each example, [B] by the metric's name."""
