"""Keyed randomness: every draw names what it is for, so order and batching change nothing.

`rng(seed, "train", client, attempt)` is the same stream in every process, whatever else was drawn
before it. There is no global generator anywhere in Muster. Philox (Salmon et al., SC 2011) is a
counter-based generator: a key is all the state it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence


def key(seed: int, stream: str, *numbers: int) -> int:
    """A 128-bit key for `stream` (what the draw is for) and `numbers` (which of them).

    Names and numbers are hashed, so neighbouring keys share nothing.
    """
    text = f"{stream}:{int(seed)}:" + ":".join(str(int(n)) for n in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


class _Key(ISeedSequence):
    """Hands Philox its key. `Philox(key=...)` makes the same generator, but asks the system for entropy that
    it then throws away, which takes longer than most draws.
    """

    def __init__(self, key: int) -> None:
        self._words = np.frombuffer(key.to_bytes(16, "little"), np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        return self._words


def rng(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for one named draw, e.g. `rng(seed, "select", 17)`."""
    keyed = _Key(key(seed, stream, *numbers))
    return np.random.Generator(np.random.Philox(keyed))  # type: ignore[arg-type]  # any ISeedSequence will do


def keys(seed: int, stream: str, a: Sequence[int], b: Sequence[int]) -> npt.NDArray[np.uint64]:
    """`key(seed, stream, a[i], b[i])` for each i, u64[K, 2]: the lower half comes first."""
    begin = f"{stream}:{int(seed)}:"
    hashed = hashlib.blake2b
    pairs = [f"{begin}{x}:{y}".encode() for x, y in zip(a, b, strict=True)]
    return _words(b"".join([hashed(pair, digest_size=16).digest() for pair in pairs]))


def key_of(rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    """The key of a generator that `rng` has made and nobody has drawn from, u64[1, 2].

    Raises:
        ValueError: It has been drawn from, or is of another kind.
    """
    state = rng.bit_generator.state
    if state["bit_generator"] != "Philox" or state["buffer_pos"] != 4 or state["state"]["counter"].any():
        raise ValueError("this generator is no fresh one of muster.core.randomness.rng")
    return np.array(state["state"]["key"][None], np.uint64)


def _words(key: bytes) -> npt.NDArray[np.uint64]:
    return np.frombuffer(key, "<u8").astype(np.uint64).reshape(-1, 2)


class _Renewed:
    """One generator, as fresh as a new one for each key: four times as fast as making it."""

    def __init__(self) -> None:
        self._philox = np.random.Philox(_Key(0))  # type: ignore[arg-type]  # any ISeedSequence will do
        self._fresh = self._philox.state
        self._generator = np.random.Generator(self._philox)

    def __call__(self, key: npt.NDArray[np.uint64]) -> np.random.Generator:
        self._fresh["state"]["key"] = key
        self._philox.state = self._fresh
        return self._generator


class Rekeyed:
    """`rng(seed, stream, *numbers)` for one after the other. What it gives is good until the next call."""

    def __init__(self, seed: int, stream: str) -> None:
        self._seed, self._stream, self._renewed = seed, stream, _Renewed()

    def __call__(self, *numbers: int) -> np.random.Generator:
        """As fresh as a new one."""
        (words,) = _words(key(self._seed, self._stream, *numbers).to_bytes(16, "little"))
        return self._renewed(words)


class Draws:
    """The generators of `keys`, each made when it is asked for, and good until another one is.

    Args:
        keys: u64[K, 2].

    """

    def __init__(self, keys: npt.NDArray[np.uint64]) -> None:
        self.keys = keys

    @cached_property
    def _renewed(self) -> _Renewed:
        return _Renewed()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> np.random.Generator:
        return self._renewed(self.keys[i])


_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LAST_WORD = 0xFFFFFFFF
_LONG = 2**64 - 1
_LOW = np.uint64(_LAST_WORD)
_WORD = np.uint64(32)


def uniforms(
    seed: int, stream: str, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair (a[i], b[i]), f64[K]: the same pair, the same number.

    Philox4x32-10 over whole columns: keyed as `rng` is, without a generator a row.
    """
    if len(a) == 1:  # an asynchronous run asks for one at a time
        return np.array([uniform(seed, stream, int(a[0]), int(b[0]))])
    first, second = np.asarray(a, np.int64).view(np.uint64), np.asarray(b, np.int64).view(np.uint64)
    words = _philox([first & _LOW, first >> _WORD, second & _LOW, second >> _WORD], _key_of(seed, stream))
    bits = ((words[0] << _WORD) | words[1]) >> np.uint64(11)
    return np.asarray(bits * 2.0**-53, np.float64)


def uniform(seed: int, stream: str, a: int, b: int) -> float:
    """The number in [0, 1) for one pair: what `uniforms` has for it."""
    high, low = _philox_of([a & _LONG, b & _LONG], _key_of(seed, stream))
    return ((high << 32 | low) >> 11) * 2.0**-53


@lru_cache(maxsize=1024)
def _key_of(seed: int, stream: str) -> int:
    """The key of a stream whose draws are told apart by counters."""
    return key(seed, stream)


def _philox_of(pair: list[int], key: int) -> tuple[int, int]:
    """`_philox` for one pair, in Python's integers; the first two words."""
    c0, c1, c2, c3 = pair[0] & _LAST_WORD, pair[0] >> 32, pair[1] & _LAST_WORD, pair[1] >> 32
    k0, k1 = key & _LAST_WORD, (key >> 32) & _LAST_WORD
    by0, by1 = (int(m) for m in _MULTIPLIERS)
    for _ in range(10):
        low, high = c0 * by0, c2 * by1
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & _LAST_WORD, (low >> 32) ^ c3 ^ k1, low & _LAST_WORD
        k0, k1 = (k0 + _WEYL[0]) & _LAST_WORD, (k1 + _WEYL[1]) & _LAST_WORD
    return c0, c1


def _philox(c: list[npt.NDArray[np.uint64]], key: int) -> list[npt.NDArray[np.uint64]]:
    """Ten rounds of Philox4x32 on counters `c`, four columns of 32-bit words, with 64 bits of `key`."""
    keys = [key & _LAST_WORD, (key >> 32) & _LAST_WORD]
    for _ in range(10):
        low, high = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [
            (high >> _WORD) ^ c[1] ^ np.uint64(keys[0]),
            high & _LOW,
            (low >> _WORD) ^ c[3] ^ np.uint64(keys[1]),
            low & _LOW,
        ]
        keys = [(k + w) & _LAST_WORD for k, w in zip(keys, _WEYL, strict=True)]
    return c
