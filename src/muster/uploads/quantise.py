"""Uniform stochastic quantisation: whole steps of a scale, rounded up or down by chance, so unbiased.

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnović: QSGD: Communication-Efficient SGD via Gradient
Quantization and Encoding. NIPS 2017, arXiv:1610.02132; here with the largest coordinate for the norm.

    scale = max |v| / (2^(bits - 1) - 1);  q = ⌊v / scale⌋ + Bernoulli(what is left);  sent: scale, q
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from muster.core.errors import FieldError
from muster.core.params import Vector

from .compress import Compress


@dataclass(frozen=True)
class Quantise(Compress):
    """Integers of 8 or 16 bits and one scale."""

    bits: Literal[8, 16] = 8
    """Of each coordinate."""

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise FieldError("quantise", "bits", self.bits, "8 or 16")

    def num_bytes(self, size: int) -> int:
        """One or two a coordinate, and four."""
        return size * self.bits // 8 + 4

    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """The scale (f32), then the integers."""
        most = float(2 ** (self.bits - 1) - 1)
        scale = np.float32(np.abs(vector).max(initial=0.0) / most)
        steps = vector / np.float64(scale) if scale > 0 else np.zeros(len(vector))
        low = np.floor(steps)
        whole = low + (rng.random(len(vector)) < steps - low)
        codes = np.clip(whole, -most, most).astype(f"<i{self.bits // 8}")
        return bytes(scale.astype("<f4").tobytes() + codes.tobytes())

    def decode(self, data: bytes, size: int) -> Vector:
        """scale · q."""
        scale = np.frombuffer(data, "<f4", 1)[0]
        whole = np.frombuffer(data, f"<i{self.bits // 8}", size, 4)
        with np.errstate(over="ignore", invalid="ignore"):  # a made-up scale: for the gate
            return np.asarray(whole.astype(np.float32) * scale, np.float32)
