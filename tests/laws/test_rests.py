"""A client that has had a task is left alone for `rest_secs`, whoever draws and at whatever pace."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import muster

REST = 400.0
NUM_CLIENTS = 60
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {"pace": {"cohort": 5, "over_commit": 1.4, "deadline_secs": 60.0, "min_reports": 1}},
    "oort": {"pace": {"cohort": 5, "over_commit": 1.4}},
    "tifl": {"pace": {"cohort": 5}},
    "refl": {"pace": {"cohort": 5}},
    "power_of_choice": {"pace": {"cohort": 5}},
    "fedbuff": {"pace": {"concurrency": 8, "size": 4}},
    "fedasync": {"pace": {"concurrency": 8}},
    "asgd": {},
}

ASKING = ("tifl", "power_of_choice")
"""They also ask clients for a number, and who is asked that does not rest, nor when its answer is lost."""


def run(algorithm: str, rest_secs: float) -> list[muster.Record]:
    """The records of 16 versions with the tasks of all clients."""
    phones = {"dropout": 0.0} if algorithm in ASKING else {"availability": "diurnal", "dropout": 0.2}
    made = muster.load_job(
        {
            "data": {"name": "digits", "partition": {"name": "dirichlet", "num_clients": NUM_CLIENTS}},
            "model": "logistic",
            "population": {"name": "mobile", **phones},
            "clock": {"compute": "examples"},
            "participation": {"rest_secs": rest_secs},
            "algorithm": {"name": algorithm, **ALGORITHMS[algorithm]},
            "track": {"timeline": NUM_CLIENTS},
            "stop": {"rounds": 16},
        }
    )
    return list(muster.simulate(made, clock_only=True))


def gaps(records: list[muster.Record]) -> list[float]:
    """Seconds from the end of each task of a client to the beginning of its next."""
    by_client: dict[int, list[tuple[float, float]]] = {}
    for record in records:
        for span in record.spans:
            if span.outcome != "measured":
                by_client.setdefault(span.client, []).append((span.sent_secs, span.end_secs))
    return [
        later[0] - earlier[1] for spans in by_client.values() for earlier, later in pairwise(sorted(spans))
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nobody_is_asked_again_before_it_has_rested(algorithm: str) -> None:
    rested, free = gaps(run(algorithm, REST)), gaps(run(algorithm, 0.0))
    assert min(free) < REST, "without rest somebody is asked sooner, so the test can fail"
    assert rested, "somebody is asked again in the end"
    assert min(rested) >= REST - 1e-6
