"""One worker's share of the data plane: train a task, gate what comes out, fold it into a sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from muster.core.algorithm import Combine
from muster.core.errors import MusterError, TrainingError
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.store import encode
from muster.core.sums import LIMIT, FixedPointSum
from muster.core.tables import REPORT, Refusal, Table, rows
from muster.data.federated import FederatedData

from .learner import Learner


@dataclass(frozen=True)
class Folding:
    """How updates are weighed and added: the same for every worker of a run."""

    combine: Combine
    max_weight: float
    """The largest weight the rule can give; weights are divided by it before they are summed."""
    scale: int
    """Exponent of the fixed-point sums."""
    seed: int


@dataclass
class Trainer:
    """Trains tasks one after another with one working model and one accumulator.

    Args:
        learner: The working model.
        data: What the clients hold.
        folding: How updates are weighed and added.
        total: The sum that this worker adds to.

    """

    learner: Learner
    data: FederatedData
    folding: Folding
    total: FixedPointSum
    delta: Vector = field(init=False)

    def __post_init__(self) -> None:
        self.delta = self.learner.spec.zeros()

    def train(
        self, task: Table, staleness: int, sent: Vector, kept: Mapping[str, Any] | None
    ) -> tuple[Table, bytes | None]:
        """Trains one task and folds its update, unless the gate refuses it.

        Args:
            task: One TASK row.
            staleness: Versions between the model sent and the one that the update moves.
            sent: The model that the client got, f32[size].
            kept: The client's lasting state, None if it has none.

        Returns:
            One REPORT row, and the client's new lasting state if it is to be kept.

        Raises:
            TrainingError: Training raised; names the client and the task.

        """
        client, attempt = int(task["client"]), int(task["attempt"])
        examples = self.data.client(client)
        draw = rng(self.folding.seed, "train", client, attempt)
        try:
            trained = self.learner.train(sent, examples, draw, self.delta, kept)
            state = None if trained.kept is None else encode(trained.kept)
        except MusterError:
            raise
        except (Exception, SystemExit) as error:  # a user's exit() must not pass for the end of the run
            where = f"client {client}, task {int(task['ticket'])}, {len(examples)} examples"
            raise TrainingError(f"training failed at {where}: {type(error).__name__}: {error}") from error
        report = rows(
            REPORT,
            1,
            ticket=task["ticket"],
            client=client,
            num_examples=len(examples),
            num_steps=trained.num_steps,
            staleness=staleness,
            loss=trained.loss,
            loss_sq_mean=trained.loss_sq_mean,
        )
        weight = float(self.folding.combine.weights(report)[0]) / self.folding.max_weight
        refusal = gate(self.delta, weight)
        if refusal:
            report["refused"] = refusal
            return report, None
        self.total.add(self.delta, weight)
        return report, state


def gate(delta: Vector, weight: float) -> Refusal:
    """Whether an update may be folded: finite, no coordinate beyond LIMIT, a weight in [0, 1]."""
    # One pass: the extremes of a vector with a NaN are NaN.
    low, high = (float(delta.min()), float(delta.max())) if len(delta) else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Refusal.NON_FINITE
    if max(-low, high) > LIMIT:
        return Refusal.TOO_LARGE
    return Refusal.NONE if 0.0 <= weight <= 1.0 else Refusal.BAD_WEIGHT
