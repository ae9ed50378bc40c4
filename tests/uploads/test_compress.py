"""Encodings: their bytes, what comes back, and that chance is fair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import FieldError
from muster.core.randomness import rng
from muster.uploads.half import Half
from muster.uploads.qsgd import BLOCK, QSGD
from muster.uploads.quantise import Quantise
from muster.uploads.top_k import TopK

ALL = [Half(), TopK(0.3), TopK(), Quantise(8), Quantise(16), QSGD(), QSGD(1), QSGD(4), QSGD(1000)]
CHANCE = [Quantise(8), QSGD(), QSGD(1), QSGD(4)]


def there_and_back(rule, vector, *key):
    vector = np.asarray(vector, np.float32)
    return rule.decode(rule.encode(vector, rng(1, "encode", *key)), len(vector))


@pytest.mark.parametrize("rule", ALL, ids=repr)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40))
@settings(deadline=None, derandomize=True, database=None, max_examples=20)
def test_an_encoding_has_the_bytes_that_are_counted_and_comes_back(rule, values):
    vector = np.array(values, np.float32)
    data = rule.encode(vector, rng(1, "encode"))
    assert len(data) == rule.num_bytes(len(vector))
    back = rule.decode(data, len(vector))
    assert back.dtype == np.float32 and back.shape == vector.shape
    assert (back[vector == 0] == 0).all() and (np.sign(back) * np.sign(vector) >= 0).all()


@pytest.mark.parametrize(
    ("rule", "num_bytes"),
    # 1,001 numbers: ten of 8 bytes; one and two bytes each and a scale; 8, 2, 4 bits each and a norm; 2.
    [
        (TopK(), 80),
        (Quantise(8), 1005),
        (Quantise(16), 2006),
        (QSGD(), 1005),
        (QSGD(1), 255),
        (QSGD(4), 505),
        (Half(), 2002),
    ],
    ids=repr,
)
def test_bytes_by_hand(rule, num_bytes):
    assert rule.num_bytes(1001) == num_bytes


def test_the_largest_are_sent_as_they_are():
    assert there_and_back(TopK(0.5), [1, -5, 0, 3, -1, 2]).tolist() == [0, -5, 0, 3, 0, 2]
    assert there_and_back(TopK(0.5), [2, 2, 2, 2]).tolist() == [2, 2, 0, 0]
    assert there_and_back(TopK(0.001), [1, -5]).tolist() == [0, -5]


def test_whole_steps_of_the_scale_come_back_exactly():
    values = np.array([127, -127, 1, 0, 63], np.float32) / 127
    assert there_and_back(Quantise(8), values) == pytest.approx(values, abs=1e-7)
    assert there_and_back(QSGD(5), [3, 4, 0, 0]).tolist() == [3, 4, 0, 0]  # levels 3 and 4 of 5, norm 5


def test_half_precision_rounds_to_the_nearest_of_eleven_bits():
    # 2^11 + 1 is a tie, which goes to the even 2^11; 1/3 = 1365.3 / 2^12.
    values = [2049, 1 / 3, 0.5, -3]
    assert there_and_back(Half(), values).tolist() == [2048, 1365 / 4096, 0.5, -3]


def test_blocks_of_qsgd_are_read_as_one():
    rule, vector = QSGD(5), rng(3, "vector").normal(size=2 * BLOCK + 3).astype(np.float32)
    whole, norm = there_and_back(rule, vector), float(np.linalg.norm(vector.astype(np.float64)))
    assert np.abs(whole - vector).max() <= norm / 5 * 1.0001
    assert (np.sign(whole[-3:]) * np.sign(vector[-3:]) >= 0).all()


@pytest.mark.parametrize("rule", CHANCE, ids=repr)
def test_quantisation_is_unbiased(rule):
    vector = np.array([0.9, -0.33, 0.05, -0.001, 0.0, 0.7], np.float32)
    many = np.stack([there_and_back(rule, vector, i) for i in range(4_000)]).astype(np.float64)
    error = many.std(axis=0) / np.sqrt(len(many))
    assert (np.abs(many.mean(axis=0) - vector) <= 4.5 * error + 1e-6).all()
    assert many.std(axis=0).max() > 1e-4  # there is chance in it


def test_a_finer_scale_errs_less():
    vector = rng(2, "vector").normal(size=500).astype(np.float32)
    errors = [np.abs(there_and_back(Quantise(bits), vector) - vector).max() for bits in (8, 16)]
    scale = np.abs(vector).max()
    assert errors[0] <= scale / 127 and errors[1] <= scale / 32_767


@pytest.mark.parametrize(
    ("part", "field"),
    [(TopK, {"share": 0.0}), (TopK, {"share": 1.5}), (Quantise, {"bits": 4}), (QSGD, {"levels": 0})],
)
def test_settings_that_make_no_sense_are_refused(part, field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"{part.part_name()}\.{name} is "):
        part(**field)
