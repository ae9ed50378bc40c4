"""Classification: which of `num_classes` an example belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .cross_entropy import CrossEntropy, labels
from .task import Array, Index

if TYPE_CHECKING:
    from muster.core.examples import Examples, Facts


@dataclass(frozen=True)
class Classification(CrossEntropy):
    """Images or features to classes."""

    def batch(self, facts: Facts, examples: Examples, index: Index) -> tuple[Array, Array]:
        """Inputs f32[B, *input_shape], normalised as `facts` says; targets i64[B]."""
        raw = examples.x[index]
        scale = 1 / (255 * facts.std) if raw.dtype == np.uint8 else 1 / facts.std
        if raw.dtype == np.float32 and scale == 1.0 and isinstance(index, np.ndarray):
            inputs = np.asarray(raw)  # a copy already
        else:
            inputs = np.multiply(raw, np.float32(scale), dtype=np.float32)
        if facts.mean:
            inputs -= np.float32(facts.mean / facts.std)
        return inputs.reshape(-1, *facts.input_shape), labels(facts, examples, index)

    def blank(self, facts: Facts, count: int) -> Array:
        """Zeros f32[count, *input_shape]."""
        return np.zeros((count, *facts.input_shape), np.float32)
