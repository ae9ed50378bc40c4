"""ESync's rule by hand; whole rounds of it are in tests/net/test_state_table.py."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from muster.algorithms.esync_rule import more_steps, slowest


@dataclass
class W:
    """A worker of the rule; all in one round, at the beginning of it, unless told otherwise."""

    rank: int
    compute_ns: int
    send_ns: int = 0
    iteration: int = 0
    round: int = 0
    stamp_ns: int = 0
    synced: bool = False


def test_the_slowest_is_so_by_computing_and_sending() -> None:
    assert slowest([W(0, 2, 6), W(1, 6, 1)]) == W(0, 2, 6)


def test_ties_go_to_the_lowest_rank_and_the_unknown_may_be_the_slowest() -> None:
    assert slowest([W(2, 4), W(1, 4), W(3, 1)]) == W(1, 4)
    assert slowest([W(0, 9), W(1, 0)]) == W(1, 0)
    assert slowest([]) is None


@pytest.mark.parametrize(
    ("now_ns", "steps"),
    [(0, 8), (4, 4), (7, 1), (8, 0)],
)
def test_a_step_that_ends_with_the_slowest_still_fits(now_ns: int, steps: int) -> None:
    assert more_steps(W(0, 1, iteration=1), W(1, 8), now_ns) == steps


def test_pushing_counts_on_both_sides() -> None:
    assert more_steps(W(0, 1, send_ns=4), W(1, 8, send_ns=1), 0) == 5


def test_the_slowest_makes_one_step() -> None:
    assert more_steps(W(1, 8), W(1, 8), 0) == 1
    assert more_steps(W(1, 8, iteration=1), W(1, 8), 0) == 0


@pytest.mark.parametrize("straggler", [W(1, 8, iteration=1), W(1, 8, synced=True)])
def test_when_the_slowest_is_done_one_pushes_but_not_with_empty_hands(straggler: W) -> None:
    assert more_steps(W(0, 1, iteration=1), straggler, 0) == 0
    assert more_steps(W(0, 1), straggler, 0) == 1


@pytest.mark.parametrize("straggler", [W(1, 0), W(1, 8, round=0)])
def test_what_cannot_be_foretold_is_one_more_step(straggler: W) -> None:
    assert more_steps(W(0, 1, iteration=5, round=1), straggler, 1000) == 1


@pytest.mark.parametrize(("margin_ns", "steps"), [(0, 8), (1, 7), (9, 0), (-1, 9)])
def test_a_margin_moves_the_end(margin_ns: int, steps: int) -> None:
    assert more_steps(W(0, 1, iteration=1), W(1, 8), 0, margin_ns) == steps


def test_without_leases_or_with_nobody_starts_a_step_after_the_slowest_has_made_its_own() -> None:
    """d_s = 1 + 10: eleven steps would fit, but at 1 the slowest has made its step, and all push."""
    assert more_steps(W(0, 1), W(1, 1, send_ns=10), 0) == 1
    # It is late: it should have made its step at 1, so what fits is granted one by one.
    assert more_steps(W(0, 1, iteration=3), W(1, 1, send_ns=10), 3) == 1
    assert more_steps(W(0, 1, iteration=3), W(1, 1, send_ns=10), 11) == 0


def test_compute_only_looks_past_sending() -> None:
    workers = [W(0, 2, 6), W(1, 6, 1)]
    assert slowest(workers, "compute_only") == workers[1]
    assert more_steps(workers[0], workers[1], 0, rule="compute_only") == 3
    assert more_steps(workers[0], W(1, 6, 100), 0, rule="compute_only") == 3
