"""FedNova on four quadratics that take 8, 4, 2 and 1 steps, beside two other means of them."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.algorithms.fednova import Nova
from worlds.rules import info, reports, train, vector

STEPS, OPTIMA = (8, 4, 2, 1), (1.0, 2.0, 3.0, 4.0)


def updates():
    """From w = 0 with rate 0.1 down (w - a)² / 2."""
    moved = []
    for steps, optimum in zip(STEPS, OPTIMA, strict=True):
        w, gradients = 0.0, []
        for _ in range(steps):
            gradients.append(w - optimum)
            w -= 0.1 * gradients[-1]
        moved.append(float(train(SGD(lr=0.1), [0.0], gradients)[0][0]))
    return np.array(moved)


def combined(rule):
    table = reports(4, num_examples=5, num_steps=STEPS, a_norm=[SGD().worth(n) for n in STEPS])
    mean = (rule.weights(table) @ updates()) / rule.divisors(table).sum()
    folded, _ = rule.finish({"delta": vector(mean)}, table, {}, info(4))
    return float(folded.get("delta", vector(mean))[0])


def test_the_updates():
    assert updates() == pytest.approx([0.56953279, 0.6878, 0.57, 0.4], rel=1e-9)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(Mean(), 0.556833), (Nova(), 0.870133), (Nova(by="uniform"), 0.870133), (Mean(by="steps"), 0.589831)],
)
def test_three_means(rule, expected):
    assert combined(rule) == pytest.approx(expected, abs=5e-7)


def test_steps_are_worth_more_with_momentum():
    # k = 1, 1.9, 2.71: 5.61
    assert SGD(momentum=0.9).worth(3) == pytest.approx(5.61, rel=1e-12)
    assert SGD().worth(7) == 7.0


def test_the_mean_of_the_steps_may_be_taken_instead():
    table = reports(2, num_examples=[1, 3], num_steps=[1, 2], a_norm=[1.0, 2.9])
    assert Nova().finish({"delta": vector(1.0)}, table, {}, info())[0]["delta"] == pytest.approx([9.7 / 4])
    by_steps = Nova(effective="steps").finish({"delta": vector(1.0)}, table, {}, info())
    assert by_steps[0]["delta"] == pytest.approx([7 / 4])


def test_a_client_without_examples_has_no_direction():
    table = reports(2, num_examples=[4, 0], num_steps=[2, 0], a_norm=[2.0, 0.0])
    assert Nova(by="uniform").weights(table).tolist() == [0.5, 0.0]
    assert Nova(by="uniform").divisors(table).tolist() == [1.0, 0.0]
