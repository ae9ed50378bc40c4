"""The accumulator alone: nobody trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.core.params import ParamSpec
from muster.core.sums import FixedPointSum
from muster.core.tables import REPORT, Refusal, rows
from muster.learn.accumulator import Accumulator, Folding
from muster.learn.passes import Passes
from muster.learn.states import State

SCALE, SIZE = 40, 32
SPEC = ParamSpec.of([("w", (SIZE,), "weight")])
NOW: dict[str, Any] = {"model": np.zeros(SIZE, np.float32), "tickets": np.array([3, 5, 8])}


def accumulator(combine: Mean, spill: Path | None = None) -> Accumulator:
    folding = Folding(combine, 4.0, SCALE, 0, SGD(), None if spill is None else str(spill))
    return Accumulator(folding, SPEC, FixedPointSum(SIZE, SCALE), Passes())


def gathered(it: Accumulator, *deltas: float) -> Any:
    """Reports of updates that have the same number everywhere, of 1, 2, ... examples."""
    count = len(deltas)
    reports = rows(REPORT, count, ticket=[3, 5, 8][:count], num_examples=np.arange(count) + 1)
    up = np.repeat(np.array(deltas, np.float32), SIZE).reshape(count, 1, SIZE)
    states = [State({"model": np.full(SIZE, 2, np.float32)}, None, {}) for _ in deltas]
    it.gather(reports, up, states, NOW)
    return reports, states


def test_updates_are_added_by_their_weights_and_a_refused_one_is_left_out() -> None:
    it = accumulator(Mean())
    reports, _ = gathered(it, 1.0, np.nan, 0.5)
    assert reports["refused"].tolist() == [Refusal.NONE, Refusal.NON_FINITE, Refusal.NONE]
    assert (it.total.total == 2**SCALE // 4 + 3 * 2**SCALE // 8).all()  # 1 of 4 and half of 3 of 4
    assert reports["norm"][[0, 2]] == pytest.approx([SIZE**0.5, 0.5 * SIZE**0.5])


@dataclass(frozen=True)
class Scaled(Mean):
    """Each update times `factor`; it remembers how often."""

    factor: float = 2.0

    def shift(self, up: Any, sent: Any, now: Any, report: Any, kept: Any) -> Any:
        """As the name says."""
        return {"delta": up["delta"] * np.float32(self.factor)}, {"times": kept.get("times", 0) + 1}


def test_a_rule_changes_updates_before_they_are_added_and_the_gate_looks_again() -> None:
    it = accumulator(Scaled())
    reports, states = gathered(it, 0.5, np.inf, 600.0)
    assert reports["refused"].tolist() == [Refusal.NONE, Refusal.NON_FINITE, Refusal.TOO_LARGE]
    assert (it.total.total == 2**SCALE // 4).all()
    assert [state.about for state in states] == [{"times": 1}, {}, {"times": 1}]


@dataclass(frozen=True)
class Every(Mean):
    """Needs all updates."""

    needs_all: ClassVar[bool] = True


def test_updates_wait_in_the_spill_file_in_the_order_of_their_tickets(tmp_path: Path) -> None:
    it = accumulator(Every(), tmp_path / "spill")
    gathered(it, 1.0, np.nan, 3.0)
    assert not it.total.total.any()
    read = np.fromfile(tmp_path / "spill", np.float32).reshape(-1, SIZE)
    assert read[[0, 2]].tolist() == [[1.0] * SIZE, [3.0] * SIZE]
