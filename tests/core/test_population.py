"""Who can be drawn: `Everyone`, and `Free`, which leaves out the busy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.population import Everyone, Free, Online, Population
from muster.core.randomness import rng

steady = settings(deadline=None, derandomize=True, database=None)


def ids(*values):
    return np.array(values, np.int64)


@steady
@given(st.integers(1, 60), st.integers(0, 70), st.data())
def test_a_sample_is_distinct_and_without_the_excluded(num_clients, k, data):
    but = data.draw(st.lists(st.integers(0, num_clients - 1), unique=True))
    drawn = Everyone(num_clients, 0).sample(k, rng(1, "draw"), ids(*but))
    assert len(drawn) == min(k, num_clients - len(but))
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(drawn.tolist()) <= set(range(num_clients)) - set(but)


@pytest.mark.parametrize("but", [ids(), ids(3, 7)], ids=["everybody", "without two"])
def test_every_client_and_every_place_is_as_likely(but):
    world, draws, k = Everyone(12, 0), 12_000, 4
    drawn = np.array([world.sample(k, rng(5, "draw", i), but) for i in range(draws)])
    free = sorted(set(range(12)) - set(but.tolist()))
    for place in range(k):
        counts = np.bincount(drawn[:, place], minlength=12)[free]
        expected = draws / len(free)
        # 9 or 11 degrees of freedom: the 99.9 % quantiles are 27.9 and 31.3.
        assert ((counts - expected) ** 2 / expected).sum() < 27.9
    # Whom the first place has says nothing of the second: cells (a, b), a != b.
    cells = np.bincount(drawn[:, 0] * 12 + drawn[:, 1], minlength=144)
    pairs = [12 * a + b for a in free for b in free if a != b]
    expected = draws / len(pairs)
    # 89 or 131 degrees of freedom: the 99.9 % quantiles are 135.98 and 186.
    assert ((cells[pairs] - expected) ** 2 / expected).sum() < (136 if len(but) else 186)
    assert cells.sum() == cells[pairs].sum()


def test_a_million_clients_cost_no_more_than_who_is_drawn():
    import tracemalloc

    world, but = Everyone(10**9, 0), np.arange(1_000)
    tracemalloc.start()
    drawn = world.sample(1_000, rng(0, "draw"), but)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(drawn) == 1_000 and peak < 2_000_000


@pytest.mark.parametrize(
    ("n", "but", "when"), [(1, (), 7), (10, (), 7), (11, (), None), (8, (0, 1), 7), (9, (0, 1), None)]
)
def test_when_so_many_are_there(n, but, when):
    assert Everyone(10, 7).when(n, ids(*but)) == when


def test_among_keeps_the_order():
    assert Everyone(10, 0).among(ids(5, 2, 9)).tolist() == [5, 2, 9]


def test_free_leaves_out_the_busy():
    free = Free(Everyone(6, 3), busy=ids(1, 4))
    assert free.num_clients == 6
    assert sorted(free.sample(10, rng(0, "draw")).tolist()) == [0, 2, 3, 5]
    assert free.among(ids(5, 4, 0, 1)).tolist() == [5, 0]
    assert (free.when(4), free.when(5)) == (3, None)


def test_a_population_counts_its_rows():
    column = np.ones(4, np.float32)
    assert Population(np.ones(4, np.int32), column, column, column).num_clients == 4


class OddOnes:
    """Every client whose number leaves the rest `rest` is online, at all times."""

    def __init__(self, divisor, rest, num_clients=0):
        self.divisor, self.rest, self.num_clients, self.asked = divisor, rest, num_clients, 0

    def online(self, clients, at_ns):
        self.asked += len(clients)
        return clients % self.divisor == self.rest

    def everybody(self, at_ns):
        return self.online(np.arange(self.num_clients), at_ns)


@pytest.mark.parametrize(
    ("num_clients", "divisor", "k"), [(30, 2, 4), (120, 3, 4), (1200, 100, 4), (400, 4, 10)]
)
def test_whoever_is_online_is_as_likely_in_every_place(num_clients, divisor, k):
    """Both ways: few clients (all are looked at), many (drawn until there are enough), and few online."""
    world = Online(num_clients, 0, OddOnes(divisor, 1))
    but = ids(1, 0)
    free = np.array([c for c in range(num_clients) if c % divisor == 1 and c != 1])
    each = 6_000 // len(free)
    draws = each * len(free)
    drawn = np.array([world.sample(k, rng(8, "draw", i), but) for i in range(draws)])
    assert all(len(set(row)) == k for row in drawn.tolist())
    for place in range(k):
        counts = np.bincount(drawn[:, place], minlength=num_clients)
        assert counts.sum() == counts[free].sum()
        cells = ((counts[free] - each) ** 2 / each).sum()
        freedom = len(free) - 1
        assert abs(cells - freedom) < 4.5 * (2 * freedom) ** 0.5


def test_a_sample_of_a_million_looks_at_few():
    few = OddOnes(5, 2)
    drawn = Online(1_000_000, 0, few).sample(100, rng(1, "draw"), ids())
    assert len(set(drawn.tolist())) == 100 and (drawn % 5 == 2).all()
    assert few.asked < 2_000


@steady
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 80), st.data())
def test_a_sample_of_those_online_is_all_of_them_or_as_many_as_asked(num_clients, divisor, k, data):
    but = ids(*data.draw(st.lists(st.integers(0, num_clients - 1), unique=True, max_size=40)))
    world = Online(num_clients, 0, OddOnes(divisor, 0))
    drawn = world.sample(k, rng(3, "draw"), but)
    able = set(range(0, num_clients, divisor)) - set(but.tolist())
    assert len(drawn) == min(k, len(able)) and set(drawn.tolist()) <= able
    assert len(set(drawn.tolist())) == len(drawn) and drawn.dtype == np.int64
    assert drawn.tolist() == world.sample(k, rng(3, "draw"), but).tolist()


@steady
@given(st.integers(1, 400), st.integers(1, 7), st.integers(0, 60), st.integers(0, 3))
def test_the_best_are_those_that_sorting_everybody_would_find(num_clients, divisor, n, seed):
    scores = rng(seed, "scores").integers(0, 9, num_clients).astype(float)
    busy = ids(*(client for client in (0, 7) if client < num_clients))
    free = Free(Online(num_clients, 0, OddOnes(divisor, 0, num_clients)), busy)
    some = np.flatnonzero(rng(seed, "some").random(num_clients) < 0.8)
    able = [c for c in some.tolist() if c % divisor == 0 and c not in (0, 7)]
    expected = sorted(able, key=lambda client: (-scores[client], client))[:n]
    assert free.best(some, scores[some], n).tolist() == expected


def test_the_best_of_a_million_looks_at_few():
    half = OddOnes(2, 1)
    scores = rng(0, "scores").random(1_000_000)
    best = Free(Online(1_000_000, 0, half), ids()).best(np.arange(1_000_000), scores, 100)
    assert len(best) == 100 and half.asked < 2_000


def test_a_weighted_draw_follows_its_weights():
    free, weights = Free(Everyone(5, 0), ids(4)), np.array([1.0, 2, 3, 0, 9])
    drawn = np.array([free.drawn(np.arange(5), weights, 2, rng(9, "draw", i)) for i in range(6_000)])
    assert (drawn[:, 0] != drawn[:, 1]).all() and drawn.max() == 2
    # The first by weight; the second by weight among the rest: P(2 then 1) = 3/6 x 2/3.
    assert np.bincount(drawn[:, 0]) / 6_000 == pytest.approx(np.array([1, 2, 3]) / 6, abs=0.025)
    assert ((drawn == [2, 1]).all(axis=1)).mean() == pytest.approx(1 / 3, abs=0.025)
    assert sorted(free.drawn(np.arange(5), weights, 9, rng(9, "all")).tolist()) == [0, 1, 2, 3]
