import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import DataError
from muster.core.examples import Examples, Facts
from muster.core.part import known
from muster.tasks.classification import Classification
from muster.tasks.task import Task

TASK = Classification()


def test_both_tasks_are_found_by_name():
    assert set(known("muster.tasks", Task)) == {"classification", "next_character"}


def test_bytes_are_scaled_then_normalised():
    facts = Facts("images", (1, 1, 2), 3, mean=0.5, std=0.25)
    examples = Examples(np.array([[[0, 255]], [[51, 102]]], np.uint8), np.array([2, 0], np.uint8))
    inputs, targets = TASK.batch(facts, examples, np.array([1, 0]))
    assert inputs.shape == (2, 1, 1, 2) and inputs.dtype == np.float32
    # 51/255 = .2 -> (.2 - .5) / .25 = -1.2
    np.testing.assert_allclose(inputs.ravel(), [-1.2, -0.4, -2, 2], rtol=1e-6)
    assert targets.tolist() == [0, 2] and targets.dtype == np.int64


def test_floats_are_normalised_without_scaling():
    facts = Facts("features", (2,), 2, mean=1.0, std=2.0)
    inputs, _ = TASK.batch(facts, Examples(np.array([[1.0, 5.0]], np.float32), np.array([1])), slice(0, 1))
    assert inputs.tolist() == [[0.0, 2.0]]


def test_a_batch_is_a_copy_even_of_read_only_floats():
    x, y = np.ones((3, 2), np.float32), np.arange(3)
    x.flags.writeable = y.flags.writeable = False
    inputs, targets = TASK.batch(Facts("features", (2,), 3), Examples(x, y), slice(0, 3))
    inputs += 1
    targets += 1
    assert x.max() == 1 and y.tolist() == [0, 1, 2]


@given(label=st.integers(-(2**63), 2**63 - 1))
def test_exactly_the_labels_of_the_classes_are_allowed(label):
    facts = Facts("features", (1,), 4)
    examples = Examples(np.zeros((2, 1), np.float32), np.array([1, label], np.int64))
    if 0 <= label < 4:
        assert TASK.batch(facts, examples, slice(0, 2))[1].tolist() == [1, label]
    else:
        with pytest.raises(DataError, match=f"features has the label {label}, but must be 0..3"):
            TASK.batch(facts, examples, slice(0, 2))


def test_blank_is_what_batch_makes():
    facts = Facts("images", (1, 2, 2), 3)
    made, _ = TASK.batch(facts, Examples(np.zeros((2, 2, 2), np.uint8), np.zeros(2, np.int64)), slice(0, 2))
    blank = TASK.blank(facts, 2)
    assert blank.shape == made.shape and blank.dtype == made.dtype
