"""A version that is made part by part has the bits of one that is made whole, in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.algorithms.fedavg import Add
from muster.core import storage
from muster.core.algorithm import Algorithm, Combine
from muster.core.storage import Storage
from muster.deploy.assembly import on_disk
from muster.learn.crew import Inline
from worlds.rig import NAMES, Rig, small
from worlds.toy import Wander

ON_DISK = (
    "asgd", "ditto", "esync", "fedadagrad", "fedadam", "fedavg", "fedavgm", "fedbn", "fedbuff", "feddyn",
    "fednova", "fedper", "fedprox", "fedrep", "fedsgd", "fedyogi", "oort", "pfedme", "power_of_choice",
    "qfedavg", "scaffold", "semi_sync", "ssgd", "ssp", "tifl",
)  # fmt: skip


class Parts(Inline):
    """A crew of which the sum can be had in parts."""

    _mean: Any = None

    @property
    def by_blocks(self) -> bool:
        """As of a deployed server: updates that a rule changes are whole."""
        return type(self._trainer.folding.combine).shift is Combine.shift

    def clear(self) -> None:
        super().clear()
        self._mean = None

    def part(self, number: int, part: slice, divisor: float) -> Any:
        if self._mean is None:
            self._mean = self.total().take(divisor).reshape(self._trainer.up.shape[1:])
        return self._mean[number, part]


def run(algorithm: Algorithm, **settings: Any) -> Rig:
    return Rig(algorithm, make_learner=lambda: Wander(size=61), **settings)


@pytest.mark.parametrize("name", NAMES)
def test_parts_have_the_bits_of_the_whole(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(storage, "WIDTH", 24)
    algorithm = small(name)
    whole, parted = run(algorithm), run(algorithm, make_crew=Parts)
    stored = run(algorithm, make_crew=Parts, storage=Storage(tmp_path))
    assert (parted.plane.in_parts, whole.plane.in_parts) == (name in ON_DISK, False)
    whole.run()
    assert parted.run().hash == stored.run().hash == whole.hash
    assert isinstance(stored.plane.params, np.memmap) == (name in ON_DISK)


def test_the_algorithms_that_run_with_a_model_on_disk_are_named() -> None:
    assert on_disk() == list(ON_DISK)


class Halved(Add):
    """Not a rule of single coordinates, though its parent is one."""

    def apply(self, params: Any, delta: Any, opt: Any, info: Any) -> Any:
        """Steps are short where any coordinate moves far."""
        return params + delta / (1 + abs(delta).max()), opt


def test_a_rule_that_is_written_anew_is_not_taken_for_one_of_single_coordinates(monkeypatch: Any) -> None:
    monkeypatch.setattr(storage, "WIDTH", 24)
    algorithm = small("fedavg").but(server=Halved())
    parted = run(algorithm, make_crew=Parts)
    assert not parted.plane.in_parts
    assert parted.run().hash == run(algorithm).run().hash
