"""Power-of-choice: who is drawn, and which of them are taken."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import Mean
from muster.algorithms.power_of_choice import PowerOfChoice, power_of_choice
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import REPORT, Refusal, rows
from worlds.toy import toy_population


def told(losses, sizes=None):
    select = PowerOfChoice()
    state = select.init(toy_population(sizes or (1,) * len(losses)))
    reports = rows(REPORT, len(losses), client=np.arange(len(losses)), loss=losses)
    return select.observe(state, 0, reports)


def everyone(count, busy=()):
    return Free(Everyone(count, 0), np.array(busy, np.int64))


def test_of_all_candidates_those_of_the_largest_loss_are_taken():
    state = told([1.0, 5.0, 3.0, 2.0, 4.0, 0.5])
    drawn = PowerOfChoice(candidates=3.0).draw(state, 2, everyone(6), rng(1, "draw"))
    assert drawn.tolist() == [1, 4]
    assert PowerOfChoice(3.0).draw(state, 2, everyone(6, busy=[1]), rng(1, "draw")).tolist() == [4, 2]


def test_candidates_are_drawn_by_their_examples():
    state = told([1.0] * 4, sizes=(6, 3, 1, 0))
    drawn = [int(PowerOfChoice(1.0).draw(state, 1, everyone(4), rng(2, "d", i))[0]) for i in range(3_000)]
    assert np.bincount(drawn, minlength=4) / 3_000 == pytest.approx([0.6, 0.3, 0.1, 0.0], abs=0.03)


def test_who_never_reported_goes_first_and_who_was_refused_last():
    select = PowerOfChoice(4.0)
    state = select.init(toy_population((1,) * 4))
    reports = rows(REPORT, 3, client=[0, 1, 2], loss=[9.0, np.nan, 8.0], refused=[Refusal.TOO_LARGE, 0, 0])
    state = select.observe(state, 0, reports)
    assert select.draw(state, 2, everyone(4), rng(3, "draw")).tolist() == [3, 2]


def test_the_algorithm_and_what_is_refused():
    assert power_of_choice().combine == Mean(by="uniform")
    with pytest.raises(FieldError, match=r"power_of_choice\.candidates is 0.5"):
        PowerOfChoice(candidates=0.5)
