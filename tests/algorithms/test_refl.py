"""REFL: who is asked first, and what late updates weigh, by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from muster.algorithms.refl import HOUR, LeastAvailable, ReflMean, refl
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import REPORT, rows
from worlds.toy import toy_population


class ByDay:
    """Client i is there from midnight to i o'clock, each day."""

    def online(self, clients, at_ns):
        return (at_ns // HOUR) % 24 < clients


def test_those_who_will_be_gone_are_asked_first():
    select = LeastAvailable()
    state = select.init(replace(toy_population((1,) * 20), availability=ByDay()))
    free = Free(Everyone(20, 0), np.array([2]))
    state = select.observe(state, 5 * HOUR, rows(REPORT, 0))
    # It is five, and a round takes 3/4 + 5/4 = 2 hours: at seven clients 0 to 7 are gone, 2 is at work.
    assert sorted(select.draw(state, 7, free, rng(1, "draw")).tolist()) == [0, 1, 3, 4, 5, 6, 7]
    few = [tuple(sorted(select.draw(state, 3, free, rng(1, "draw", i)).tolist())) for i in range(20)]
    assert len(set(few)) > 5 and {c for drawn in few for c in drawn} == {0, 1, 3, 4, 5, 6, 7}


def test_where_everybody_stays_all_are_alike():
    state = LeastAvailable().init(toy_population((1,) * 6))
    free = Free(Everyone(6, 0), np.zeros(0, np.int64))
    drawn = [int(LeastAvailable().draw(state, 1, free, rng(2, "draw", i))[0]) for i in range(600)]
    assert np.bincount(drawn, minlength=6) == pytest.approx(np.full(6, 100), abs=40)


def shares(beta, values, late):
    return ReflMean(beta).relate(np.outer(values, values), rows(REPORT, len(late), staleness=late), {})


def test_weights_by_hand():
    # Fresh 1 and 3: their mean is 2, n = 2. Stale 2 adds nothing; 8 departs by (6 / 3)^2 / 4, the most.
    weights = np.array([1, 1, 0.65 / 2, 0.65 / 4 + 0.35 * (1 - exp(-1))])
    assert shares(0.35, [1.0, 3.0, 2.0, 8.0], [0, 0, 1, 3]) == pytest.approx(
        weights / weights.sum(), abs=1e-12
    )
    # Half as far: a quarter of the departure.
    weights = np.array([1, 1, 0.65 / 2 + 0.35 * (1 - exp(-0.25)), 0.65 / 4 + 0.35 * (1 - exp(-1))])
    assert shares(0.35, [1.0, 3.0, 5.0, 8.0], [0, 0, 1, 3]) == pytest.approx(
        weights / weights.sum(), abs=1e-12
    )


@pytest.mark.parametrize(
    ("values", "late", "weights"),
    [
        ([1.0, 5.0], [0, 0], [1, 1]),
        ([1.0, 5.0], [1, 3], [0.65 / 2, 0.65 / 4]),
        ([0.0, 0.0], [0, 1], [1, 0.325]),
    ],
    ids=["all fresh", "none fresh", "nothing learnt"],
)
def test_without_fresh_or_without_stale_ones(values, late, weights):
    weights = np.array(weights)
    assert shares(0.35, values, late) == pytest.approx(weights / weights.sum(), abs=1e-12)


def test_the_algorithm_and_what_is_refused():
    assert refl().combine == ReflMean(0.35) and refl().select == LeastAvailable()
    with pytest.raises(FieldError, match=r"refl_mean\.beta is 2"):
        ReflMean(beta=2)
