"""Records through JSON."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.record import Record, Span

steady = settings(deadline=None, derandomize=True, database=None)

COUNT = st.integers(0, 2**40)
SECS = st.floats(0, 1e9)


@steady
@given(
    st.builds(
        Record,
        version=COUNT,
        now_secs=SECS,
        wall_secs=SECS,
        loss=st.none() | SECS,
        metrics=st.dictionaries(st.sampled_from(["accuracy", "loss"]), SECS),
        num_sent=COUNT,
        num_accepted=COUNT,
        num_refused=COUNT,
        num_late=COUNT,
        num_lost=COUNT,
        num_discarded=COUNT,
        up_bytes=COUNT,
        down_bytes=COUNT,
        device_secs_used=SECS,
        device_secs_wasted=SECS,
        wasted_by_reason=st.dictionaries(st.sampled_from(["late", "offline"]), SECS),
        clients=st.lists(COUNT).map(tuple),
        num_online=st.none() | COUNT,
        spans=st.lists(st.builds(Span, COUNT, SECS, SECS, SECS, SECS, st.just("late"))).map(tuple),
        complete=st.booleans(),
        surrogate=st.booleans(),
    )
)
def test_a_record_comes_back_equal(record):
    again = Record.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record and isinstance(again.clients, tuple)


def test_what_a_later_version_adds_is_left_out_and_what_it_lacks_has_its_default():
    record = Record.from_json({"version": 3, "now_secs": 1.5, "wall_secs": 0.5, "energy_joule": 7})
    assert record == Record(3, 1.5, 0.5)
    assert (record.clients, record.complete, record.loss) == ((), True, None)


def test_the_keys_are_the_fields():
    keys = list(Record(0, 0.0, 0.0).to_json())
    assert keys[:5] == ["version", "now_secs", "wall_secs", "loss", "metrics"]
    assert len(keys) == 27


def test_a_span_is_a_list_in_json_and_ends_after_its_three_legs():
    span = Span(7, 10.0, 1.0, 2.5, 0.25, "accepted")
    assert Record(1, 0.0, 0.0, spans=(span,)).to_json()["spans"] == [[7, 10.0, 1.0, 2.5, 0.25, "accepted"]]
    assert span.end_secs == 13.75
