"""The interface of compression: a vector to bytes and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from muster.core.params import Vector
from muster.core.part import Part


class Compress(Part, ABC):
    """How a vector is written for the way up: simulated, and on the wire. The clock uses `num_bytes`."""

    keeps: ClassVar[bool] = False
    """Whether the client remembers what was not sent, and adds it the next time (error feedback)."""

    @abstractmethod
    def num_bytes(self, size: int) -> int:
        """Bytes of every encoding of `size` numbers: what it is does not depend on their values."""

    @abstractmethod
    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """f32[size] as `num_bytes(size)` bytes; `rng` is the only randomness."""

    @abstractmethod
    def decode(self, data: bytes, size: int) -> Vector:
        """What the server makes of it, f32[size].

        The bytes may come from anybody, and are of the right length.

        Raises:
            ValueError: No vector is encoded so.
        """
