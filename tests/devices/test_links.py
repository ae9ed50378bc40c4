"""Links that vary in time: transfers by hand, and against a sum over small steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muster.core.errors import DataError
from muster.core.population import Population
from muster.core.tables import SECOND, TASK, rows
from muster.core.work import Work
from muster.devices.imported import Imported
from muster.devices.importers import import_traces
from muster.devices.links import Links, Series
from muster.devices.world import World

ONE = Series(np.array([36.0, 12.0, 0.0, 24.0, 8.0]), np.array([0, 4, 5]))
"""A trace of four seconds, 72 kbit in all, and one of a steady 8 kbit/s."""


def secs(series, row, at, kbit):
    (took,) = series.transfer(np.array([row]), np.array([round(at * SECOND)]), 1000.0 * kbit)
    return took / SECOND


@pytest.mark.parametrize(
    ("at", "kbit", "took"),
    [
        (0.0, 24, 24 / 36),
        (0.0, 36, 1.0),
        (
            0.5,
            40,
            2.5 + 10 / 24,
        ),  # 18 until 1 s, 12 until 2 s, nothing until 3 s, 10 of 24 in the fourth second
        (2.0, 12, 1.5),
        (3.0, 24, 1.0),
        (3.5, 30, 0.5 + 18 / 36),  # over the end of the trace
        (0.0, 72, 4.0),
        (1.0, 144, 8.0),  # twice round: the last of it passes as its second round's first second ends
        (4003.0, 12, 0.5),
        (1.0, 0, 0.0),
    ],
)
def test_a_transfer_by_hand(at, kbit, took):
    assert secs(ONE, 0, at, kbit) == pytest.approx(took, abs=2e-9)


def test_a_steady_link_takes_bits_over_speed_at_any_instant():
    for at in (0.0, 0.3, 17.9):
        assert secs(ONE, 1, at, 20) == pytest.approx(2.5, abs=2e-9)


def test_transfers_against_a_sum_over_milliseconds():
    draw = np.random.default_rng(1)
    lengths = [3, 1, 7]
    kbps = np.maximum(draw.integers(-20, 60, sum(lengths)), 0).astype(float)
    kbps[3] = 5.0
    series = Series(kbps, np.cumsum([0, *lengths]))
    for _ in range(60):
        row, at, kbit = int(draw.integers(3)), int(draw.integers(20_000)), float(draw.uniform(0.5, 120))
        own = kbps[series.offsets[row] : series.offsets[row + 1]]
        left, now = kbit, at
        while left > own[now // 1000 % len(own)] / 1000:
            left -= own[now // 1000 % len(own)] / 1000
            now += 1
        assert secs(series, row, at / 1000, kbit) == pytest.approx((now - at) / 1000, abs=2e-3)


def test_a_trace_that_lets_nothing_pass_is_refused():
    with pytest.raises(DataError, match="link trace 1 lets nothing pass"):
        Series(np.array([1.0, 0.0, 0.0]), np.array([0, 1, 3]))


def test_a_task_sends_when_it_has_trained():
    """Down 36 kbit from 0 s: 1 s; compute 3 x 1 example x 500 ms: until 2.5 s; up 12 kbit: 0.5 s of waiting
    for the fourth second, then half of it."""
    two = Links(ONE, np.array([0, 1]), np.array([0, 1]), np.zeros(2, np.int64))
    ones = np.ones(2, np.float32)
    who = Population(np.ones(2, np.int32), 500 * ones, 18 * ones, 18 * ones, links=two)
    at = World(who, Work(), 4_500, 1_500, 0.0, 0)
    for tasks in (rows(TASK, 2, client=[0, 1]), rows(TASK, 1)):
        timing = at.timing(tasks)[0]
        assert timing["down"] / SECOND == pytest.approx(1.0, abs=2e-9)
        assert timing["compute"] / SECOND == 1.5
        assert timing["up"] / SECOND == pytest.approx(1.0, abs=2e-9)
    shifted = replace(who, links=replace(two, shift=np.array([3 * SECOND, 0])))
    # From the fourth second on: 24 kbit in it, then 12 of 36.
    down = replace(at, population=shifted).timing(rows(TASK, 1))["down"]
    assert down[0] / SECOND == pytest.approx(1 + 12 / 36, abs=2e-9)


def test_clients_are_given_imported_links_at_instants_of_their_own(tmp_path):
    (tmp_path / "a.down").write_text("0\n5\n999\n1000\n3000\n3999\n")
    (tmp_path / "a.up").write_text("1\n1\n")
    import_traces([tmp_path / "a.down", tmp_path / "a.up"], tmp_path / "out")
    who = Imported(str(tmp_path / "out")).draw(np.ones(200, np.int32), 3)
    assert who.down_kbps.tolist() == [18] * 200 and who.up_kbps.tolist() == [24] * 200
    assert set((who.links.shift // SECOND).tolist()) == {0, 1, 2, 3}
    kbit = 1000.0
    took = who.links.down_ns(np.arange(200), np.zeros(200, np.int64), 12 * kbit) / SECOND
    # From the first second on 12 of 36, from the second 12 of 12, from the third half of the fourth.
    by_shift = dict(zip((who.links.shift // SECOND).tolist(), took.tolist(), strict=True))
    assert by_shift == pytest.approx({0: 1 / 3, 1: 1.0, 2: 1.5, 3: 0.5}, abs=2e-9)
    assert who.links.up_ns(np.arange(2), np.zeros(2, np.int64), 24 * kbit).tolist() == [SECOND] * 2
