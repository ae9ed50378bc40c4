"""The job's clock, from the job file to virtual time."""

from __future__ import annotations

import pytest

from muster import simulate
from muster.core.errors import JobError
from muster.job import load_job

EQUAL = {"name": "always_on", "down_kbps": 1e12, "up_kbps": 1e12, "ms_per_example": 1000}
"""Links that take no time, so that a round lasts as long as its training."""


def secs(**clock: object) -> float:
    job = {"population": EQUAL, "model": "mlp", "stop": {"rounds": 1}, "clock": clock}
    *_, last = simulate(job, clock_only=True)
    return last.now_secs


def test_by_flops_a_round_is_shorter_by_what_the_model_is_smaller() -> None:
    # Digits: 64 inputs, 64 hidden units, 10 classes, against 300 million multiply-adds.
    macs = 64 * 64 + 64 * 10
    assert secs(compute="flops") / secs(compute="examples") == pytest.approx(macs / 300e6, rel=1e-4)


def test_jitter_and_changes_reach_the_clock() -> None:
    assert secs(changes=[[0, 3, 1]]) == pytest.approx(3 * secs(), rel=1e-9)
    assert secs(jitter=0.5) != secs()


def test_a_clock_that_is_none_is_refused_with_its_line() -> None:
    with pytest.raises(JobError, match=r"clock\.compute is 'flop', but must be one of .*flops"):
        load_job({"clock": {"compute": "flop"}})
    with pytest.raises(JobError, match=r"clock\.changes is \[\[1, 2\]\], but must be"):
        load_job({"clock": {"changes": [[1, 2]]}})


def test_what_a_step_takes_here_is_measured_once_and_kept() -> None:
    job = {"population": EQUAL, "model": "mlp", "stop": {"rounds": 1}, "clock": {"compute": "measured"}}
    first = simulate(job, clock_only=True)
    kept = first.job.clock.measured_ms
    assert kept is not None and 0 < kept < 100
    *_, measured = first
    *_, plain = simulate({**job, "clock": {"compute": "examples"}}, clock_only=True)
    # A device of 1,000 ms under `examples` is one of 1,000 / 41 of this machine's.
    assert measured.now_secs / plain.now_secs == pytest.approx(kept / 41.0, rel=1e-6)
    *_, again = simulate(first.job, clock_only=True)
    assert again.now_secs == measured.now_secs


def test_watts_make_joules() -> None:
    """Links take no time, so a task computes all the while."""
    job = {"population": EQUAL, "model": "mlp", "stop": {"rounds": 1}, "clock": {"compute_watts": 1.5}}
    *_, last = simulate(job, clock_only=True)
    assert last.joules_used == pytest.approx(1.5 * last.device_secs_used, rel=1e-6)
    assert last.device_secs_used > 0
    *_, plain = simulate({**job, "clock": {}}, clock_only=True)
    assert plain.joules_used is None and plain.joules_wasted_by_reason == {}
