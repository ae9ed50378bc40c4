"""The door between the data plane and an ML framework: one client's training, and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples
from muster.core.params import ParamSpec, Vector

Sent: TypeAlias = Mapping[str, Vector]
Matrix: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """What one client's training measured; the delta itself is written into the caller's buffer."""

    num_steps: int
    loss: float
    """Mean loss over all examples trained, each as it was trained."""
    loss_sq_mean: float
    """Mean of the squared loss over the same examples."""
    kept: Mapping[str, Any] | None = None
    """The client's lasting state after this task; None if it stays as it was."""


class Learner(Protocol):
    """One working model that clients share, one after another. Not shared between threads.

    A learner computes on one thread: the same bits whoever runs it, inline or in a worker.
    """

    spec: ParamSpec

    def initial(self, seed: int) -> Vector:
        """The untrained model, f32[spec.size]; depends on the seed only."""
        ...

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int = 0,
    ) -> Trained:
        """Trains one client and writes what it sends back into `up`.

        Args:
            sent: What the client was sent, by the names in `local.down`: `model` f32[size], other vectors
                f32[trained]. It is not changed.
            examples: All of the client's.
            rng: The only randomness.
            up: Rows by the names in `local.up`, f32[U, size]: first trained - sent, then what else there is.
            kept: The client's lasting state from its last accepted task; None if this is the first.
            steps: Mini-batch steps, if the task has a number of its own; 0: as the job's work says.

        """
        ...

    def evaluate(self, params: Vector, examples: Examples) -> dict[str, float]:
        """Means over all `examples`: `loss`, `accuracy`, ... of the model `params`."""
        ...
