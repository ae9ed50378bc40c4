"""Sums by blocks have the bits of sums of whole updates, however the coordinates travel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.core.sums import BLOCK, FixedPointSum
from muster.learn.gate import extremes, norms
from muster.net import folding
from muster.net.folding import WIDTH, LaterSum, Shape
from muster.net.wire import Layout, Route, Stored, WireError, encode, write_file

SIZE = WIDTH + BLOCK + 17
STAYING = np.r_[5:40, WIDTH - 3 : WIDTH + 9]
"""Elements that do not travel; some lie on both sides of a block's edge."""


def stored(path: Path, route: Route, vectors: dict[str, Any]) -> Stored:
    layout = Layout(tuple((name, route.length) for name in vectors))
    write_file(path, encode(layout, {name: route.pick(vector) for name, vector in vectors.items()}))
    return Stored.of(path, layout)


def vector(seed: int, route: Route) -> Any:
    made, whole = (
        np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32),
        np.zeros(SIZE, np.float32),
    )
    route.put(route.pick(made), whole)
    return whole


@pytest.mark.parametrize("staying", [np.zeros(0, np.int64), STAYING], ids=["all travels", "some stays"])
def test_blocks_come_to_the_bits_of_the_whole(staying: Any, tmp_path: Path) -> None:
    route, trained = Route.of(SIZE, staying), SIZE - 9
    shape = Shape(("delta", "control"), route, trained)
    later, whole = LaterSum(shape, 40), FixedPointSum(2 * SIZE, 40)
    for i, weight in enumerate((0.25, 1.0, 0.7)):
        up = {"delta": vector(2 * i, route), "control": 3 * vector(2 * i + 1, route)}
        update = stored(tmp_path / str(i), route, up)
        both = np.stack(list(up.values()))
        largest, norm = shape.measured(update)
        assert largest == extremes(both.reshape(1, -1))
        assert norm == norms(both[:1, :trained])[0]
        later.add(update, weight, float(largest[0]))
        whole.add(both.reshape(-1), weight, float(largest[0]))
    assert later.take(1.95).tobytes() == whole.take(1.95).tobytes()
    later.clear()
    assert not later.take(1.0).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_in_any_block(bad: float, tmp_path: Path) -> None:
    route = Route.of(SIZE, np.zeros(0, np.int64))
    up = {"delta": vector(0, route), "control": vector(1, route)}
    up["control"][-1] = bad
    largest, _ = Shape(("delta", "control"), route, SIZE).measured(stored(tmp_path / "up", route, up))
    assert not np.isfinite(largest[0])


def test_an_update_that_is_cut_off_is_told(tmp_path: Path) -> None:
    route = Route.of(SIZE, np.zeros(0, np.int64))
    update = stored(tmp_path / "up", route, {"delta": vector(0, route)})
    with update.path.open("r+b") as file:
        file.truncate(4 * SIZE)
    with pytest.raises(WireError, match="has become shorter"):
        Shape(("delta",), route, SIZE).measured(update)


def test_a_block_is_small() -> None:
    assert folding.WIDTH % BLOCK == 0 and 4 * folding.WIDTH == 1 << 20
