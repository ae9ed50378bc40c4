import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.track.units import bytes_text, secs_text, share_text, short_count, time_unit, value_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_300_000, "1.3 MB"),
        (26_415_616, "26.4 MB"),
        (99_940_000, "99.9 MB"),
        (99_960_000, "100 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.0 GB"),
        (120_000_000_000, "120 GB"),
        (12_200_000_000_000, "12.2 TB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_are_decimal_and_short(num_bytes, text):
    assert bytes_text(num_bytes) == text


@pytest.mark.parametrize(
    ("secs", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (0, "0 s"),
        (0.0001, "< 1 ms"),
        (0.32, "320 ms"),
        (0.9996, "1.0 s"),
        (3.2, "3.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (124, "2 m 04 s"),
        (3599.6, "1 h 00 m"),
        (7440, "2 h 04 m"),
        (86399, "1 d 00 h"),
        (3 * 86400 + 4 * 3600, "3 d 04 h"),
        (-3.2, "-3.2 s"),
    ],
)
def test_durations_have_two_units_and_never_sixty_of_one(secs, text):
    assert secs_text(secs) == text


@given(st.floats(0, 1e9))
def test_no_duration_shows_sixty_seconds_or_minutes(secs):
    words = secs_text(secs).split()
    assert not {"60", "60.0"} & {n for n, unit in zip(words[::2], words[1::2], strict=False) if unit in "sm"}


def test_counts_and_shares():
    assert [short_count(n) for n in (950, 26_414, 999_960, 6_603_902)] == ["950", "26.4 k", "1.0 M", "6.6 M"]
    assert share_text(1, 8) == "12.5 %"
    assert share_text(0, 0) == "-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.0000"),
        (0.91234, "0.9123"),
        (12.345, "12.35"),
        (1234.5, "1234"),
        (0.00012, "1.20e-04"),
        (123456.0, "1.23e+05"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_values_have_four_digits(value, text):
    assert value_text(value) == text


def test_an_axis_of_two_hours_is_in_hours_and_one_of_less_in_minutes():
    assert time_unit(7200) == (3600.0, "hours")
    assert time_unit(7199) == (60.0, "minutes")
    assert time_unit(0) == (1.0, "seconds")
    assert time_unit(3 * 86400) == (86400.0, "days")
