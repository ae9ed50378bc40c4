from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from muster.tasks.classification import Classification

TASK = Classification()
SCORES = np.array([[0.0, 0.0], [1.0, 3.0], [5.0, -1.0]], np.float32)
TARGETS = np.array([0, 1, 1])
LOSSES = [log(2), log(1 + exp(-2)), log(1 + exp(6))]


def test_losses_by_hand_in_both_backends():
    losses, _ = TASK.numpy_loss(SCORES, TARGETS)
    np.testing.assert_allclose(losses, LOSSES, rtol=1e-6)
    theirs = TASK.torch_loss(torch.tensor(SCORES), torch.tensor(TARGETS))
    np.testing.assert_allclose(theirs.numpy(), LOSSES, rtol=1e-6)


def test_accuracy_is_the_number_of_right_answers():
    right = TASK.numpy_metrics(SCORES, TARGETS)["accuracy"].tolist()
    assert right == TASK.torch_metrics(torch.tensor(SCORES), torch.tensor(TARGETS))["accuracy"].tolist()
    assert sum(right) == 2  # a tie goes to the first class


def test_gradient_by_hand_and_scores_left_alone():
    scores = SCORES.copy()
    _, gradient = TASK.numpy_loss(scores, TARGETS)
    p = 1 / (1 + exp(-2))
    np.testing.assert_allclose(gradient[:2], [[-0.5, 0.5], [1 - p, p - 1]], rtol=1e-5)
    assert np.array_equal(scores, SCORES)


@given(
    scores=arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)),
    target=st.integers(0, 3),
)
def test_backends_agree_on_any_scores(scores, target):
    targets = np.full(3, target)
    losses, gradient = TASK.numpy_loss(scores, targets)
    theirs = torch.tensor(scores, requires_grad=True)
    their_losses = TASK.torch_loss(theirs, torch.tensor(targets))
    their_losses.sum().backward()
    np.testing.assert_allclose(losses, their_losses.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert gradient.sum() == pytest.approx(0, abs=1e-5)
