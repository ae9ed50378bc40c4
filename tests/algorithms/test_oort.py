"""Oort: published numbers, the pacer, who is explored, who rests; and FedScale's variant beside it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from muster.algorithms.oort import Oort, normalised, oort, utilities
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free, Population
from muster.core.randomness import rng
from muster.core.tables import REPORT, Refusal, rows
from worlds.toy import toy_population

FEDSCALE = Oort(variant="fedscale", min_exploration=0.0, exploration=0.0)


def reports(clients, worth=1.0, secs=1.0, **columns):
    """REPORT rows of clients with one example each: their utility is the loss, which is `worth`."""
    given = {"num_examples": 1, "loss_sq_mean": np.square(worth), "took_secs": secs} | columns
    return rows(REPORT, len(clients), client=clients, **given)


def everyone(count, busy=()):
    return Free(Everyone(count, 0), np.array(busy, np.int64))


def published():
    """The six clients of the published example, as clients 0 to 5: tried in round 1, drawn for in round 1."""
    select = FEDSCALE
    state = select.init(toy_population((1,) * 6))
    worth = np.array([100.0, 50, 200, 10, 80, 60])
    state = select.observe(state, 0, reports(np.arange(6), worth, np.arange(10.0, 70, 10)))
    return select, {**state, "round": 1}


def test_the_published_scores_of_six_clients():
    select, state = published()
    scores = select.scores(state, np.arange(6))
    # Normalised by 200 - 0.999 x 10; the preferred duration is 20, the second of six.
    low, span = 9.99, 190.01
    by_hand = [
        (100 - low) / span,
        (50 - low) / span,
        (200 - low) / span * (20 / 30) ** 2,
        (10 - low) / span * (20 / 40) ** 2,
        (80 - low) / span * (20 / 50) ** 2,
        (60 - low) / span * (20 / 60) ** 2,
    ]
    assert scores == pytest.approx(by_hand, abs=1e-9)
    assert scores == pytest.approx([0.473712, 0.210568, 0.444444, 1.3e-5, 0.058953, 0.029244], abs=5e-7)
    chances = scores / scores.sum()
    assert chances == pytest.approx([0.389267, 0.173031, 0.365217, 0.000011, 0.048444, 0.024031], abs=5e-7)


def test_one_draw_follows_the_published_chances():
    select, state = published()
    drawn = [int(select.draw(state, 1, everyone(6), rng(1, "draw", i))[0]) for i in range(4_000)]
    shares = np.bincount(drawn, minlength=6) / 4_000
    expected = np.array([0.389267, 0.173031, 0.365217, 0.000011, 0.048444, 0.024031])
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected / 4_000) + 1e-3).all()


@pytest.mark.parametrize(
    ("values", "clip", "expected"),
    [
        (np.arange(1.0, 11), 0.9, (np.arange(1.0, 11) - 0.999) / 9.001),
        (np.array([5.0]), 0.9, [1.0]),
        (np.array([0.0, 0, 2]), 1.0, [0, 0, 1]),
    ],
)
def test_the_published_normalisation(values, clip, expected):
    assert normalised(values, clip, to_clip=False) == pytest.approx(expected, abs=1e-9)


def test_an_outlier_does_not_press_the_others_together():
    values = np.array([*range(1, 20), 1e6])  # the 95th percentile of 20 is the last, of 40 the 39th
    doubled = np.repeat(values, 2)
    doubled[-2] = 20.0
    scaled = normalised(doubled, 0.95, to_clip=True)
    assert scaled[-1] == scaled[-2] == 1.0  # both count as 20
    assert scaled[0] == pytest.approx(0.001 / 19.001) and scaled[18] == pytest.approx(9.001 / 19.001)


def test_a_utility_counts_all_samples_trained():
    told = rows(REPORT, 4, num_examples=[10, 4, 4, 4], loss_sq_mean=[4.0, 9.0, np.nan, 1.0])
    told["refused"][3] = Refusal.NON_FINITE
    assert utilities(told).tolist() == [20.0, 12.0, 0.0, 0.0]


def test_the_longer_ago_the_higher_the_score():
    select, count = Oort(alpha=0.0), 3
    state = select.init(toy_population((1,) * count))
    for number, client in enumerate((0, 1, 2)):  # rounds 1, 2, 3
        state = select.observe(state, 0, reports([client], 2.0))
        assert state["round"] == number + 2
    scores = select.scores(state, np.arange(count))
    bonus = [math.sqrt(0.1 * math.log(4) / last) for last in (1, 2, 3)]
    assert scores == pytest.approx([1.0 + b for b in bonus])  # equal utilities: all are the clipped most


@pytest.mark.parametrize(
    ("early", "late", "percentile"), [(2.0, 1.0, 35.0), (1.0, 2.0, 30.0), (1.0, 1.0, 30.0)]
)
def test_the_pacer_waits_for_slower_clients_when_utility_falls(early, late, percentile):
    select = Oort(pacer_rounds=3)
    state = select.init(toy_population((1,) * 4))
    for number in range(6):
        state = select.observe(state, 0, reports([number % 4], early if number < 3 else late))
        assert number == 5 or state["percentile"] == 30.0
    assert state["percentile"] == percentile


@pytest.mark.parametrize(
    ("early", "late", "percentile"), [(1.0, 1.05, 35.0), (1.0, 2.0, 30.0), (1.0, 9.0, 25.0)]
)
def test_fedscales_pacer_moves_when_utility_stands_still_and_back_when_it_leaps(early, late, percentile):
    select = Oort(variant="fedscale", pacer_rounds=2)
    state = select.init(toy_population((1,) * 4))
    for number in range(4):
        state = select.observe(state, 0, reports([number], early if number < 2 else late))
    assert state["percentile"] == percentile


def shares(select, state, k, count, explored):
    """How many of k are untried, over draws."""
    return {
        sum(c not in explored for c in select.draw(state, k, everyone(count), rng(2, "d", i)).tolist())
        for i in range(20)
    }


def test_a_share_of_each_cohort_is_untried():
    select, count = Oort(), 60
    state = select.init(toy_population((1,) * count))
    explored = set(range(30))
    state = select.observe(state, 0, reports(np.arange(30), np.arange(1.0, 31)))
    assert shares(select, {**state, "round": 1}, 10, count, explored) == {9}
    assert shares(select, {**state, "round": 21}, 10, count, explored) == {6}  # int(10 x 0.9 x 0.98^20)
    assert shares(select, {**state, "round": 500}, 10, count, explored) == {2}


def test_untried_clients_are_explored_by_speed():
    who = replace(toy_population((1,) * 3), task_secs=np.array([1.0, 2.0, 4.0]))
    state = Oort().init(who)
    drawn = [int(Oort().draw(state, 1, everyone(3), rng(3, "draw", i))[0]) for i in range(4_000)]
    assert np.bincount(drawn) / 4_000 == pytest.approx(np.array([4, 2, 1]) / 7, abs=0.03)


def test_only_who_scores_close_to_the_last_exploited_may_be_drawn():
    select = Oort(exploration=0.0, min_exploration=0.0, alpha=0.0, clip=1.0)
    state = select.init(toy_population((1,) * 6))
    worth = np.array([1.0, 100, 97, 95, 90, 50])  # normalised: (w - 0.999) / 99.001
    state = {**select.observe(state, 0, reports(np.arange(6), worth)), "round": 1}
    seen = {c for i in range(200) for c in select.draw(state, 2, everyone(6), rng(4, "d", i)).tolist()}
    assert seen == {1, 2, 3}  # the second scores 0.9697; 0.95 x that is 0.9212; 95 scores 0.9495, 90 0.8990


def test_the_busy_and_those_who_had_their_ten_rounds_are_left_alone():
    select = Oort(exploration=0.0, min_exploration=0.0)
    state = select.init(toy_population((1,) * 6))
    state = select.observe(state, 0, reports(np.arange(6), 1.0))
    state = {**state, "times": np.array([10, 9, 11, 1, 1, 1], np.int32)}
    for i in range(20):
        assert sorted(select.draw(state, 3, everyone(6, busy=[5]), rng(5, "d", i)).tolist()) == [1, 3, 4]


def test_those_who_rest_come_back_when_nobody_else_is_there():
    select = Oort()
    state = select.observe(select.init(toy_population((1,) * 4)), 0, reports(np.arange(4)))
    state = {**state, "times": np.full(4, 10, np.int32)}
    assert sorted(select.draw(state, 3, everyone(4, busy=[2]), rng(6, "d")).tolist()) == [0, 1, 3]


@pytest.mark.parametrize("variant", ["paper", "fedscale"])
def test_fedscale_c7_too_few_explored_or_none_at_all_end_no_run(variant):
    """Their copy fails when no more clients are explored than are to be exploited, when none of them is
    there, when all places are exploited, and when the blacklist is on."""
    select = Oort(variant=variant, blacklist_after=10)
    state = select.init(toy_population((1,) * 8))
    assert len(select.draw(state, 5, everyone(8), rng(7, "none tried"))) == 5
    state = {**select.observe(state, 0, reports([0, 1])), "round": 900}
    for i in range(10):
        drawn = select.draw(state, 5, everyone(8), rng(7, "two tried", i))
        assert len(set(drawn.tolist())) == 5 and {0, 1} <= set(drawn.tolist())
    assert len(select.draw(state, 5, everyone(8, busy=[0, 1]), rng(7, "none there"))) == 5
    state = select.observe(state, 0, reports(np.arange(2, 8)))
    all_places = replace(select, exploration=0.0, min_exploration=0.0)
    assert len(set(all_places.draw(state, 5, everyone(8), rng(7, "all exploited")).tolist())) == 5


def test_fedscale_c9_who_came_late_is_not_given_the_average_utility():
    """Only clients whose updates were accepted have reports; the others stay as they were."""
    select = Oort()
    before = select.init(toy_population((3, 3, 3)))
    after = select.observe(before, 0, reports([1], 7.0))
    assert after["utility"].tolist() == [3.0, 7.0, 3.0] and after["last"].tolist() == [0, 1, 0]
    assert before["utility"].tolist() == [3.0, 3.0, 3.0] and before["last"].tolist() == [0, 0, 0]


def test_the_clock_is_read_only_where_speeds_are_known():
    ones = np.ones(2, np.float32)
    state = Oort().init(Population(np.ones(2, np.int32), ones, ones, ones))
    assert np.isnan(state["secs"]).all()
    state = Oort().observe(state, 0, reports([0], 1.0, 8.0))
    assert Oort().scores(state, np.array([0])).tolist() == [1.0 + math.sqrt(0.1 * math.log(2))]


def test_oort_is_fedavg_with_another_select():
    assert oort().select == Oort() and oort().pace.cohort == 10


@pytest.mark.parametrize(
    "field",
    [{"variant": "fedscle"}, {"clip": 1.5}, {"alpha": -1.0}, {"pacer_rounds": 0}, {"percentile": 0.0}],
)
def test_settings_that_make_no_sense_are_refused(field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"oort\.{name} is "):
        Oort(**field)
