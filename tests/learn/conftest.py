"""A small data set on disk, and pools that train on it."""

from __future__ import annotations

import pytest

from muster.data.store import prepare
from muster.learn.pool import Pool
from muster.models.dense import Logistic
from worlds.toy import FACTS, Toy


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return prepare(Toy(), 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def pool(stored):
    """Makes pools for softmax regression; they end with the test."""
    made = []

    def make(recipe, num_workers=1, **settings):
        size = Logistic().spec(FACTS).size
        made.append(Pool(recipe, num_workers, size, len(stored.test), **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
