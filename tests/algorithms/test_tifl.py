"""TiFL: tiers by profile, chances by rank of accuracy, credits."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.tifl import Tiers, accuracies, by_rank
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.state import Limits
from muster.core.tables import MEASURED, REPORT, SECOND, Kind, rows
from worlds.rig import Rig, small
from worlds.toy import toy_population
from worlds.world import ToyWorld


def everyone(count, busy=()):
    return Free(Everyone(count, 0), np.array(busy, np.int64))


def profiled(select, secs, accuracy=0.5, count=None):
    """The state after clients have answered: client -> seconds."""
    state = select.init(toy_population((1,) * (count or len(secs))))
    assert sorted(select.ask(state, 2, everyone(len(state["tier"])), rng(0, "ask"))) == list(
        range(len(state["tier"]))
    )
    took = list(secs.values())
    table = rows(MEASURED, len(secs), client=list(secs), took_secs=took, num_examples=1, accuracy=accuracy)
    return select.told(state, 0, table)


def trained(select, state, *clients):
    return select.observe(state, 0, rows(REPORT, len(clients), client=clients))


def looked(select, state, **accuracy):
    """After a look at the tiers: t0=0.5 is the accuracy that the first client of tier 0 says."""
    table = rows(MEASURED, len(accuracy), num_examples=1, accuracy=list(accuracy.values()))
    table["client"] = [int(np.flatnonzero(state["tier"] == int(name[1:]))[0]) for name in accuracy]
    return select.told(state, 0, table)


SECS = {0: 9.0, 1: 1.0, 2: 5.0, 3: 2.0, 4: 8.0, 5: 4.0}


def test_tiers_are_by_time_equal_in_number_and_without_those_who_dropped_out():
    select = Tiers(tiers=3)
    assert profiled(select, SECS)["tier"].tolist() == [2, 0, 1, 0, 2, 1]
    state = profiled(select, {0: 9.0, 1: 1.0, 3: 2.0}, count=6)
    assert state["tier"].tolist() == [2, 0, -1, 1, -1, -1]


def test_of_fewer_clients_than_tiers_each_is_one_and_of_none_there_are_none():
    state = profiled(Tiers(tiers=5), {0: 2.0, 1: 1.0})
    assert state["tier"].tolist() == [1, 0] and state["chances"].tolist() == [0.5, 0.5]
    nobody = profiled(Tiers(), {}, count=4)
    assert nobody["tier"].tolist() == [-1] * 4
    assert len(Tiers().ask(nobody, 2, everyone(4), rng(0, "ask"))) == 4  # they are profiled again
    assert len(set(Tiers().draw(nobody, 3, everyone(4), rng(0, "draw")).tolist())) == 3


def test_chances_are_by_rank_the_lowest_accuracy_first():
    # n = 5, n (n + 1) / 2 = 15
    found = by_rank(np.array([0.9, 0.5, 0.7, 0.6, 0.8]))
    assert found == pytest.approx([1 / 15, 5 / 15, 3 / 15, 4 / 15, 2 / 15], abs=1e-12)
    assert by_rank(np.array([0.5, 0.5])) == pytest.approx([2 / 3, 1 / 3])


def test_accuracies_are_over_examples():
    table = rows(MEASURED, 5, num_examples=[1, 3, 4, 0, 2], accuracy=[1.0, 0.0, 0.5, np.nan, 1.0])
    found = accuracies(np.array([0, 0, 1, 1, -1]), table, 3)
    assert found[:2].tolist() == [0.25, 0.5] and np.isnan(found[2])


@pytest.mark.parametrize(
    ("now", "chances"),
    [
        ({"t0": 0.6, "t1": 0.1, "t2": 0.2}, [1 / 3] * 3),  # the tier that trained has risen: as before
        ({"t0": 0.5, "t1": 0.9, "t2": 0.7}, [3 / 6, 1 / 6, 2 / 6]),  # it has not: by rank
        ({"t0": 0.4}, [3 / 6, 2 / 6, 1 / 6]),  # of the others nothing new is known: 0.5 each
    ],
)
def test_chances_change_when_the_tier_that_trained_has_not_risen(now, chances):
    select = Tiers(tiers=3, interval=1)
    state = trained(select, profiled(select, SECS), 1, 3)
    assert looked(select, state, **now)["chances"] == pytest.approx(chances)


def test_every_so_many_versions_some_of_each_tier_are_asked():
    select = Tiers(tiers=3, interval=2, sample=1)
    state = profiled(select, SECS)
    asked = []
    for _ in range(5):
        clients = select.ask(state, 2, everyone(6), rng(0, "ask"))
        asked.append(len(clients))
        if len(clients):
            assert state["tier"][clients].tolist() == [0, 1, 2]
            state = looked(select, state, t0=0.9)
        state = trained(select, state, 1)
    assert asked == [0, 0, 3, 0, 3]
    never = Tiers(tiers=3, interval=0)
    assert len(never.ask({**state, "version": 99}, 2, everyone(6), rng(0, "ask"))) == 0


def test_a_draw_is_of_one_tier_by_its_chance_and_uniform_in_it():
    select = Tiers(tiers=3)
    state = profiled(select, SECS) | {"chances": np.array([0.5, 0.2, 0.3])}
    drawn = [select.draw(state, 1, everyone(6), rng(1, "draw", i))[0] for i in range(4_000)]
    shares = np.bincount(drawn, minlength=6) / 4_000
    expected = np.array([0.15, 0.25, 0.1, 0.25, 0.15, 0.1])
    assert (np.abs(shares - expected) < 4 * np.sqrt(expected / 4_000)).all()
    for i in range(20):
        pair = select.draw(state, 2, everyone(6), rng(1, "pair", i))
        assert len(set(state["tier"][pair].tolist())) == 1 and pair[0] != pair[1]


def test_the_nearest_tiers_fill_up_and_dropouts_come_last():
    select = Tiers(tiers=3)
    state = profiled(select, {0: 1.0, 1: 2.0, 2: 3.0}, count=5) | {"chances": np.array([1.0, 0, 0])}
    assert select.draw(state, 4, everyone(5, [0]), rng(0, "draw")).tolist()[:2] == [1, 2]
    assert select.draw(state, 3, everyone(5), rng(0, "draw")).tolist() == [0, 1, 2]


def test_credits_are_spent_by_versions_and_then_all_tiers_may_be_drawn():
    select = Tiers(tiers=2, credits=(1, 2))
    state = profiled(select, {0: 1.0, 1: 2.0})
    state = trained(select, state, 0)
    assert state["credits"].tolist() == [0, 2]
    draws = {int(select.draw(state, 1, everyone(2), rng(0, "draw", i))[0]) for i in range(20)}
    assert draws == {1}
    for _ in range(3):
        state = trained(select, state, 1)
    assert state["credits"].tolist() == [0, 0]
    assert {int(select.draw(state, 1, everyone(2), rng(0, "draw", i))[0]) for i in range(20)} == {0, 1}


@pytest.mark.parametrize("credits", [(1, 2, 3), (1, -1), (1, 2.5), 3])
def test_credits_are_one_number_a_tier(credits):
    with pytest.raises(FieldError, match="2 whole numbers"):
        Tiers(tiers=2, credits=credits)


def test_in_a_run_the_profile_is_of_everybody_and_rounds_are_of_like_speed():
    """Client i takes i + 1 s. The two that drop out while they are profiled are in no tier."""
    world = ToyWorld(
        duration=lambda client, attempt: (client + 1) * SECOND,
        loss=lambda client, attempt: SECOND // 2 if client in (3, 7) and attempt == 0 else None,
    )
    algorithm = small("tifl", cohort=3)
    rig = Rig(algorithm, world, limits=Limits(rounds=6)).run()
    answers = [e.measured for e in rig.events if e.table["kind"][0] == Kind.MEASURED]
    assert sorted(answers[0]["client"].tolist()) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    tiers = [{0, 1, 2, 4}, {5, 6, 8}, {9, 10, 11}]
    assert all(any(set(record.clients) <= tier for tier in tiers) for record in rig.records[1:])
    assert [len(table) for table in answers[1:]] == [10, 10]  # at versions 2 and 4; not after the last
