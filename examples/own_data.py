"""Your own data set: a frozen dataclass with a partition and `load`. `muster run examples/own_data.yml`.

It is loaded once, dealt out to the clients, and memory-mapped from a cache after that; when this file
changes it is prepared anew. If your data lies in files, name them in a method `sources(self)`, and a
changed file is noticed too.
"""

from dataclasses import dataclass, field

import numpy as np

from muster import DataSet
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.data.dataset import Raw
from muster.data.partition import Iid, Partition


@dataclass(frozen=True)
class BreastCancer(DataSet):
    """569 biopsies of the Wisconsin diagnostic study (it comes with scikit-learn), 30 features each."""

    partition: Partition = field(default_factory=lambda: Iid(num_clients=10))
    """How the training examples are dealt out where the job file says nothing."""
    num_tests: int = 114
    """A setting of your own: `data: {name: ..., num_tests: 200}` in the job file."""

    def load(self) -> Raw:
        from sklearn.datasets import load_breast_cancer

        x, y = load_breast_cancer(return_X_y=True)
        order = rng(0, "breast cancer test split").permutation(len(y))  # the same split in every run
        test, train = order[: self.num_tests], order[self.num_tests :]
        x = ((x - x[train].mean(axis=0)) / x[train].std(axis=0)).astype(np.float32)
        facts = Facts("breast_cancer", input_shape=(30,), num_classes=2)
        y = y.astype(np.int64)
        return Raw(facts, train=Examples(x[train], y[train]), test=Examples(x[test], y[test]))
