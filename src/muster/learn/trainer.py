"""One worker's share of the data plane: train a task, gate what comes out, fold it into a sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster.core.algorithm import Combine, Local, Vectors
from muster.core.errors import MusterError, TrainingError
from muster.core.params import Vector
from muster.core.randomness import rng
from muster.core.store import encode
from muster.core.sums import BLOCK, LIMIT, FixedPointSum
from muster.core.tables import REPORT, Refusal, Table, rows
from muster.data.federated import FederatedData

from .learner import Learner, Matrix, Sent, Trained
from .spill import Spill

PERSONAL = "personal"
"""In a client's lasting state: the entries of the model that stay with it, one after another."""
ABOUT = "server/"
"""Prefix of what the server's rule remembers about a client."""


@dataclass(frozen=True)
class Folding:
    """How updates are weighed and added: the same for every worker of a run."""

    combine: Combine
    max_weight: float
    """The largest weight the rule can give; weights are divided by it before they are summed."""
    scale: int
    """Exponent of the fixed-point sums."""
    seed: int
    local: Local
    """The clients' rule: what it sends, keeps and wants to be measured."""
    spill: str | None = None
    """File in which updates wait for a rule that must see all of them."""


@dataclass
class Trainer:
    """Trains tasks one after another with one working model and one accumulator.

    Args:
        learner: The working model.
        data: What the clients hold.
        folding: How updates are weighed and added.
        total: The sum that this worker adds to: of the vectors that go up, one after another.

    """

    learner: Learner
    data: FederatedData
    folding: Folding
    total: FixedPointSum
    up: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.up = np.zeros((len(self.folding.local.up), self.learner.spec.size), np.float32)

    @cached_property
    def personal(self) -> npt.NDArray[np.int64]:
        """Where the entries that stay at the client lie in the model's vector."""
        spec = self.learner.spec
        return spec.places(self.folding.local.personal(spec))

    @cached_property
    def spill(self) -> Spill:
        """Where updates wait if the rule must see all of them."""
        assert self.folding.spill is not None
        return Spill(Path(self.folding.spill), self.learner.spec.size)

    def train(
        self, task: Table, staleness: int, sent: Sent, kept: Mapping[str, Any] | None, now: Sent
    ) -> tuple[Table, bytes | None]:
        """Trains one task and folds its update, unless the gate refuses it.

        Args:
            task: One TASK row.
            staleness: Versions between the model sent and the one that the update moves.
            sent: What the client got, by name: the `model` f32[size], other vectors f32[trained].
            kept: The client's lasting state, None if it has none.
            now: What the combination's rule may look at.

        Returns:
            One REPORT row, and the client's new lasting state if it is to be kept.

        Raises:
            TrainingError: Training raised; names the client and the task.

        """
        examples = self.data.client(int(task["client"]))
        try:
            received, mine, about = self.received(sent, kept)
            draw = rng(self.folding.seed, "train", int(task["client"]), int(task["attempt"]))
            trained = self.learner.train(received, examples, draw, self.up, mine, int(task["steps"]))
            before = np.nan
            if self.folding.local.needs_loss and len(examples):
                before = self.learner.evaluate(received["model"], examples)["loss"]
            report = rows(
                REPORT,
                1,
                ticket=task["ticket"],
                client=task["client"],
                num_examples=len(examples),
                num_steps=trained.num_steps,
                staleness=staleness,
                loss=trained.loss,
                loss_sq_mean=trained.loss_sq_mean,
                loss_before=before,
                a_norm=self.folding.local.worth(trained.num_steps),
            )
            lasting = self.lasting(trained, received, self.up, mine)
            about = self.fold(report, self.up, received, about, now)
            if report["refused"][0] or (lasting is None and not about):
                return report, None
            whole = {
                **(lasting or mine or {}),
                **{f"{ABOUT}{name}": np.asarray(v) for name, v in about.items()},
            }
            return report, encode(whole)
        except MusterError:
            raise
        except (Exception, SystemExit) as error:  # a user's exit() must not pass for the end of the run
            where = f"client {int(task['client'])}, task {int(task['ticket'])}, {len(examples)} examples"
            raise TrainingError(f"training failed at {where}: {type(error).__name__}: {error}") from error

    def received(
        self, sent: Sent, kept: Mapping[str, Any] | None
    ) -> tuple[Sent, Mapping[str, Any] | None, Vectors]:
        """What a client trains from: what it was sent, with its own entries in their places.

        Returns:
            The vectors; what the client's rule has kept, and what the server's rule has of the client.

        """
        if kept is None:
            return sent, None, {}
        about = {name.removeprefix(ABOUT): v for name, v in kept.items() if name.startswith(ABOUT)}
        mine = {name: v for name, v in kept.items() if not name.startswith(ABOUT)}
        if len(self.personal) and PERSONAL in mine:
            model = np.array(sent["model"])
            model[self.personal] = mine.pop(PERSONAL)
            sent = {**sent, "model": model}
        return sent, mine, about

    def lasting(
        self, trained: Trained, received: Sent, up: Matrix, mine: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        """The client's lasting state after a task. Its own entries are taken out of the update, `up`."""
        if not len(self.personal) or trained.num_steps == 0:
            return trained.kept
        kept = {**(mine or {}), **(trained.kept or {})}
        kept[PERSONAL] = received["model"][self.personal] + up[0, self.personal]
        up[:, self.personal] = 0.0
        return kept

    def fold(self, report: Table, up: Matrix, received: Sent, about: Vectors, now: Sent) -> Vectors:
        """Gates, transforms, weighs and adds one update.

        Args:
            report: Its REPORT row (one); norm and refusal are written into it.
            up: Its vectors, f32[U, size]; they may be changed.
            received: What the client trained from.
            about: What the rule remembers of the client.
            now: What the rule may look at.

        Returns:
            What the rule remembers of the client from now on.

        """
        folding, trained = self.folding, self.learner.spec.trained
        combine, names = folding.combine, folding.local.up
        report["norm"] = norm(up[0, :trained])
        weight = float(combine.weights(report)[0]) / folding.max_weight
        report["refused"] = gate(up, weight)
        if report["refused"][0]:
            return about
        vectors = {name: row[:trained] for name, row in zip(names, up, strict=True)}
        shifted, about = combine.shift(
            vectors, prefix(received, trained), prefix(now, trained), report[0], about
        )
        for name, vector in shifted.items():
            vectors[name][:] = vector
        if shifted:
            report["refused"] = gate(up, weight)
        if report["refused"][0]:
            return about
        if combine.needs_all:
            self.spill.write(int(np.searchsorted(now["tickets"], report["ticket"][0])), up[0])
        else:
            self.total.add(up.reshape(-1), weight)
        return about


def prefix(vectors: Sent, trained: int) -> Sent:
    """The same with the model's vector cut to what rules see of it."""
    return {name: v[:trained] if name == "model" else v for name, v in vectors.items()}


def norm(vector: Vector) -> float:
    """Euclidean norm, in float64 and in an order that no number of threads changes."""
    squares = 0.0
    for start in range(0, len(vector), BLOCK):
        squares += float(np.square(vector[start : start + BLOCK], dtype=np.float64).sum())
    return sqrt(squares)


def gate(up: Matrix, weight: float) -> Refusal:
    """Whether an update may be folded: finite, no coordinate beyond LIMIT, a weight in [0, 1]."""
    # One pass: the extremes of a vector with a NaN are NaN.
    low, high = (float(up.min()), float(up.max())) if up.size else (0.0, 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Refusal.NON_FINITE
    if max(-low, high) > LIMIT:
        return Refusal.TOO_LARGE
    return Refusal.NONE if 0.0 <= weight <= 1.0 else Refusal.BAD_WEIGHT
