"""The endpoints of 2019, by the sequences that their trainers go through."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import UserError
from muster.net.esync_http import FirstStateServer, fields_of


class Clocked:
    """The first state server, with a clock that the test moves."""

    def __init__(self, num_workers: int = 2, epsilon: float = 0.0) -> None:
        self.now = 1000.0
        self.server = FirstStateServer(lambda: self.now)
        self.server.init(f"num_workers={num_workers}&epsilon={epsilon}".encode())

    def apply(self, r: int, k: int, c: float) -> int:
        return self.server.apply(f"r={r}&k={k}&c={c}&te={self.now + 5e8}".encode())["ready"]

    def reset(self, r: int, t: int) -> None:
        self.server.reset(f"r={r}&t={t}&te={self.now}".encode())


def test_two_workers_go_through_two_rounds() -> None:
    """The sequence of the reference: 1 s and 8 s a step, no margin."""
    http = Clocked()
    assert http.apply(0, 0, 1) == 0
    assert http.apply(1, 0, 8) == 0
    http.now += 7
    assert http.apply(0, 1, 1) == 0  # its next step would end with the slowest's
    http.now += 0.001
    assert http.apply(0, 2, 1) == 1
    assert http.apply(1, 1, 8) == 1
    assert http.apply(0, 3, 1) == 1
    http.reset(0, 2)
    assert [record.ready for record in http.server.records.workers] == [False, False]
    assert http.apply(0, 1, 1) == 0
    http.now += 100
    assert http.apply(0, 2, 1) == 0  # the slowest is not in round 2 yet
    http.reset(1, 2)
    assert http.apply(1, 1, 8) == 1
    assert http.apply(0, 3, 1) == 1


def test_the_slowest_is_ready_after_one_step_and_then_all_are() -> None:
    http = Clocked()
    http.apply(1, 0, 8)
    assert http.apply(0, 1, 1) == 0
    assert http.apply(1, 1, 8) == 1
    assert http.apply(0, 2, 1) == 1


def test_the_margin_ends_a_round_earlier() -> None:
    http = Clocked(epsilon=0.5)
    http.apply(1, 0, 8)
    http.now += 6.5
    assert http.apply(0, 6, 1) == 0
    http.now += 0.001
    assert http.apply(0, 7, 1) == 1


def test_ties_go_to_the_lowest_rank() -> None:
    http = Clocked(3)
    for r in (2, 1, 0):
        http.apply(r, 0, 4)
    assert http.apply(1, 1, 4) == 0 or http.now == 1000.0
    assert http.apply(0, 1, 4) == 1


def test_the_records_are_shown_as_they_were() -> None:
    http = Clocked()
    http.server.apply(b"r=1&k=3&c=0.25&te=1700000000.5")
    assert http.server.shown() == {
        "num_workers": 2,
        "t": 1,
        "epsilon": 0.0,
        "records": [[0, 0, 0.0, 0.0, False, 1], [1, 3, 0.25, 1700000000.5, True, 1]],
    }


def test_defaults_of_init_are_six_workers_and_half_a_second() -> None:
    server = FirstStateServer()
    server.init(b"")
    shown = server.shown()
    assert (shown["num_workers"], shown["epsilon"], shown["t"]) == (6, 0.5, 1)


@pytest.mark.parametrize(
    ("path", "form", "said"),
    [
        ("apply", b"r=2&k=1&c=1&te=0", "the workers are 0 to 1"),
        ("apply", b"k=1&c=1&te=0", "the field r is missing"),
        ("apply", b"r=0&k=x&c=1&te=0", "the field k must be a number"),
        ("apply", b"r=0&k=1&c=nan&te=0", "the field c must be a number"),
        ("apply", b"r=0&k=1&c=-1&te=0", "the field c must be a number"),
        ("apply", b"r=0&k=1&c=1e30&te=0", "the field c must be a number"),
        ("reset", b"r=9&t=2&te=0", "the workers are 0 to 1"),
        ("init", b"num_workers=0", "num_workers must be 1 to 4096"),
        ("init", b"num_workers=100000000", "num_workers must be 1 to 4096"),
        ("init", b"\xff", "the form cannot be read"),
    ],
)
def test_a_bad_form_is_told_so_and_changes_nothing(path: str, form: bytes, said: str) -> None:
    http = Clocked()
    before = http.server.records
    with pytest.raises(UserError, match=said):
        getattr(http.server, path)(form)
    assert http.server.records is before


def test_a_question_before_init_is_answered_in_a_sentence() -> None:
    with pytest.raises(UserError, match="POST /init/ comes first"):
        FirstStateServer().apply(b"r=0&k=0&c=1&te=0")


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=80)
    | st.lists(st.tuples(st.sampled_from("rkct"), st.text("0123456789.-+e&=%_nai ", max_size=6))).map(
        lambda pairs: "&".join(f"{k}={v}" for k, v in pairs).encode()
    )
)
def test_no_bytes_crash_the_form_reader(content: bytes) -> None:
    try:
        found = fields_of(content, r=(int, 0), k=(int, 0), c=(float, 0.0))
    except UserError:
        return
    assert set(found) == {"r", "k", "c"} and all(value >= 0 for value in found.values())
