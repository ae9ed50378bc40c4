"""What charts show of records made by hand."""

from __future__ import annotations

import numpy as np

from muster.core.record import Record, Span
from muster.track.charts import Bars
from muster.track.history import History
from muster.track.views import LANES, TIMELINE_SPANS, lorenz, sections, time_to, timeline


def test_a_timeline_has_the_legs_of_what_counted_and_one_bar_for_what_did_not():
    spans = (
        Span(9, 0.0, 1.0, 6.0, 3.0, "accepted"),
        Span(4, 0.0, 0.5, 2.0, 0.5, "accepted"),
        Span(4, 3.0, 1.0, 1.0, 0.0, "late"),
    )
    chart = timeline(History([Record(1, 10.0, 1.0, spans=spans)]))
    assert chart.lanes == ("4", "9")  # the faster on top
    found = [(bar.lane, bar.start, bar.stop, bar.colour) for bar in chart.bars]
    legs = [(1, 0.0, 1.0, 2), (1, 1.0, 7.0, 0), (1, 7.0, 10.0, 3)]
    assert found == [(0, 0.0, 0.5, 2), (0, 0.5, 2.5, 0), (0, 2.5, 3.0, 3), *legs, (0, 3.0, 5.0, 1)]
    assert chart.marks == (10.0,) and chart.x_label == "virtual time, seconds"
    assert "late" in chart.bars[-1].told and "client 4, from 3.0 s for 2.0 s" in chart.bars[-1].told


def test_of_many_clients_a_timeline_shows_some_from_the_fastest_to_the_slowest():
    spans = tuple(Span(c, 0.0, 0.0, 1.0 + c, 0.0, "accepted") for c in range(200))
    chart = timeline(History([Record(1, 300.0, 1.0, spans=spans)]))
    assert len(chart.lanes) == LANES and (chart.lanes[0], chart.lanes[-1]) == ("0", "199")
    assert "40 of 200 clients" in chart.note


def test_of_many_tasks_a_timeline_shows_the_first():
    spans = tuple(Span(0, 10.0 * i, 0.0, 10.0, 0.0, "accepted") for i in range(4 * TIMELINE_SPANS))
    chart = timeline(History([Record(v, 10.0 * v, 1.0, spans=(span,)) for v, span in enumerate(spans, 1)]))
    assert len(chart.bars) == TIMELINE_SPANS and "the first 1 h 23 m" in chart.note
    assert chart.marks == ()  # 500 rounds end in that time: too many lines to see


def test_time_to_accuracy_leaves_out_what_is_no_better():
    given = [Record(v, 3600.0 * v, 0.0, metrics={"accuracy": a}) for v, a in enumerate((0.1, 0.5, 0.4, 0.6))]
    (series,) = time_to(History(given), "accuracy").series
    assert series.x.tolist() == [0.1, 0.5, 0.6] and series.y.tolist() == [0.0, 1.0, 3.0]


def test_who_gave_the_updates():
    series = lorenz(History([Record(1, 1.0, 1.0, clients=(5, 5, 5, 2))]), 4)
    assert series.x.tolist() == [0.0, 25.0, 50.0] and series.y.tolist() == [0.0, 75.0, 100.0]


def test_old_records_without_spans_or_online_clients_have_no_devices_to_show():
    found = sections(History([Record(1, 1.0, 1.0, 0.5, clients=(1,), num_accepted=1)]), None)
    assert [section.title for section in found] == ["Learning", "Rounds", "Cost", "Participation"]


def test_waste_is_stacked_by_reason_in_the_unit_that_fits():
    given = [
        Record(1, 9e3, 1.0, device_secs_wasted=7200.0, wasted_by_reason={"late": 5400.0, "dropped": 1800.0})
    ]
    cost = next(section for section in sections(History(given), None) if section.title == "Cost")
    chart = cost.charts[-1]
    assert isinstance(chart, Bars)
    assert [(name, heights.tolist()) for name, heights, _ in chart.layers] == [
        ("late", [1.5]),
        ("dropped", [0.5]),
    ]
    assert chart.note.startswith("In hours a round.")
    assert np.array_equal(chart.edges, [0.5, 1.5])
