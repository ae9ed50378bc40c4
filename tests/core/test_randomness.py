"""Keyed randomness: the generator's published answers, and streams that are told apart."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.randomness import Draws, _philox, key, key_of, keys, rng, uniforms


@pytest.mark.parametrize(
    ("counter", "seed", "answer"),
    [  # the known-answer tests of Random123, philox4x32 10
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_its_published_answers(counter, seed, answer):
    columns = [np.full(3, word, np.uint64) for word in counter]
    words = _philox(columns, seed[0] | seed[1] << 32)
    for word, expected in zip(words, answer, strict=True):
        assert word.tolist() == [expected] * 3


def test_uniforms_are_the_upper_53_bits_of_the_first_two_words(monkeypatch):
    monkeypatch.setattr("muster.core.randomness.key", lambda seed, stream: 0)
    bits = 0x6627E8D5E169C58D >> 11
    assert uniforms(1, "x", np.array([0]), np.array([0])).tolist() == [bits / 2**53]


def test_a_stream_repeats_and_neighbours_differ():
    draws = {
        name: rng(*args).integers(0, 2**63, 4).tobytes()
        for name, args in {
            "plain": (1, "select", 5),
            "seed": (2, "select", 5),
            "stream": (1, "train", 5),
            "number": (1, "select", 6),
            "more": (1, "select", 5, 0),
            "none": (1, "select"),
            "split": (1, "select", 51, 0),
            "split elsewhere": (1, "select", 5, 10),
        }.items()
    }
    assert len(set(draws.values())) == len(draws)
    assert rng(1, "select", 5).integers(0, 2**63, 4).tobytes() == draws["plain"]


def test_a_key_does_not_depend_on_the_process():
    code = "from muster.core.randomness import key; print(key(7, 'train', 3, 1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == key(7, "train", np.int64(3), 1)
    assert 0 <= key(7, "train", 3, 1) < 2**128


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**31)), min_size=1, max_size=30))
def test_a_pair_has_one_number_whatever_stands_beside_it(pairs):
    a, b = (np.array(column, np.int64) for column in zip(*pairs, strict=True))
    whole = uniforms(3, "lost", a, b)
    alone = [uniforms(3, "lost", a[i : i + 1], b[i : i + 1])[0] for i in range(len(a))]
    assert whole.tolist() == alone
    assert (whole >= 0).all() and (whole < 1).all()


def test_negative_ids_and_no_ids_are_allowed():
    assert len(uniforms(0, "x", np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0
    assert 0 <= uniforms(0, "x", np.array([-1]), np.array([-5]))[0] < 1


def chi_square(values, cells):
    counts = np.bincount((values * cells).astype(int), minlength=cells)
    expected = len(values) / cells
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("stream", ["lost", "lost at", "surrogate loss"])
def test_uniforms_are_uniform(stream):
    a, b = np.divmod(np.arange(100_000), 50)
    draws = uniforms(11, stream, a, b)
    # 99 degrees of freedom: 148.2 is the 99.9 % quantile, 60.3 the 0.05 % one (not too even either).
    assert 60.3 < chi_square(draws, 100) < 148.2
    # So are the low bits, and the successor of a small number is not small again.
    assert 60.3 < chi_square(draws * 2**30 % 1, 100) < 148.2
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 3.3 / np.sqrt(len(draws))


def test_two_streams_and_two_seeds_are_independent():
    a, b = np.arange(100_000), np.zeros(100_000, np.int64)
    for other in (uniforms(1, "y", a, b), uniforms(2, "x", a, b), uniforms(1, "x", b, a)):
        assert abs(np.corrcoef(uniforms(1, "x", a, b), other)[0, 1]) < 3.3 / np.sqrt(len(a))


def test_a_generator_is_philox_with_that_key():
    """NumPy's own way to say so is slower."""
    for numbers in [(), (3,), (2**60, 7)]:
        mine, its = rng(5, "select", *numbers), np.random.Philox(key=key(5, "select", *numbers))
        assert str(mine.bit_generator.state) == str(its.state)
        assert mine.integers(0, 2**62, 9).tolist() == np.random.Generator(its).integers(0, 2**62, 9).tolist()


def test_draws_are_the_generators_of_their_keys():
    draws = Draws(keys(4, "train", [7, 2**40, 0], [0, 3, 1]))
    for i, pair in enumerate([(7, 0), (2**40, 3), (0, 1)]):
        mine, expected = draws[i], rng(4, "train", *pair)
        assert (key_of(mine) == draws.keys[i]).all() and (key_of(expected) == draws.keys[i]).all()
        assert mine.random(5).tolist() == expected.random(5).tolist()
    assert len(draws) == 3 and draws[1].random() == rng(4, "train", 2**40, 3).random()


def test_a_generator_that_has_been_drawn_from_has_no_key():
    used = rng(0, "train", 1)
    used.random()
    for generator in (used, np.random.default_rng(0)):
        with pytest.raises(ValueError, match="no fresh one"):
            key_of(generator)
