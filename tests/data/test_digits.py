import numpy as np
import pytest

from muster.core.errors import FieldError
from muster.data.digits import Digits
from muster.data.partition import Iid


def test_all_1797_digits_are_there_once_with_their_published_class_counts():
    raw = Digits().load()
    labels = np.concatenate([raw.train.y, raw.test.y])
    # The class counts that the data set's own description gives.
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pixels = np.concatenate([raw.train.x, raw.test.x])
    assert pixels.shape == (1797, 1, 8, 8)
    assert len(np.unique(pixels.reshape(1797, 64), axis=0)) == 1797
    assert (pixels.min(), pixels.max()) == (0, 1)


def test_test_split_is_stratified_and_does_not_depend_on_the_partition():
    raw = Digits().load()
    assert np.bincount(raw.test.y).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]  # a fifth of each
    np.testing.assert_array_equal(raw.test.x, Digits(partition=Iid(3)).load().test.x)


def test_facts_standardise_the_training_images():
    raw = Digits().load()
    inputs = (raw.train.x - raw.facts.mean) / raw.facts.std
    assert inputs.mean() == pytest.approx(0, abs=1e-3)
    assert inputs.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("fraction", [0, 1, -0.2, float("nan")])
def test_test_fraction_is_checked(fraction):
    with pytest.raises(FieldError, match=r"digits\.test_fraction"):
        Digits(test_fraction=fraction)
