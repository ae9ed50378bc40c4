"""REFL: who is asked first, and what late updates weigh, by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest

from muster.algorithms.fedavg import Uniform
from muster.algorithms.late_rounds import LateRounds
from muster.algorithms.refl import HOUR, LeastAvailable, ReflMean, refl
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.state import Limits
from muster.core.tables import REPORT, SECOND, rows
from worlds.rig import Rig
from worlds.toy import Fixed, toy_data, toy_population
from worlds.world import ToyWorld


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


def rounds(secs, num_rounds, loss=None, **settings):
    """(end, {client: versions late}) of each round, and the run: client i takes secs[i]."""
    algorithm = refl().but(pace=LateRounds(**settings), select=Uniform())
    kinds = {} if loss is None else {"loss": loss}
    world = ToyWorld(len(secs), duration=lambda client, attempt: secs[client] * SECOND, **kinds)
    data = toy_data((1,) * len(secs))
    rig = Rig(algorithm, world, data, Fixed, limits=Limits(rounds=num_rounds)).run()
    late = [dict(e.reports[["client", "staleness"]].tolist()) for e in rig.events if len(e.reports)]
    return [(r.now_secs, stale) for r, stale in zip(rig.records[1:], late, strict=False)], rig


def test_who_is_late_counts_when_the_next_round_closes():
    """Round 0 closes at 2 with 0 and 1. Client 2 goes on, and has come when round 1 closes at 4."""
    told, rig = rounds([1, 2, 3], 2, cohort=2, over_commit=1.5, min_start=2)
    assert told == [(2.0, {0: 0, 1: 0}), (4.0, {0: 0, 1: 0, 2: 1})]
    assert rig.records[1].num_late == 0 and sum(r.device_secs_wasted for r in rig.records[:3]) == 0


def test_who_would_be_too_late_is_told_to_stop():
    """Client 2 takes 100 s; a round lasts 2 s, and one round late is as late as may be."""
    told, rig = rounds([1, 2, 100], 3, cohort=2, over_commit=1.5, min_start=2, max_late=1)
    assert [stale for _, stale in told] == [{0: 0, 1: 0}] * 3
    assert rig.records[2].wasted_by_reason == {"stale": 4.0}


def test_a_deadline_closes_a_round_and_its_late_ones_come_in_the_next():
    told, _ = rounds([1, 2, 6], 2, cohort=3, over_commit=1.0, deadline_secs=5, min_start=2)
    # The next round, of 0 and 1 alone, is over when both have come, at 7; 2 came at 6.
    assert told == [(5.0, {0: 0, 1: 0}), (7.0, {0: 0, 1: 0, 2: 1})]


def test_a_round_all_of_whose_tasks_are_lost_is_tried_again_and_the_late_are_kept():
    def loss(client, attempt):
        return SECOND // 2 if client < 2 and attempt == 1 else None

    told, _ = rounds([1, 2, 4], 2, loss=loss, cohort=2, over_commit=1.5, min_start=2)
    # Round 1 goes out at 2 and is lost at 2.5, backs off to 3.5, and closes at 5.5 with client 2, of round 0.
    assert told == [(2.0, {0: 0, 1: 0}), (5.5, {0: 0, 1: 0, 2: 1})]


def test_the_algorithm_and_what_is_refused():
    assert refl().combine == ReflMean(0.35) and refl().select == LeastAvailable()
    with pytest.raises(FieldError, match=r"refl_mean\.beta is 2"):
        ReflMean(beta=2)
