"""What passes between data sets, models and tasks: examples as stored, and facts about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Facts:
    """What models and tasks must know of a data set. Kept in its store, readable without it."""

    name: str
    input_shape: tuple[int, ...]
    """One example as a model sees it: (1, 28, 28) an image, (64,) features, (80,) a window of text."""
    num_classes: int
    """Classes, or the size of the vocabulary."""
    mean: float = 0.0
    std: float = 1.0
    """Stored inputs become (input / 255 - mean) / std if uint8, else (input - mean) / std."""
    vocabulary: str = ""
    """Of a text: the characters, in the order of their codes."""


@dataclass(frozen=True)
class Examples:
    """Some examples as they are stored: zero-copy views of memory-mapped arrays.

    x: [N, ...] raw inputs (u8 or f32), or i64[N] positions in `text` at which windows start.
    y: i64[N] classes; of a text, the code of the character after the window.
    text: u8[...] codes of the whole text, shared by all clients; None where examples are not text.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    text: npt.NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def slice(self, start: int, stop: int) -> Examples:
        """Examples start..stop, as views."""
        return Examples(self.x[start:stop], self.y[start:stop], self.text)

    def joined(self, others: Sequence[Examples]) -> Examples:
        """These and those of others of the same data set as one, in arrays of their own."""
        x, y = (np.concatenate([getattr(each, name) for each in (self, *others)]) for name in ("x", "y"))
        return Examples(x, y, self.text)
