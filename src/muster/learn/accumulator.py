"""A worker's accumulator: gates updates, weighs them and adds them to one running sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muster.core.algorithm import Combine, Local
from muster.core.params import ParamSpec
from muster.core.sums import FixedPointSum
from muster.core.tables import Table
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress

from .gate import judged
from .learner import Matrix, Sent, Stack
from .passes import Passes
from .spill import Spill
from .states import State, prefix

if TYPE_CHECKING:
    from .device_sum import DeviceSum


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
    compress: Compress | None = None
    """How vectors are written for the way up; None: as they are."""
    attack: Attack | None = None
    """What some of the clients do instead of what they should."""


@dataclass
class Accumulator:
    """Gates, transforms, weighs and adds updates, by the combination's rule.

    Args:
        folding: How.
        spec: Layout of the model.
        total: The sum that is added to: of the vectors that go up, one after another.
        passes: Over updates, in NumPy or compiled.

    """

    folding: Folding
    spec: ParamSpec
    total: FixedPointSum
    passes: Passes

    @cached_property
    def spill(self) -> Spill:
        """Where updates wait if the rule must see all of them."""
        assert self.folding.spill is not None
        return Spill(Path(self.folding.spill), self.spec.size)

    def gather(self, reports: Table, up: Stack, states: Sequence[State], now: Sent) -> None:
        """Gates, transforms, weighs and adds updates as they have come in.

        Args:
            reports: Their REPORT rows; the norms, and why some are refused, are written into them.
            up: The vectors, f32[K, U, size]; they may be changed.
            states: What the clients received and what is kept of them; what the rule remembers is changed.
            now: What the rule may look at.

        """
        folding, combine = self.folding, self.folding.combine
        passes, flat = self.passes, up.reshape(len(up), -1)
        reports["norm"] = passes.norms(up[:, 0, : self.spec.trained])
        weights = combine.weights(reports) / folding.max_weight
        largest = passes.extremes(flat)
        reports["refused"] = judged(largest, weights)
        if combine.shifts:
            for report, vectors, state in zip(reports, up, states, strict=True):
                if not report["refused"]:
                    self._shift(report, vectors, state, now)
            refused = reports["refused"].copy()
            largest = passes.extremes(flat)
            reports["refused"] = np.where(refused, refused, judged(largest, weights))
        good = reports["refused"] == 0
        if combine.needs_all:
            places = np.searchsorted(now["tickets"], reports["ticket"])
            for i in np.flatnonzero(good).tolist():
                self.spill.write(int(places[i]), up[i, 0])
        elif good.any():
            every = good.all()
            rest, of = (flat, weights) if every else (flat[good], weights[good])
            passes.add(self.total, rest, of, float(largest[good].max()))

    def gather_there(self, reports: Table, up: Any, there: DeviceSum) -> None:
        """`gather` of updates f32[K, U, size] that lie on a device, where `there` adds them."""
        reports["norm"], largest = there.measure(up, self.spec.trained)
        weights = self.folding.combine.weights(reports) / self.folding.max_weight
        reports["refused"] = judged(largest, weights)
        good = np.flatnonzero(reports["refused"] == 0)
        if len(good):
            there.add_all(up if len(good) == len(up) else up[good.tolist()], weights[good])

    def _shift(self, report: Table, up: Matrix, state: State, now: Sent) -> None:
        """Has the rule transform one update in place, and notes what it remembers of the client."""
        trained = self.spec.trained
        vectors = {name: row[:trained] for name, row in zip(self.folding.local.up, up, strict=True)}
        shifted, state.about = self.folding.combine.shift(
            vectors, prefix(state.received, trained), prefix(now, trained), report, state.about
        )
        for name, vector in shifted.items():
            vectors[name][:] = vector
