"""Phones drawn by seed, against the quantiles of the trace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.devices.mobile import Mobile

NUM_CLIENTS = 200_000
SHARES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
# Of the whole trace, 500,000 rows, read off its plots.
MS = (15, 19, 21, 24, 41, 147, 175, 190, 196)
KBPS = (1_059, 1_400, 1_817, 2_883, 6_088, 14_038, 32_779, 52_341, 99_647)


@pytest.fixture(scope="module")
def phones():
    return Mobile().draw(np.full(NUM_CLIENTS, 20, np.int32), seed=3)


@pytest.mark.parametrize(("share", "ms", "kbps"), list(zip(SHARES, MS, KBPS, strict=True)))
def test_the_quantiles_are_those_of_the_trace(phones, share, ms, kbps):
    # The share of draws below the trace's quantile is `share`, but for chance: 4 standard deviations.
    tolerance = 4 * np.sqrt(share * (1 - share) / NUM_CLIENTS)
    assert np.mean(phones.down_kbps < kbps) == pytest.approx(share, abs=tolerance)
    if share > 0.01:  # the trace's minimum is also its 1 % quantile, 15 ms
        assert np.mean(phones.ms_per_example < ms) == pytest.approx(share, abs=tolerance)


def test_the_extremes_are_those_of_the_trace(phones):
    assert phones.ms_per_example.min() == 15 and 198.9 < phones.ms_per_example.max() <= 199
    assert 1_017 <= phones.down_kbps.min() < 1_020 and 195_000 < phones.down_kbps.max() <= 204_058


def test_the_means_are_those_of_lines_between_the_quantiles_and_near_the_traces(phones):
    shares = np.diff((0, *SHARES, 1))
    ms, kbps = (15, *MS, 199), (1_017, *KBPS, 204_057)
    # Milliseconds grow evenly from quantile to quantile, links geometrically: (b - a) / ln(b / a) on average.
    mean_ms = shares @ [(a + b) / 2 for a, b in pairwise(ms)]
    mean_kbps = shares @ [(b - a) / np.log(b / a) for a, b in pairwise(kbps)]
    mean_log = shares @ [(np.log(a) + np.log(b)) / 2 for a, b in pairwise(kbps)]
    for drawn, mean in (
        (phones.ms_per_example.astype(np.float64), mean_ms),
        (phones.down_kbps.astype(np.float64), mean_kbps),
        (np.log(phones.down_kbps.astype(np.float64)), mean_log),
    ):
        assert drawn.mean() == pytest.approx(mean, abs=4 * drawn.std() / np.sqrt(NUM_CLIENTS))
    # The trace itself has means of 78.7 ms, 14,213 kbit/s and 8.877: eleven points cost 4 % at most.
    assert [mean_ms, mean_kbps, mean_log] == pytest.approx([78.7, 14_213, 8.877], rel=0.04)


def test_compute_and_link_are_independent_and_the_link_serves_both_ways(phones):
    both = np.corrcoef(phones.ms_per_example, np.log(phones.down_kbps))[0, 1]
    assert abs(both) < 4 / np.sqrt(NUM_CLIENTS)
    assert (phones.down_kbps == phones.up_kbps).all()


def test_columns_are_narrow(phones):
    types = {phones.ms_per_example.dtype, phones.down_kbps.dtype, phones.up_kbps.dtype}
    assert types == {np.dtype(np.float32)} and phones.num_examples.dtype == np.int32


def test_the_same_seed_gives_the_same_phones_and_another_others():
    examples = np.full(50, 20, np.int32)
    one, again, other = (Mobile().draw(examples, seed) for seed in (1, 1, 2))
    for column in ("ms_per_example", "down_kbps"):
        assert getattr(one, column).tobytes() == getattr(again, column).tobytes()
        assert getattr(one, column).tobytes() != getattr(other, column).tobytes()


def test_more_clients_leave_the_first_ones_as_they_are():
    few, many = (Mobile().draw(np.full(n, 20, np.int32), 1) for n in (50, 500))
    assert (many.ms_per_example[:50] == few.ms_per_example).all()
    assert (many.down_kbps[:50] == few.down_kbps).all()


@pytest.mark.parametrize("dropout", [-0.1, 1.1, float("nan"), True, "much"])
def test_a_chance_is_between_0_and_1(dropout):
    with pytest.raises(FieldError, match=r"mobile\.dropout .* at least 0 and at most 1"):
        Mobile(dropout=dropout)
