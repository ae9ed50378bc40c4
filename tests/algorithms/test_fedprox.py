from __future__ import annotations

import pytest

from muster.algorithms.fedavg import SGD, fedavg
from muster.algorithms.fedprox import Prox, fedprox
from worlds.rules import train, vector


def test_without_a_gradient_the_spring_pulls_back():
    moved, _ = Prox(lr=0.1, mu=0.1).step(vector(1.0), vector(0.0), {"model": vector(0.0)}, {})
    assert moved == pytest.approx([0.99], rel=1e-12)


def test_two_steps_by_hand():
    # 1 - 0.1 x 2 = 0.8;  0.8 - 0.1 x (2 + 0.5 x (0.8 - 1)) = 0.61
    params, _, _ = train(Prox(lr=0.1, mu=0.5), [1.0], [2.0, 2.0])
    assert params == pytest.approx([0.61], rel=1e-12)


def test_without_a_spring_it_is_fedavg():
    assert (
        train(Prox(lr=0.1, mu=0.0, momentum=0.9), [1.0], [2.0, -1.0])[0]
        == train(SGD(lr=0.1, momentum=0.9), [1.0], [2.0, -1.0])[0]
    )
    assert fedprox().but(name="fedavg", local=SGD()) == fedavg()


def test_what_steps_are_worth():
    # lr mu = 0.1, momentum 0.5: k = 1, 1.5, 1.75; A = 1, 0.9 + 1.5 = 2.4, 0.9 x 2.4 + 1.75 = 3.91
    assert Prox(lr=0.2, mu=0.5, momentum=0.5).worth(3) == pytest.approx(3.91, rel=1e-12)
