"""Oort's testing selector: the published bounds, and small tests dealt out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.testing_selector import bound, by_category, by_deviation
from muster.core.errors import UserError


@pytest.mark.parametrize(
    ("deviation", "spread", "num_clients", "confidence", "needed"),
    [
        (0.1, 1, 1000, 0.8, 74.552950),
        (0.1, 1, 1000, 0.95, 130.403675),
        (0.05, 1, 1000, 0.8, 243.749525),
        (0.05, 1, 1000, 0.95, 375.041072),
        (10, 100, 13771, 0.8, 80.010193),
        (10, 100, 13771, 0.95, 148.185681),
        (5, 316, 2187, 0.8, 1302.063543),
        (5, 316, 2187, 0.95, 1602.289894),
    ],
)
def test_the_published_numbers_of_clients(deviation, spread, num_clients, confidence, needed):
    assert bound(deviation, spread, num_clients, confidence) == pytest.approx(needed, abs=5e-7)


def test_fedscale_c7_the_confidence_counts_and_clients_come_back():
    """Their copy always takes 0.8, and answers with a number."""
    few, many = (by_deviation(0.1, 1, 1000, confidence) for confidence in (0.8, 0.95))
    assert (len(few), len(many)) == (75, 131)
    assert len(np.unique(many)) == 131 and many.min() >= 0 and many.max() < 1000
    assert by_deviation(0.1, 1, 1000, 0.95).tolist() == many.tolist()
    assert by_deviation(0.1, 1, 1000, 0.95, seed=1).tolist() != many.tolist()


def test_never_more_clients_than_there_are():
    assert bound(0.01, 1, 100, 0.95) == 100  # the formula gives 100.33
    assert len(by_deviation(0.01, 1, 100, 0.95)) == 100


@pytest.mark.parametrize(
    ("wrong", "name"),
    [((0.0, 1, 10, 0.9), "deviation"), ((0.1, 0, 10, 0.9), "range"), ((0.1, 1, 10, 1.0), "conf")],
)
def test_bounds_out_of_their_bounds(wrong, name):
    with pytest.raises(UserError, match=f"the {name}.* must be"):
        bound(*wrong)


COUNTS = np.array([[6, 0], [0, 6], [6, 6], [1, 1]])


def deal(request, ms=(1000, 1000, 1000, 1000), load=(0, 0, 0, 0), budget=4, **how):
    return by_category(
        COUNTS, np.array(request), np.array(ms, float), np.array(load, float), budget, gap=0.0, **how
    )


def test_equal_clients_share_a_test_so_that_the_slowest_is_done_soonest():
    done = deal([6, 6])
    # 12 examples of a second each: the small client takes 2 at most, three take 10: 4 s.
    assert done.secs == 4.0
    assert done.examples.sum(axis=0).tolist() == [6, 6]
    assert (done.examples <= COUNTS[done.clients]).all()


def test_a_client_that_loads_for_long_is_left_out():
    done = deal([6, 6], load=(0, 0, 100, 0))
    # 0 and 1 have the classes to themselves but for one example each of client 3.
    assert done.secs == 5.0 and sorted(done.clients.tolist()) == [0, 1, 3]


def test_the_faster_does_more():
    done = deal([6, 0], ms=(1000, 1, 500, 1), budget=3)
    # Of class 0: client 0 a second each, client 2 half a second; 3 is fast and has one: 2 + 3 + 1 or better.
    assert done.examples[:, 1].sum() == 0 and done.secs == 2.0


def test_the_budget_holds():
    done = deal([6, 6], budget=1)
    assert done.clients.tolist() == [2] and done.secs == 12.0


@pytest.mark.parametrize(
    ("request_", "budget", "said"),
    [
        ([14, 0], 4, "14 examples of class 0 are asked for, but all clients have 13"),
        ([12, 12], 1, "the budget is 1 clients, but the cover needs 3"),
        ([0, 0], 4, "at least one example"),
        ([-1, 2], 4, "none less than 0"),
    ],
)
def test_what_cannot_be_tested_is_said(request_, budget, said):
    with pytest.raises(UserError, match=said):
        deal(request_, budget=budget)


def test_hundreds_of_clients_are_dealt_out():
    draw = np.random.Generator(np.random.Philox(3))
    counts, request = draw.poisson(2, (400, 4)), np.full(4, 60)
    done = by_category(
        counts, request, draw.uniform(5, 200, 400), draw.uniform(1, 20, 400), 40, gap=0.5, limit_secs=5
    )
    assert (done.examples.sum(axis=0) == 60).all() and len(done.clients) <= 40
    assert (done.examples <= counts[done.clients]).all()
