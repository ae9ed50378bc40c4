"""Phones drawn by seed, against the quantiles of the trace."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.devices.mobile import Mobile

NUM_CLIENTS = 200_000
SHARES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
# Of the 2,023 rows of the trace that could be recovered.
MS = (15, 19, 21, 24, 41, 148, 174, 189, 193)
KBPS = (1_076, 1_534, 1_858, 2_904, 6_343, 13_876, 32_383, 57_907, 115_252)
# Of the whole trace, 500,000 rows, read off its plots.
WHOLE_MS = (15, 19, 21, 24, 41, 147, 175, 190, 196)
WHOLE_KBPS = (1_059, 1_400, 1_817, 2_883, 6_088, 14_038, 32_779, 52_341, 99_647)


@pytest.fixture(scope="module")
def phones():
    return Mobile().draw(np.full(NUM_CLIENTS, 20, np.int32), seed=3)


@pytest.mark.parametrize(("share", "ms", "kbps"), list(zip(SHARES, MS, KBPS, strict=True)))
def test_the_quantiles_are_those_of_the_recovered_rows(phones, share, ms, kbps):
    assert np.quantile(phones.ms_per_example, share) == pytest.approx(ms, rel=0.02)
    assert np.quantile(phones.down_kbps, share) == pytest.approx(kbps, rel=0.03)


@pytest.mark.parametrize(("share", "ms", "kbps"), list(zip(SHARES, WHOLE_MS, WHOLE_KBPS, strict=True)))
def test_the_quantiles_are_near_those_of_the_whole_trace(phones, share, ms, kbps):
    # Links of the 2,023 rows are faster at both ends: by 10 % at 5 %, 11 % at 95 %, 16 % at 99 %.
    assert np.quantile(phones.ms_per_example, share) == pytest.approx(ms, rel=0.03)
    assert np.quantile(phones.down_kbps, share) == pytest.approx(kbps, rel=0.17 if share >= 0.95 else 0.11)


def distance(one, other):
    """Kolmogorov-Smirnov: the largest difference between two cumulative curves."""
    at = np.concatenate([one, other])
    curves = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (one, other)]
    return np.abs(curves[0] - curves[1]).max()


def test_the_distance_of_two_samples_by_hand():
    assert distance(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9])) == 0.25
    assert distance(np.array([1, 2]), np.array([3, 4])) == 1


@pytest.mark.skipif("MUSTER_DATA" not in os.environ, reason="MUSTER_DATA is not set")
def test_the_distance_to_the_recovered_rows_is_small(phones):
    file = Path(os.environ["MUSTER_DATA"]) / "traces" / "device_capacity_recovered.csv"
    _, ms, kbps = np.genfromtxt(file, delimiter=",", skip_header=1).T
    assert len(ms) == 2_023
    assert distance(ms, phones.ms_per_example) <= 0.05
    assert distance(kbps, phones.down_kbps) <= 0.05
    for share in np.arange(5, 96) / 100:
        assert np.quantile(phones.ms_per_example, share) == pytest.approx(np.quantile(ms, share), rel=0.05)
        assert np.quantile(phones.down_kbps, share) == pytest.approx(np.quantile(kbps, share), rel=0.05)


def test_the_extremes_are_those_of_the_trace(phones):
    assert phones.ms_per_example.min() == 15 and phones.ms_per_example.max() == 199
    assert 1_016.8 <= phones.down_kbps.min() < 1_020 and 195_000 < phones.down_kbps.max() <= 204_058


def test_milliseconds_are_whole_as_in_the_trace(phones):
    assert (phones.ms_per_example % 1 == 0).all()


def test_the_means_are_the_traces(phones):
    logs = np.log(phones.down_kbps.astype(np.float64))
    means = [phones.ms_per_example.mean(), phones.down_kbps.mean(), logs.mean(), logs.std()]
    assert means == pytest.approx([78.7, 14_213, 8.877, 1.117], rel=0.03)


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


def test_asymmetric_links_are_flashs():
    drawn = Mobile(links="asymmetric").draw(np.full(NUM_CLIENTS, 20, np.int32), 3)
    ratio = drawn.up_kbps / drawn.down_kbps
    # FLASH's 19 WiFi links: from 665 up, 6,708 down, to 5,141 up, 3,473 down; half have 0.707 and more.
    assert ratio.min() == pytest.approx(665 / 6_708, rel=0.01)
    assert ratio.max() == pytest.approx(5_141 / 3_473, rel=0.01)
    assert np.median(ratio) == pytest.approx(0.707, abs=0.005)


def test_an_option_changes_only_what_it_names(phones):
    other = Mobile(links="asymmetric", availability="diurnal").draw(phones.num_examples, 3)
    for column in ("ms_per_example", "down_kbps", "memory_mb"):
        assert (getattr(other, column) == getattr(phones, column)).all()
    assert (other.up_kbps != phones.up_kbps).mean() > 0.99
    assert phones.availability is None and other.availability is not None


def test_memory_is_that_of_phones_in_use_and_goes_with_speed(phones):
    sizes, counts = np.unique(phones.memory_mb, return_counts=True)
    assert (sizes / 1024).tolist() == [2, 3, 4, 6, 8, 12]
    # 138 models that FLASH's users had and its table knows with 2 GB and more: 19, 15, 59, 29, 15, 1.
    assert counts / NUM_CLIENTS == pytest.approx(np.array([19, 15, 59, 29, 15, 1]) / 138, abs=0.005)
    # 0.77 of them have the memory of their rank; ties make the correlation of ranks a little less.
    ranks = [np.argsort(np.argsort(x)) for x in (phones.memory_mb, -phones.ms_per_example)]
    assert 0.65 < np.corrcoef(*ranks)[0, 1] < 0.8


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("availability", ["always", "diurnal"])
def test_few_clients_are_clients(count, availability):
    drawn = Mobile(availability=availability).draw(np.full(count, 20, np.int32), 1)
    assert drawn.num_clients == len(drawn.ms_per_example) == len(drawn.memory_mb) == count


def test_a_million_phones_are_drawn_in_seconds():
    begin = time.perf_counter()
    drawn = Mobile(links="asymmetric", availability="diurnal").draw(np.full(1_000_000, 20, np.int32), 1)
    assert time.perf_counter() - begin < 10  # 1 s on an idle core
    assert drawn.num_clients == 1_000_000 and np.isfinite(drawn.up_kbps).all()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("links", "fast"),
        ("availability", "never"),
        ("num_traces", 0),
        ("num_traces", 2.5),
        ("zone_spread", 13),
    ],
)
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(FieldError, match=rf"mobile\.{field} "):
        Mobile(**{field: value})
