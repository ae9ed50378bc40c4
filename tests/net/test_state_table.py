"""The state table by hand: the cases of the paper, and what a deployment adds to them."""

from __future__ import annotations

import heapq
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import UserError
from muster.net.state_messages import Action, Status
from muster.net.state_table import NS, Answer, Rules, StaleError, Table, lapsed, query, report, reset

TRAIN, SYNC, STOP = Action.TRAIN, Action.SYNC, Action.STOP
EACH_STEP = Rules(leased=False)


def one_round(c: list[float], m: list[float], rules: Rules, believed: list[float] | None = None) -> list[int]:
    """Steps per worker of a round with constant times, questions free of time.

    At equal times the slowest's step is handled first, then the lowest rank. `believed` is what workers
    report of their c before they have made a step.
    """
    table = reset(len(c), 0, 0)
    for rank, first in enumerate(believed or c):
        table, _ = report(table, Status(rank, computation_time=first, transmission_time=m[rank]), 0)
    sends = rules.rule == "paper"
    slowest = max(range(len(c)), key=lambda k: (c[k] + sends * m[k], -k))
    steps, due = [0] * len(c), [(0, k != slowest, k) for k in range(len(c))]
    heapq.heapify(due)
    while due:
        now, _, rank = heapq.heappop(due)
        known = c if steps[rank] or believed is None else believed
        status = Status(rank, steps[rank], 0, known[rank], m[rank], generation=1)
        table, answer = query(table, status, rules, now)
        if answer.action is TRAIN:
            steps[rank] += answer.steps
            later = now + answer.steps * round(Fraction(str(c[rank])) * NS)
            heapq.heappush(due, (later, rank != slowest, rank))
    return steps


@pytest.mark.parametrize("leased", [False, True])
@pytest.mark.parametrize(
    ("c", "m", "steps"),
    [
        ([1, 2, 4, 8], [0, 0, 0, 0], [8, 4, 2, 1]),  # A
        ([1, 2, 4, 8], [1, 1, 1, 1], [8, 4, 2, 1]),  # B
        ([3, 5, 7, 10], [0, 0, 0, 0], [3, 2, 1, 1]),  # C
        ([1, 2, 4, 8], [4, 1, 1, 1], [5, 4, 2, 1]),  # E
        ([2, 6], [6, 1], [1, 1]),  # F: the slowest is worker 0
        ([4, 4, 1], [0, 0, 0], [1, 1, 4]),  # G: a tie
        ([2, 2, 2], [0, 0, 0], [1, 1, 1]),  # H: as SSGD
        ([12, 4, 2], [1.5, 1.5, 1.5], [1, 3, 6]),  # I: the paper's figure 7
        ([0.1, 0.3], [0, 0], [3, 1]),  # floats would give 2
        ([5], [2], [1]),  # nobody else
        ([2, 2], [3, 3], [1, 1]),
        ([1, 300], [0, 0], [300, 1]),
        ([1, 2.999999999], [0, 0], [2, 1]),
        ([0.1, 0.2, 0.3, 0.7], [0, 0, 0, 0], [7, 3, 2, 1]),
        ([1, 1], [0, 10], [1, 1]),  # the slowest has made its step after 1 s: the others push
        ([2, 5], [6, 1], [1, 1]),
        ([1, 8], [6, 0], [2, 1]),
        ([3, 5, 1], [3, 1, 0], [1, 1, 3]),  # a tie of sums
    ],
)
def test_steps_per_round_are_those_of_the_paper(
    c: list[float], m: list[float], steps: list[int], leased: bool
) -> None:
    assert one_round(c, m, Rules(leased=leased)) == steps


def test_a_margin_ends_earlier() -> None:
    assert one_round([1, 2, 4, 8], [0, 0, 0, 0], Rules(margin_secs=0.5, leased=False)) == [7, 3, 1, 1]  # D


@pytest.mark.parametrize("leased", [False, True])
def test_the_first_code_looks_past_sending(leased: bool) -> None:
    rules = Rules(leased=leased, rule="compute_only")
    assert one_round([2, 6], [6, 1], rules) == [3, 1]  # F: by the paper's rule 1 and 1
    assert one_round([1, 2, 4, 8], [4, 1, 1, 1], rules) == [8, 4, 2, 1]  # E: 5, 4, 2, 1
    # A GPU of 0.03 s and a CPU of 3.5 s: 116 steps, and with the margin it was shipped with 100.
    assert one_round([0.03, 3.5], [0, 0], rules) == [116, 1]
    assert one_round([0.03, 3.5], [0, 0], replace(rules, margin_secs=0.5)) == [100, 1]


def test_wrong_first_beliefs_cost_steps_in_the_first_round() -> None:
    """A, where only a forward pass was timed, a quarter of a step."""
    assert one_round([1, 2, 4, 8], [0, 0, 0, 0], EACH_STEP, [0.25, 0.5, 1, 2]) == [2, 1, 1, 1]


def two(rules: Rules = EACH_STEP) -> Table:
    """Worker 0 takes 1 s a step, worker 1 takes 8 s; both entered round 0 at time 0."""
    table = reset(2, 0, 0)
    for rank, secs in enumerate((1.0, 8.0)):
        table, _ = report(table, Status(rank, computation_time=secs), 0)
    return table


def asked(
    table: Table, rank: int, iteration: int, now_secs: float, rules: Rules = EACH_STEP, **more: object
) -> tuple[Table, Answer]:
    status = replace(Status(rank, iteration, computation_time=(1.0, 8.0, 2.0)[rank], generation=1), **more)
    return query(table, status, rules, int(now_secs * NS))


def test_a_fast_worker_need_not_ask_after_each_step() -> None:
    _, answer = asked(two(), 0, 0, 0.0, Rules(leased=True))
    assert answer == Answer(TRAIN, 8, 1)


def test_the_same_question_gets_the_same_answer() -> None:
    table, _ = asked(two(), 0, 0, 0.0)
    table, first = asked(table, 0, 7, 7.0)
    assert first.action is TRAIN
    again, second = asked(table, 0, 7, 7.9)  # asked anew, this would be SYNC
    assert second == first
    assert again.rows[0].stamp_ns == table.rows[0].stamp_ns


def test_sync_stays_sync_within_a_round() -> None:
    table, answer = asked(two(), 0, 8, 8.0)
    assert answer.action is SYNC
    table, _ = report(table, Status(1, computation_time=100.0, generation=0), int(8.1 * NS))
    _, answer = asked(table, 0, 9, 8.2)
    assert answer.action is SYNC


def test_what_belongs_to_an_earlier_round_or_step_is_dropped() -> None:
    table, _ = asked(two(), 0, 3, 3.0)
    with pytest.raises(StaleError, match="iteration"):
        asked(table, 0, 2, 3.1)
    table, _ = report(table, Status(0, round=1, generation=1), 9 * NS)
    with pytest.raises(StaleError):
        asked(table, 0, 4, 9.1)
    with pytest.raises(StaleError, match="REPORT of round 0 is late"):
        report(table, Status(0, round=0, generation=1), 9 * NS)
    assert table.rows[0].iteration == 0


def test_a_question_before_its_round_was_entered_is_dropped() -> None:
    with pytest.raises(StaleError):
        asked(two(), 0, 0, 1.0, round=1)
    with pytest.raises(StaleError, match="REPORT comes before QUERY"):
        asked(reset(2, 0, 0), 0, 0, 1.0)


def test_a_repeated_report_shows_life_and_moves_no_clock() -> None:
    table, _ = report(two(), Status(1, generation=1), 5 * NS)
    assert (table.rows[1].stamp_ns, table.rows[1].heard_ns) == (0, 5 * NS)


def test_until_the_slowest_has_entered_the_round_others_train() -> None:
    table, _ = report(two(), Status(0, round=1, generation=1), 8 * NS)
    for iteration in range(20):
        table, answer = asked(table, 0, iteration, 8.0 + iteration, round=1)
        assert answer == Answer(TRAIN, 1, 1)


def test_a_worker_of_unknown_speed_might_be_the_slowest() -> None:
    table, _ = report(reset(2, 0, 0), Status(0, computation_time=1.0), 0)
    _, answer = asked(table, 0, 3, 3.0)
    assert answer == Answer(TRAIN, 1, 1)


def test_a_dead_straggler_is_not_waited_for() -> None:
    """It dies between two rounds, where the paper's rule would train for ever."""
    rules = Rules(lease_secs=10.0, leased=False)
    table, _ = report(two(), Status(0, round=1, generation=1), 8 * NS)
    table, answer = asked(lapsed(table, rules, 24 * NS), 0, 5, 24.0, rules, round=1)
    assert answer.action is TRAIN  # silent for 24 s: three of its steps
    table = lapsed(table, rules, 24 * NS + 1)
    assert [row.alive for row in table.rows.values()] == [True, False]
    _, answer = asked(table, 0, 6, 25.0, rules, round=1)
    assert answer.action is SYNC


def test_a_round_has_an_end_even_if_no_prediction_comes_true() -> None:
    rules = Rules(max_steps=5, leased=False)
    table, _ = report(two(), Status(0, round=1, generation=1), 8 * NS)
    _, answer = asked(table, 0, 5, 8.5, rules, round=1)
    assert answer.action is SYNC


def test_a_lease_ends_at_the_most_steps_of_a_round() -> None:
    _, answer = asked(two(), 0, 3, 0.0, Rules(max_steps=5))
    assert answer.steps == 2


def test_a_newcomer_does_not_prolong_the_round_it_joins() -> None:
    table, answer = report(two(), Status(2, computation_time=50.0), 1 * NS)
    assert answer.generation == 1
    assert table.rows[2].counts_from == 1
    table, answer = asked(table, 0, 8, 8.0)
    assert answer.action is SYNC
    for rank in (0, 1, 2):
        table, _ = report(table, Status(rank, round=1, generation=1), 9 * NS)
    _, answer = asked(table, 0, 8, 17.0, round=1)
    assert answer.action is TRAIN  # now the newcomer is the slowest


def test_who_comes_again_is_a_new_life_and_its_old_one_is_not_heard() -> None:
    table, answer = report(two(), Status(1, computation_time=8.0), 3 * NS)
    assert answer.generation == 2 and table.rows[1].counts_from == 1
    with pytest.raises(StaleError, match="come again as generation 2"):
        asked(table, 1, 1, 8.0)


def test_a_straggler_that_speeds_up_has_been_waited_for_long_enough() -> None:
    table, answer = asked(two(), 1, 1, 4.0)
    assert answer.action is SYNC
    _, answer = asked(table, 0, 4, 4.0)
    assert answer.action is SYNC


def test_a_worker_that_slows_down_becomes_the_straggler_at_once() -> None:
    _, answer = asked(two(), 0, 1, 6.0, computation_time=9.0)
    assert answer.action is SYNC


def test_after_the_last_round_workers_stop() -> None:
    table = reset(1, 2, 0)
    table, answer = report(table, Status(0, round=1, computation_time=1.0), 0)
    assert answer.action is TRAIN
    table, answer = report(table, Status(0, round=2, generation=1), NS)
    assert answer.action is STOP
    _, answer = query(table, Status(0, round=2, generation=1), EACH_STEP, NS)
    assert answer.action is STOP


@pytest.mark.parametrize("num_workers", [0, 5000])
def test_a_reset_is_for_a_number_of_workers(num_workers: int) -> None:
    with pytest.raises(UserError, match="1 to 4096 workers"):
        reset(num_workers, 0, 0)


STATUS = st.builds(
    Status,
    st.integers(0, 3),
    st.integers(0, 6),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    st.sampled_from([0.0, 1.0]),
    generation=st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), STATUS, st.integers(0, 3 * NS)), max_size=40), st.booleans())
def test_no_order_of_messages_breaks_the_table(
    messages: list[tuple[bool, Status, int]], leased: bool
) -> None:
    """Rounds and lives only grow, SYNC stays SYNC, and a life is told to train for `max_steps` at most."""
    rules, table, now = Rules(lease_secs=5.0, max_steps=5, leased=leased), reset(3, 0, 0), 0
    for asks, status, later in messages:
        now, before = now + later, table.rows.get(status.rank)
        table = lapsed(table, rules, now)
        try:
            if asks:
                table, answer = query(table, status, rules, now)
                assert answer.action is SYNC or status.iteration + answer.steps <= 5 or answer.steps == 1
            else:
                table, answer = report(table, status, now)
        except UserError:
            continue
        row = table.rows[status.rank]
        if before is not None:
            assert (row.generation, row.round) >= (before.generation, 0)
            same = (row.generation, row.round) == (before.generation, before.round)
            if same and before.entered and before.synced:
                assert row.synced
            if row.generation == before.generation:
                assert row.round >= before.round
