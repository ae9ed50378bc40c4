"""A run without a model: the clock, the selection and the costs, with nothing trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from muster.core.randomness import uniforms
from muster.core.tables import MEASURED, REPORT, Ids, Table, rows
from muster.core.work import Work


@dataclass
class ClockOnly:
    """Stands in for the data plane.

    For a select that reads nothing and asks nobody the clock is exact. One that does gets surrogate losses
    by keyed draw: client i's loss at version v is (0.5 + u_i) · (0.2 + 2.1 / √(1 + v)), u_i in [0, 1) its
    own: some clients stay harder than others, and all improve; where it is asked for, the accuracy is
    e^-loss. They are marked as what they are.
    """

    num_examples: npt.NDArray[np.int32]
    work: Work
    seed: int
    surrogate: bool
    version: int = field(default=0)
    look_ahead: ClassVar[int] = 0

    def advance(
        self, tasks: Table, staleness: Ids, keep: Collection[int], coming: Table | None = None
    ) -> Table:
        """REPORT rows without training; the loss is NaN unless it is a surrogate."""
        clients = np.asarray(tasks["client"], np.int64)
        examples = np.asarray(self.num_examples[clients], np.int64)
        loss = self._losses(tasks) if self.surrogate else np.full(len(tasks), np.nan)
        self.version += 1
        return rows(
            REPORT,
            len(tasks),
            ticket=tasks["ticket"],
            client=clients,
            num_examples=examples,
            num_steps=self.work.num_steps(examples, tasks["steps"]),
            staleness=staleness,
            loss=loss,
            loss_sq_mean=loss**2,
        )

    def measure(self, tasks: Table) -> Table:
        """MEASURED rows by the curve."""
        clients, loss = tasks["client"], self._losses(tasks)
        return rows(
            MEASURED,
            len(tasks),
            ticket=tasks["ticket"],
            client=clients,
            num_examples=self.num_examples[clients],
            loss=loss,
            accuracy=np.exp(-loss),
        )

    def _losses(self, tasks: Table) -> npt.NDArray[np.float64]:
        """Surrogates for TASK rows."""
        clients = np.asarray(tasks["client"], np.int64)
        own = uniforms(self.seed, "surrogate loss", clients, np.zeros_like(clients))
        return np.asarray((0.5 + own) * (0.2 + 2.1 / np.sqrt(1.0 + tasks["version"])), np.float64)

    def evaluate(self) -> Mapping[str, float]:
        """There is no model."""
        return {}
