"""Keyed randomness: every draw names what it is for, so order and batching change nothing.

`rng(seed, "train", client, attempt)` is the same stream in every process, whatever else was drawn
before it. There is no global generator anywhere in Muster. Philox (Salmon et al., SC 2011) is a
counter-based generator: a key is all the state it has.
"""

from __future__ import annotations

import hashlib

import numpy as np


def key(seed: int, stream: str, *numbers: int) -> int:
    """A 128-bit key for `stream` (what the draw is for) and `numbers` (which of them).

    Names and numbers are hashed, so neighbouring keys share nothing.
    """
    text = f"{stream}:{int(seed)}:" + ":".join(str(int(n)) for n in numbers)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """A generator of its own for one named draw, e.g. `rng(seed, "select", 17)`."""
    return np.random.Generator(np.random.Philox(key=key(seed, stream, *numbers)))
