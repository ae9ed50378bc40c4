"""Power-of-choice: candidates by examples, the worst of them train."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.power_of_choice import PowerOfChoice, power_of_choice
from muster.core.errors import FieldError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import MEASURED, REPORT, SECOND, Kind, rows
from worlds.rig import Rig, numpy_learner, small
from worlds.toy import toy_population


def everyone(count, busy=()):
    return Free(Everyone(count, 0), np.array(busy, np.int64))


def told(select, losses, count=6):
    state = select.init(toy_population((1,) * count))
    return select.told(state, 0, rows(MEASURED, len(losses), client=list(losses), loss=list(losses.values())))


def test_the_largest_losses_of_those_asked_train():
    select = PowerOfChoice()
    state = told(select, {4: 0.5, 0: 2.0, 2: 1.0, 5: 1.5})
    assert select.draw(state, 2, everyone(6), rng(0, "draw")).tolist() == [0, 5]
    assert select.draw(state, 2, everyone(6, [0]), rng(0, "draw")).tolist() == [5, 2]


def test_a_diverged_model_is_the_worst_and_who_has_no_examples_comes_last():
    state = told(PowerOfChoice(), {1: 3.0, 2: np.nan, 3: np.inf})
    assert PowerOfChoice().draw(state, 3, everyone(6), rng(0, "draw")).tolist() == [3, 1, 2]


def test_others_take_the_places_of_those_who_did_not_answer():
    select = PowerOfChoice()
    state = told(select, {3: 1.0})
    drawn = select.draw(state, 3, everyone(6, [0, 1]), rng(0, "draw")).tolist()
    assert drawn[0] == 3 and set(drawn[1:]) <= {2, 4, 5} and len(set(drawn)) == 3


@pytest.mark.parametrize(("candidates", "k", "d"), [(2.0, 3, 6), (1.5, 3, 5), (1.0, 2, 2), (10.0, 3, 12)])
def test_d_candidates_are_asked(candidates, k, d):
    select = PowerOfChoice(candidates)
    state = select.init(toy_population())
    asked = select.ask(state, k, everyone(12), rng(0, "ask"))
    assert len(asked) == len(set(asked.tolist())) == d


def test_candidates_are_drawn_by_examples_without_replacement():
    select = PowerOfChoice(1.0)
    state = select.init(toy_population((6, 3, 1)))
    pairs = [tuple(select.ask(state, 2, everyone(3), rng(1, "ask", i)).tolist()) for i in range(6_000)]
    # The first by p = .6, .3, .1; then the second by what is left: (0, 1) has .6 x 3/4.
    for pair, chance in {(0, 1): 0.45, (0, 2): 0.15, (1, 0): 0.3 * 6 / 7, (2, 1): 0.1 / 3}.items():
        assert pairs.count(pair) / 6_000 == pytest.approx(chance, abs=4 * np.sqrt(chance / 6_000))


def test_the_mean_of_the_chosen_is_plain():
    reports = rows(REPORT, 2, num_examples=[1, 99])
    assert power_of_choice().combine.weights(reports).tolist() == [1.0, 1.0]


def test_in_a_run_those_train_at_whom_the_model_is_worst():
    algorithm = small("power_of_choice")
    rig = Rig(algorithm, make_learner=numpy_learner(local=algorithm.local)).run()
    answers = [e.measured for e in rig.events if e.table["kind"][0] == Kind.MEASURED]
    assert [len(table) for table in answers] == [8] * 6  # d = 2 x 4
    for table, record in zip(answers, rig.records[1:], strict=True):
        worst = table["client"][np.argsort(-table["loss"])][:4]
        assert set(record.clients) == set(worst.tolist())
    first = answers[0]
    data, start = rig.data, rig.make_plane()
    for row in first:  # of the untrained model, over all the client's own examples
        alone = numpy_learner(local=algorithm.local)().evaluate(start.params, data.client(int(row["client"])))
        assert (row["loss"], row["accuracy"]) == (alone["loss"], alone["accuracy"])
        assert row["num_examples"] == data.num_examples[row["client"]]
        assert 1 <= row["took_secs"] <= 30 and round(row["took_secs"] * SECOND) > SECOND


def test_fewer_candidates_than_places_make_no_sense():
    with pytest.raises(FieldError, match=r"candidates"):
        PowerOfChoice(0.5)
