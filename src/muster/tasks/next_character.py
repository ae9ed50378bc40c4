"""Next-character prediction: which character follows a window of text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from muster.core.errors import DataError

from .cross_entropy import CrossEntropy, labels
from .task import Array, Index

if TYPE_CHECKING:
    from muster.core.examples import Examples, Facts


@dataclass(frozen=True)
class NextCharacter(CrossEntropy):
    """Windows of characters to the character after them; the classes are the vocabulary."""

    def batch(self, facts: Facts, examples: Examples, index: Index) -> tuple[Array, Array]:
        """Inputs i64[B, window], codes of the text from each start on; targets i64[B].

        Raises:
            DataError: The examples are no text, or a code is outside the vocabulary.
        """
        if examples.text is None:
            raise DataError(
                f"task next_character needs a text, but {facts.name} has none; use classification"
            )
        windows = examples.x[index][:, None] + np.arange(facts.input_shape[0])
        inputs = examples.text[windows].astype(np.int64)
        if inputs.size and inputs.max() >= facts.num_classes:
            raise DataError(
                f"{facts.name} has the character code {inputs.max()}, but must be 0..{facts.num_classes - 1}"
            )
        return inputs, labels(facts, examples, index)

    def blank(self, facts: Facts, count: int) -> Array:
        """Zeros i64[count, window]."""
        return np.zeros((count, *facts.input_shape), np.int64)
