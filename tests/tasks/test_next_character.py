import numpy as np
import pytest

from muster.core.errors import DataError
from muster.core.examples import Examples, Facts
from muster.tasks.next_character import NextCharacter

TASK = NextCharacter()
FACTS = Facts("text", (3,), 5, vocabulary="abcde")


def test_windows_are_cut_from_the_text():
    text = np.array([0, 1, 2, 3, 4, 0, 1], np.uint8)
    examples = Examples(np.array([0, 3, 1]), np.array([3, 1, 4], np.uint8), text)
    inputs, targets = TASK.batch(FACTS, examples, np.array([2, 1]))
    assert inputs.tolist() == [[1, 2, 3], [3, 4, 0]] and inputs.dtype == np.int64
    assert targets.tolist() == [4, 1] and targets.dtype == np.int64
    assert TASK.batch(FACTS, examples, slice(0, 1))[0].tolist() == [[0, 1, 2]]
    blank = TASK.blank(FACTS, 2)
    assert blank.shape == inputs.shape and blank.dtype == inputs.dtype


def test_codes_outside_the_vocabulary_are_refused():
    examples = Examples(np.array([0]), np.array([0]), np.array([0, 7, 0], np.uint8))
    with pytest.raises(DataError, match=r"character code 7, but must be 0\.\.4"):
        TASK.batch(FACTS, examples, slice(0, 1))
    examples = Examples(np.array([0]), np.array([5]), np.zeros(3, np.uint8))
    with pytest.raises(DataError, match=r"label 5, but must be 0\.\.4"):
        TASK.batch(FACTS, examples, slice(0, 1))


def test_data_without_a_text_are_refused():
    with pytest.raises(DataError, match="next_character needs a text"):
        TASK.batch(FACTS, Examples(np.zeros(1), np.zeros(1)), slice(0, 1))
