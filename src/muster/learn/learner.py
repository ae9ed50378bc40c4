"""The door between the data plane and an ML framework: one client's training, and evaluation."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Mapping, Protocol, Sequence, TypeAlias

import numpy as np
import numpy.typing as npt

from muster.core.examples import Examples
from muster.core.params import ParamSpec, Vector
from muster.core.randomness import Draws
from muster.core.sums import FixedPointSum
from muster.core.work import Steps

from .numerics import Numerics
from .passes import Passes

Sent: TypeAlias = Mapping[str, Vector]
Matrix: TypeAlias = npt.NDArray[np.float32]
Stack: TypeAlias = npt.NDArray[np.float32]
"""A matrix for each client of a cohort."""
Scores: TypeAlias = Mapping[str, npt.NDArray[np.float64]]
"""A number for each example, or for each client, f64[N] by the metric's name."""


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


@dataclass(frozen=True)
class Together:
    """What the training of K clients measured, a row each; see `Trained`."""

    num_steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    loss_sq_mean: npt.NDArray[np.float64]
    kept: Sequence[Mapping[str, Any] | None]

    def of(self, row: int) -> tuple[int, float, float]:
        """Steps, loss and mean squared loss of one of them."""
        return int(self.num_steps[row]), float(self.loss[row]), float(self.loss_sq_mean[row])


class Learner(Protocol):
    """One working model that clients share, one after another. Not shared between threads.

    A learner computes on one thread: the same bits whoever runs it, inline or in a worker.
    """

    spec: ParamSpec

    numerics: Numerics
    """How it rounds."""

    passes: Passes = Passes()
    """How its updates are measured and added."""

    def initial(self, seed: int) -> Vector:
        """The untrained model, f32[spec.size]; depends on the seed only."""
        ...

    def lent(self) -> Vector | None:
        """The working model's vector, f32[size], if `train` may write the update there, over the model.

        Whatever the learner does next overwrites it.
        """
        return None

    def train(
        self,
        sent: Sent,
        examples: Examples,
        rng: np.random.Generator,
        up: Matrix,
        kept: Mapping[str, Any] | None,
        steps: int | Steps = 0,
    ) -> Trained:
        """Trains one client and writes what it sends back into `up`.

        Args:
            sent: What the client was sent, by the names in `local.down`: `model` f32[size], other vectors
                f32[trained]. It is not changed.
            examples: All of the client's.
            rng: The only randomness.
            up: Rows by the names in `local.up`, f32[U, size]: first trained - sent, then what else there is.
            kept: The client's lasting state from its last accepted task; None if this is the first.
            steps: Mini-batch steps, if the task has a number of its own; 0: as the job's work says. Or who is
                asked before each step whether there is another: of a client with examples, one at least.

        """
        ...

    def scores(self, params: Vector, examples: Examples) -> Scores:
        """How the model `params` does on each of `examples`: `loss`, and the task's metrics."""
        ...

    def place(self, data: Any) -> Any:
        """The data of a `FederatedData` where the learner trains: as it is, unless that is another device."""
        return data

    def holding(self) -> AbstractContextManager[None]:
        """Within it nobody writes to what clients are sent."""
        return nullcontext()

    def summing(self, total: FixedPointSum) -> Any:
        """Who gates and adds updates where they are trained, into `total`; None: the host does."""
        return None

    def evaluate(self, params: Vector, examples: Examples) -> dict[str, float]:
        """Means over all `examples` (at least one) of the model's `scores`."""
        return {name: float(each.mean()) for name, each in self.scores(params, examples).items()}


class CohortLearner(Learner, Protocol):
    """A learner that can train many clients as one program."""

    def train_together(
        self,
        sent: Sent,
        examples: Examples,
        owned: Sequence[slice],
        draws: Draws,
        up: Stack,
        kept: Sequence[Mapping[str, Any] | None],
        steps: npt.NDArray[np.int64],
    ) -> Together:
        """Trains K clients, each of which gets what `train` gives it alone, to rounding.

        Args:
            sent: As in `train`, a row for each client: f32[K, size] and f32[K, trained]. It is not changed.
            examples: Of all clients of the data set.
            owned: Which of them are each client's.
            draws: Each client's only randomness.
            up: What goes up, f32[K, U, size].
            kept: Each client's lasting state.
            steps: i64[K], as in `train`.

        """
        ...
