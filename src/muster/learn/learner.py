"""The door between the data plane and an ML framework: one client's training, and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Protocol

import numpy as np

from muster.core.examples import Examples
from muster.core.params import ParamSpec, Vector


@dataclass(frozen=True)
class Trained:
    """What one client's training measured; the delta itself is written into the caller's buffer."""

    num_steps: int
    loss: float
    """Mean loss over all examples trained, each as it was trained."""
    loss_sq_mean: float
    """Mean of the squared loss over the same examples."""
    kept: Mapping[str, Any] | None = None
    """The client's lasting state after this task; None if its rule keeps none."""


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
        sent: Vector,
        examples: Examples,
        rng: np.random.Generator,
        delta: Vector,
        kept: Mapping[str, Any] | None,
    ) -> Trained:
        """Trains one client from `sent` and writes `trained - sent` into `delta`, both f32[size].

        `sent` is not changed. `rng` is the only randomness. `kept` is the client's lasting state from
        its last accepted task, None if this is the first.
        """
        ...

    def evaluate(self, params: Vector, examples: Examples) -> dict[str, float]:
        """Means over all `examples`: `loss`, `accuracy`, ... of the model `params`."""
        ...
