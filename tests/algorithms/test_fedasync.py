from __future__ import annotations

import pytest

from muster.algorithms.fedasync import Mixed, fedasync
from worlds.rules import info, reports, vector


@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        (Mixed(discount="const"), [1, 1, 1, 1, 1]),
        (Mixed(discount="poly", a=0.5), [1, 2**-0.5, 0.5, 5**-0.5, 6**-0.5]),
        (Mixed(discount="hinge", a=10, b=4), [1, 1, 1, 1, 1 / 11]),
    ],
)
def test_discounts(rule, weights):
    assert rule.weights(reports(5, staleness=[0, 1, 3, 4, 5])) == pytest.approx(weights, rel=1e-12)


def test_a_model_is_mixed_in_from_where_the_newest_is():
    """y = 0.5 + 0.2; the newest model is 1: (1 - 0.6) x 1 + 0.6 x 0.7 = 0.82."""
    vectors = {"delta": vector(0.2)}, {"model": vector(0.5)}, {"model": vector(1.0)}
    shifted, _ = Mixed().shift(*vectors, reports(1)[0], {})
    assert shifted["delta"] == pytest.approx([-0.3])
    moved, _ = fedasync().server.apply(vector(1.0), shifted["delta"], {}, info())
    assert moved == pytest.approx([0.82], rel=1e-12)
