"""TiFL: tiers by speed, their chances and credits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from muster.algorithms.tifl import Tiered, tifl
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import REPORT, rows
from worlds.toy import toy_population

SECS = np.array([5.0, 1, 9, 3, 2, 8, 7, 4, 6, 10])
"""Ten clients; two tiers: 1 3 4 7 0 and 8 6 5 2 9."""
FAST, SLOW = {0, 1, 3, 4, 7}, {2, 5, 6, 8, 9}


def start(select):
    return select.init(replace(toy_population((1,) * 10), task_secs=SECS))


def told(select, state, client, loss):
    return select.observe(state, 0, rows(REPORT, 1, client=client, loss=loss, took_secs=SECS[client]))


def draws(select, state, k=3, busy=()):
    free = Free(Everyone(10, 0), np.array(busy, np.int64))
    return [set(select.draw(state, k, free, rng(1, "draw", i)).tolist()) for i in range(300)]


def test_a_round_is_of_one_tier():
    select = Tiered(2)
    assert select.tiers(SECS).tolist() == [0, 0, 1, 0, 0, 1, 1, 0, 1, 1]
    made = draws(select, start(select))
    assert all(drawn <= FAST or drawn <= SLOW for drawn in made)
    assert sum(drawn <= FAST for drawn in made) == pytest.approx(150, abs=40)


def test_the_worst_tier_gets_the_highest_chance_when_the_one_at_hand_stands_still():
    select = Tiered(2, interval=2)
    state = start(select)
    for client, loss in (
        (1, 1.0),
        (2, 3.0),
    ):  # rounds 1 and 2: both tiers are known now, and the first better
        state = told(select, state, client, loss)
    assert state["chances"].tolist() == [0.5, 0.5]
    state = told(select, told(select, state, 1, 0.9), 3, 0.8)  # the fast got better: 0.85 < 1
    assert state["chances"].tolist() == [0.5, 0.5]
    state = told(select, told(select, state, 1, 0.9), 3, 0.9)  # and worse
    assert state["chances"] == pytest.approx([1 / 3, 2 / 3])


def test_a_tier_without_credits_is_left_out_until_all_are():
    select = Tiered(2, credits=2)
    state = told(select, told(select, start(select), 1, 1.0), 3, 1.0)
    assert state["spent"].tolist() == [2, 0]
    assert all(drawn <= SLOW for drawn in draws(select, state))
    state = told(select, told(select, state, 2, 1.0), 5, 1.0)
    assert {bool(drawn <= FAST) for drawn in draws(select, state)} == {True, False}


def test_a_tier_that_has_too_few_is_filled_up():
    select = Tiered(2)
    assert all(len(drawn) == 4 for drawn in draws(select, start(select), k=4, busy=[1, 3, 2, 5]))


def test_without_speeds_tiers_form_as_tasks_are_timed():
    select = Tiered(2)
    state = select.init(toy_population((1,) * 10))
    assert np.bincount(select.tiers(state["secs"])).tolist() == [5, 5]
    state = told(select, told(select, state, 9, 1.0), 1, 1.0)  # 10 s and 1 s; the others between them
    assert (select.tiers(state["secs"])[1], select.tiers(state["secs"])[9]) == (0, 1)


def test_the_algorithm_and_what_is_refused():
    assert tifl().select == Tiered(5, 10, None)
    with pytest.raises(FieldError, match=r"tiered\.num_tiers is 0"):
        Tiered(num_tiers=0)
