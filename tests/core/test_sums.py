"""Sums without an order: the same bits for every order and every split, and how near they are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.sums import BLOCK, LIMIT, FixedPointSum, scale_for

steady = settings(deadline=None, derandomize=True, database=None)

SCALES = [(1, 52), (2, 51), (3, 50), (10, 48), (16, 48), (17, 47), (1_000, 42), (1_024, 42), (1_025, 41)]


@pytest.mark.parametrize(("cohort", "scale"), SCALES)
def test_the_scale_by_hand(cohort, scale):
    # 62 - ceil(log2(cohort * 1024)): 10 updates need 14 bits above the point, 1,000 need 20.
    assert scale_for(cohort) == scale


@pytest.mark.parametrize(("cohort", "scale"), [*SCALES, (0, 52)])
def test_the_largest_sum_fits(cohort, scale):
    assert cohort * 1024 * 2**scale <= 2**62 < 2**63


@pytest.mark.parametrize("cohort", [1, 10, 1_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_overflow_at_the_limit(cohort, sign):
    total = FixedPointSum(2, scale_for(cohort))
    vector = np.array([sign * LIMIT, 0.0], np.float32)
    for _ in range(cohort):
        total.add(vector, 1.0)
    assert total.total.tolist() == [sign * 1024 * cohort * 2 ** scale_for(cohort), 0]
    assert total.take(cohort).tolist() == [sign * 1024.0, 0.0]


UPDATES = st.lists(
    st.tuples(
        st.lists(st.floats(-1024, 1024, width=32), min_size=3, max_size=3),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=10,
)


def summed(updates, scale=48):
    total = FixedPointSum(3, scale)
    for vector, weight in updates:
        total.add(np.array(vector, np.float32), weight)
    return total


@steady
@given(UPDATES, st.randoms(use_true_random=False), st.integers(1, 5))
def test_no_order_and_no_split_changes_a_bit(updates, random, workers):
    whole = summed(updates)
    mixed = random.sample(updates, len(updates))
    assert summed(mixed).total.tolist() == whole.total.tolist()
    shares = [FixedPointSum(3, 48) for _ in range(workers)]
    for vector, weight in mixed:
        random.choice(shares).add(np.array(vector, np.float32), weight)
    merged = FixedPointSum(3, 48)
    for share in random.sample(shares, workers):
        merged.merge(share.total)
    assert merged.total.tolist() == whole.total.tolist()
    assert merged.take(2.5).tobytes() == whole.take(2.5).tobytes()


@steady
@given(UPDATES)
def test_the_sum_is_near_the_exact_one(updates):
    # One term x = w·Δ·2^s: rounding the product to a double is off by at most |x|·2^-53, which is 32 units
    # for the largest Δ and less than one for |Δ| < 32; rounding it to an integer by at most 1/2.
    got = summed(updates).total.tolist()
    for column in range(3):
        terms = [Fraction(float(np.float32(v[column]))) * Fraction(w) * 2**48 for v, w in updates]
        bound = sum(abs(x) * Fraction(1, 2**53) + Fraction(1, 2) for x in terms)
        assert abs(got[column] - sum(terms)) <= bound


def test_one_update_that_float32_arithmetic_would_round_differently():
    # 0.1 in float32 is 13421773 / 2^27; a third of it at 2^48, to the nearest integer, in whole numbers:
    total = FixedPointSum(1, 48)
    total.add(np.array([0.1], np.float32), 1 / 3)
    assert abs(int(total.total[0]) - round(Fraction(13421773, 2**27) * Fraction(1 / 3) * 2**48)) <= 1


@pytest.mark.parametrize(("cohort", "size"), [(10, 1_000), (1_000, 50)])
def test_the_mean_is_the_float64_mean_to_float32(cohort, size):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(cohort, size)).astype(np.float32)
    weights = draw.uniform(size=cohort)
    total = FixedPointSum(size, scale_for(cohort))
    for vector, weight in zip(vectors, weights, strict=True):
        total.add(vector, float(weight))
    exact = weights @ vectors.astype(np.float64) / weights.sum()
    # K terms half a unit of 2^-s each, plus float64's own rounding in both; then one rounding to float32.
    bound = (cohort * 2.0 ** -(scale_for(cohort) + 1) + cohort * 8 * 2.0**-52) / weights.sum()
    error = np.abs(total.take(float(weights.sum())).astype(np.float64) - exact)
    assert (error <= bound + np.abs(exact) * 2.0**-24 + 2.0**-149).all()


def test_identical_updates_have_that_update_as_their_mean():
    vector = np.array([0.1, -1e-3, 1024.0, 3e-5, 0.0], np.float32)
    total = FixedPointSum(5, scale_for(7))
    for _ in range(7):
        total.add(vector, 1.0)
    # Half a unit of 2^-49 is 9e-16; only what is below a millionth could show it in float32.
    mean = total.take(7.0)
    assert mean[[0, 1, 2, 4]].tolist() == vector[[0, 1, 2, 4]].tolist()
    assert mean[3] == pytest.approx(vector[3], rel=2**-23)


def test_ties_are_rounded_to_even():
    total = FixedPointSum(4, 0)
    total.add(np.array([0.5, 1.5, 2.5, -0.5], np.float32), 1.0)
    assert total.total.tolist() == [0, 2, 2, 0]


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5]))
def test_blocks_leave_nothing_out(size):
    vector = np.arange(size, dtype=np.float32) % 1000
    total = FixedPointSum(size, scale_for(2))
    total.add(vector, 1.0)
    total.add(vector, 0.5)
    assert total.take(1.5).tolist() == vector.tolist()


def test_it_adds_to_the_array_it_is_given():
    memory = np.array([2**48, 0, 0])
    total = FixedPointSum(3, 48, out=memory)
    total.add(np.array([1.0, 2.0, 4.0], np.float32), 1.0)
    assert (memory / 2**48).tolist() == [2.0, 2.0, 4.0]
    total.clear()
    assert not memory.any()


def test_the_vector_is_not_changed():
    vector = np.array([1.0, 2.0], np.float32)
    vector.flags.writeable = False
    FixedPointSum(2, 48).add(vector, 0.3)
    assert vector.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("size", [3, BLOCK + 1, 8 * BLOCK + 100_000])
def test_what_was_taken_or_merged_is_zero(size):
    vector = np.random.default_rng(0).normal(size=size).astype(np.float32)
    one, other = FixedPointSum(size, 48), FixedPointSum(size, 48)
    for _ in range(2):  # pages that were given back are there again
        one.add(vector, 1.0)
        other.add(vector, 0.5)
        one.merge(other.total)
        assert not other.total.any()
        assert one.take(1.5).tolist() == vector.tolist()
        assert not one.total.any()
