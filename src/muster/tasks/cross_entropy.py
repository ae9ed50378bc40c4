"""One right class among many: what classification and next-character prediction share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muster.core.errors import DataError

from .task import Array, Index, Task

if TYPE_CHECKING:
    from torch import Tensor

    from muster.core.examples import Examples, Facts


class CrossEntropy(Task):
    """Softmax cross-entropy (natural logarithm) of the scores, and `accuracy` of the highest score."""

    def torch_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """-log softmax(outputs)[target] of each example."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, reduction="none")

    def torch_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Whether each example has its highest score at the target."""
        return {"accuracy": outputs.argmax(1) == targets}

    def jax_loss(self, outputs: Any, targets: Any) -> Any:
        """-log softmax(outputs)[target] of each example."""
        import jax
        import jax.numpy as jnp

        chosen = jnp.take_along_axis(outputs, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(outputs, axis=-1) - chosen

    def numpy_loss(self, outputs: Array, targets: Array) -> tuple[Array, Array]:
        """-log softmax(outputs)[target] of each example; its gradient is softmax - one-hot."""
        at = np.arange(len(targets)), targets
        gradient = outputs - outputs.max(1, keepdims=True)  # the largest exponent is 0: no overflow
        chosen = gradient[at]
        np.exp(gradient, out=gradient)
        total = gradient.sum(1)
        gradient /= total[:, None]
        gradient[at] -= 1
        return np.log(total) - chosen, gradient

    def numpy_metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """Whether each example has its highest score at the target."""
        return {"accuracy": outputs.argmax(1) == targets}


def labels(facts: Facts, examples: Examples, index: Index) -> Array:
    """The targets i64[B] of the chosen examples.

    Raises:
        DataError: A label is outside 0..num_classes-1, which would train garbage.
    """
    targets = np.array(examples.y[index], np.int64)
    if len(targets) and targets.view(np.uint64).max() >= facts.num_classes:  # a negative label is huge here
        bad = targets[targets.view(np.uint64) >= facts.num_classes][0]
        raise DataError(f"{facts.name} has the label {bad}, but must be 0..{facts.num_classes - 1}")
    return targets
