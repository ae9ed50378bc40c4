"""QSGD: each coordinate as a sign and a level between 0 and the vector's norm, by chance, so unbiased.

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnović: QSGD: Communication-Efficient SGD via Gradient
Quantization and Encoding. NIPS 2017, arXiv:1610.02132, section 3.1, with levels of fixed length.

    l = ⌊s |v_i| / ‖v‖⌋;  v_i → ‖v‖ sgn(v_i) (l + Bernoulli(s |v_i| / ‖v‖ - l)) / s
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from muster.core.params import Vector

from .compress import Compress

BLOCK = 1 << 16
"""Coordinates that are unpacked in one go, a multiple of 8: their bits take sixteen times their bytes."""


@dataclass(frozen=True)
class QSGD(Compress):
    """The norm, and a sign and a level of each coordinate, packed bit by bit."""

    levels: int = 127
    """How many there are beside 0 (the paper's s); 127 makes a byte a coordinate, 1 two bits."""

    def __post_init__(self) -> None:
        self.check_number("levels", at_least=1, at_most=2**15 - 1)

    @property
    def width(self) -> int:
        """Bits of a coordinate: one for its sign."""
        return 1 + self.levels.bit_length()

    def num_bytes(self, size: int) -> int:
        """Whole bytes of bits, and four."""
        return -(-size * self.width // 8) + 4

    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """The norm (f32), then the bits."""
        norm = np.float32(sqrt(float(np.square(vector, dtype=np.float64).sum())))
        share = np.abs(vector) * (self.levels / np.float64(norm)) if norm > 0 else np.zeros(len(vector))
        low = np.floor(share)
        level = np.minimum(low + (rng.random(len(vector)) < share - low), self.levels).astype(np.uint16)
        codes = level << 1 | (vector < 0)
        bits = codes[:, None] >> np.arange(self.width, dtype=np.uint16) & 1
        return bytes(norm.astype("<f4").tobytes() + np.packbits(bits.astype(np.uint8)).tobytes())

    def decode(self, data: bytes, size: int) -> Vector:
        """‖v‖ sgn l / s."""
        step = np.float64(np.frombuffer(data, "<f4", 1)[0]) / self.levels
        packed, vector = np.frombuffer(data, np.uint8, offset=4), np.empty(size, np.float32)
        weights = 1 << np.arange(self.width, dtype=np.int64)
        for start in range(0, size, BLOCK):
            part = vector[start : start + BLOCK]
            first, last = start * self.width // 8, -(-(start + len(part)) * self.width // 8)
            bits = np.unpackbits(packed[first:last], count=len(part) * self.width)
            codes = bits.reshape(len(part), self.width) @ weights
            signed = np.where(codes & 1, -1.0, 1.0) * (codes >> 1)
            with np.errstate(over="ignore", invalid="ignore"):  # a made-up norm: the gate refuses it
                part[:] = signed * step
        return vector
