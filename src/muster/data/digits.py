"""Digits: 1,797 real handwritten digits that come with scikit-learn; no file and no network needed.

Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI), test part: 8 x 8 pixels,
each 0..16.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Sequence

import numpy as np

from muster.core.errors import DataError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.data.dataset import DataSet, Raw
from muster.data.partition import Dirichlet, Partition

SPLIT_SEED = 0


@dataclass(frozen=True)
class Digits(DataSet):
    """Scikit-learn's handwritten digits, f32[1, 8, 8] in 0..1, ten classes.

    The test split is stratified and always the same: it does not depend on the job's seed.
    """

    task: ClassVar[str] = "classification"
    partition: Partition = field(default_factory=Dirichlet)
    test_fraction: float = 0.2
    """Share of each class that is kept for testing."""

    def __post_init__(self) -> None:
        self.check_number("test_fraction", at_least=0.01, at_most=0.9)

    def sources(self) -> Sequence[Path]:
        """The table inside scikit-learn, found without importing it."""
        spec = find_spec("sklearn")
        for place in (spec.submodule_search_locations or []) if spec else []:
            table = Path(place) / "datasets" / "data" / "digits.csv.gz"
            if table.is_file():
                return (table,)
        raise DataError(
            "digits comes with scikit-learn, which is not installed here: pip install scikit-learn"
        )

    def load(self) -> Raw:
        """1,797 images; with the default `test_fraction` 1,438 of them for training."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        y = labels.astype(np.int64)
        is_test = np.zeros(len(y), bool)
        draw = rng(SPLIT_SEED, "digits test split")
        for digit in range(10):
            members = draw.permutation(np.flatnonzero(y == digit))
            is_test[members[: round(self.test_fraction * len(members))]] = True
        train = x[~is_test]
        mean, std = round(float(train.mean()), 4), round(float(train.std()), 4)
        facts = Facts("digits", (1, 8, 8), num_classes=10, mean=mean, std=std)
        return Raw(facts, Examples(train, y[~is_test]), Examples(x[is_test], y[is_test]))
