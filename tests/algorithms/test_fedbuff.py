"""FedBuff: the discounts, the buffer, and the example worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import Add
from muster.algorithms.fedbuff import Buffered, StaleMean, fedbuff
from muster.core.algorithm import Info, View
from muster.core.errors import FieldError
from muster.core.population import Population
from muster.core.sums import FixedPointSum, scale_for
from muster.core.tables import REPORT, TASK, Appetite, Reason, rows


def reports(*staleness):
    return rows(REPORT, len(staleness), staleness=staleness, num_examples=7)


def test_the_published_discounts():
    weights = StaleMean().weights(reports(0, 1, 2, 3, 4, 5))
    assert weights == pytest.approx([1, 0.70710678, 0.57735027, 0.5, 0.4472136, 0.40824829], abs=5e-9)


def test_other_exponents():
    assert StaleMean(exponent=0.0).weights(reports(0, 9)).tolist() == [1.0, 1.0]
    assert StaleMean(exponent=1.0).weights(reports(0, 3)).tolist() == [1.0, 0.25]


def test_no_weight_is_beyond_the_largest_and_each_update_counts_as_one():
    ones = np.ones(2, np.float32)
    assert StaleMean().max_weight(Population(np.array([5, 900], np.int32), ones, ones, ones)) == 1.0
    assert StaleMean().divisors(reports(0, 8)).tolist() == [1.0, 1.0]


def test_two_deltas_one_of_them_three_versions_late():
    # From x = 0: (1 x 1 + 3 x 0.5) / 2 = 1.25; the discount is not normalised away.
    both, total = reports(0, 3), FixedPointSum(1, scale_for(2))
    for delta, weight in zip((1.0, 3.0), StaleMean().weights(both), strict=True):
        total.add(np.array([delta], np.float32), float(weight))
    mean = total.take(StaleMean().divisors(both).sum())
    moved, _ = Add().apply(np.zeros(1, np.float32), mean, {}, Info(1, 2, 2))
    assert moved.tolist() == [1.25]


def view(version, arrived=(), out=()):
    """TASK rows by the version they were sent at: first those that have arrived."""
    table = rows(TASK, len(arrived) + len(out), ticket=np.arange(len(arrived) + len(out)))
    table["version"] = [*arrived, *out]
    table["arrived"][: len(arrived)] = True
    return View(0, version, table, 0, False)


def test_it_keeps_so_many_at_work():
    pace = Buffered(size=10, concurrency=5)
    _, plan = pace.plan(pace.init(), view(0))
    assert (plan.send, plan.min_start, plan.top_up, plan.advance) == (5, 1, True, False)
    _, plan = pace.plan(pace.init(), view(0, out=(0, 0, 0)))
    assert plan.send == 2


def test_a_report_is_buffered_and_answered():
    pace = Buffered(size=3, concurrency=5)
    state, plan = pace.plan({"buffered": 1}, view(4, arrived=(2,), out=(4, 3, 4, 4)))
    assert state == {"buffered": 2}
    assert (plan.accept.tolist(), plan.send, plan.advance) == ([0], 1, False)


def test_a_full_buffer_makes_a_version_and_sends_nothing_yet():
    pace = Buffered(size=3, concurrency=5)
    before = {"buffered": 2}
    state, plan = pace.plan(before, view(4, arrived=(4,), out=(4, 3, 4, 4)))
    assert (state, plan.accept.tolist(), plan.advance, plan.send) == ({"buffered": 0}, [0], True, 0)
    assert before == {"buffered": 2}


@pytest.mark.parametrize(("sent_at", "accepted"), [(4, True), (2, True), (1, False), (0, False)])
def test_only_what_is_too_stale_is_discarded(sent_at, accepted):
    pace = Buffered(size=3, concurrency=5, max_staleness=2)
    state, plan = pace.plan({"buffered": 1}, view(4, arrived=(sent_at,)))
    assert (plan.accept.tolist(), plan.discard.tolist()) == (([0], []) if accepted else ([], [0]))
    assert state == {"buffered": 2 if accepted else 1}
    assert accepted or plan.reason == Reason.STALE


def test_each_arrival_and_each_loss_is_answered_at_its_instant():
    assert Buffered().appetite({}, rows(TASK, 0)) == Appetite(1, stop_at_loss=True)


def test_the_limits_are_the_buffer_and_the_concurrency():
    assert (Buffered(size=4, concurrency=9).max_accepts, Buffered(size=4, concurrency=9).max_out) == (4, 9)


def test_fedbuff_as_published():
    assert fedbuff().pace.size == 10 and fedbuff().pace.max_staleness is None
    assert fedbuff().combine == StaleMean(0.5) and fedbuff().server == Add(1.0)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Buffered, {"size": 0}),
        (Buffered, {"concurrency": 0}),
        (Buffered, {"concurrency": 1.5}),
        (Buffered, {"max_staleness": -1}),
        (StaleMean, {"exponent": -0.5}),
        (StaleMean, {"exponent": float("inf")}),
    ],
)
def test_settings_that_make_no_sense_are_refused(part, field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"{part.part_name()}\.{name} is "):
        part(**field)
