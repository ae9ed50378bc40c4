"""Top-k with error feedback: the largest coordinates are sent, the others are remembered.

S. U. Stich, J.-B. Cordonnier, M. Jaggi: Sparsified SGD with Memory. NeurIPS 2018, arXiv:1809.07599.

    p = Δ + e;  sent: the k coordinates of p of largest size;  e ← p - sent
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from muster.core.params import Vector

from .compress import Compress


@dataclass(frozen=True)
class TopK(Compress):
    """The largest coordinates, each as its place (u32) and its value (f32)."""

    share: float = 0.01
    """Share of the coordinates that is sent; one at least."""

    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.check_number("share", above=0, at_most=1)

    def count(self, size: int) -> int:
        """k."""
        return min(size, max(1, round(self.share * size)))

    def num_bytes(self, size: int) -> int:
        """Eight a coordinate."""
        return 8 * self.count(size)

    def encode(self, vector: Vector, rng: np.random.Generator) -> bytes:
        """Places in growing order, then values. Of equals the first is sent."""
        count = self.count(len(vector))
        length = np.abs(vector)
        least = np.partition(length, len(vector) - count)[len(vector) - count]
        above, equal = np.flatnonzero(length > least), np.flatnonzero(length == least)
        places = np.sort(np.concatenate([above, equal[: count - len(above)]]))
        return bytes(places.astype("<u4").tobytes() + vector[places].astype("<f4").tobytes())

    def decode(self, data: bytes, size: int) -> Vector:
        """Zero where nothing was sent."""
        count, vector = self.count(size), np.zeros(size, np.float32)
        places = np.frombuffer(data, "<u4", count)
        if count and (places[-1] >= size or (places[1:] <= places[:-1]).any()):
            raise ValueError(f"places must rise within 0..{size - 1}")
        vector[places] = np.frombuffer(data, "<f4", count, 4 * count)
        return vector
