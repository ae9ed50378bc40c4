"""Half precision: each coordinate as the nearest number of 16 bits (IEEE 754 binary16)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muster.core.params import Vector

from .compress import Compress


@dataclass(frozen=True)
class Half(Compress):
    """Half the bytes, eleven significant bits; beyond 65,504 there is infinity, which the gate refuses."""

    def num_bytes(self, size: int) -> int:
        """Two a coordinate."""
        return 2 * size

    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """Rounded to the nearest, ties to even; nothing is drawn."""
        with np.errstate(over="ignore"):
            return vector.astype("<f2").tobytes()

    def decode(self, data: bytes, size: int) -> Vector:
        """Exactly."""
        return np.frombuffer(data, "<f2", size).astype(np.float32)
