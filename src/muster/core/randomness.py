"""Keyed randomness: every draw names what it is for, so order and batching change nothing.

`rng(seed, "train", client, attempt)` is the same stream in every process, whatever else was drawn
before it. There is no global generator anywhere in Muster. Philox (Salmon et al., SC 2011) is a
counter-based generator: a key is all the state it has.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt


def key(seed: int, stream: str, *numbers: int) -> int:
    """A 128-bit key for `stream` (what the draw is for) and `numbers` (which of them).

    Names and numbers are hashed, so neighbouring keys share nothing.
    """
    text = f"{stream}:{int(seed)}:" + ":".join(str(int(n)) for n in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for one named draw, e.g. `rng(seed, "select", 17)`."""
    return np.random.Generator(np.random.Philox(key=key(seed, stream, *numbers)))


_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


def uniforms(
    seed: int, stream: str, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each pair (a[i], b[i]), f64[K]: the same pair, the same number.

    Philox4x32-10 over whole columns: what `rng` would give row by row, without a generator a row.
    """
    start = key(seed, stream)
    keys = [start & 0xFFFFFFFF, (start >> 32) & 0xFFFFFFFF]
    first, second = np.asarray(a, np.int64).view(np.uint64), np.asarray(b, np.int64).view(np.uint64)
    c = [first & _LOW, first >> _WORD, second & _LOW, second >> _WORD]
    for _ in range(10):
        low, high = c[0] * _MULTIPLIERS[0], c[2] * _MULTIPLIERS[1]
        c = [
            (high >> _WORD) ^ c[1] ^ np.uint64(keys[0]),
            high & _LOW,
            (low >> _WORD) ^ c[3] ^ np.uint64(keys[1]),
            low & _LOW,
        ]
        keys = [(k + w) & 0xFFFFFFFF for k, w in zip(keys, _WEYL, strict=True)]
    bits = ((c[0] << _WORD) | c[1]) >> np.uint64(11)
    return np.asarray(bits * 2.0**-53, np.float64)
