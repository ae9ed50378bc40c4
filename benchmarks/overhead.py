"""What a task and a round cost where nothing is trained: a learner that does nothing, 10,000 clients.

    python benchmarks/overhead.py

Rounds of 1 and of 1,000 tasks, one after another and in cohorts; CPU seconds, medians. Writes the table to
docs/benchmarks.md.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from marked import write_between

from muster.compose import compose
from muster.job import load_job
from muster.learn.learner import Together, Trained

PEERS = Path(__file__).resolve().parent / "peers"
ROUNDS = 8


@dataclass
class Nothing:
    """A learner that leaves the model as it is."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def train(self, sent: Any, examples: Any, rng: Any, up: Any, kept: Any, steps: int = 0) -> Trained:
        """No step."""
        return Trained(1, 0.0, 0.0)

    def train_together(
        self, sent: Mapping[str, Any], examples: Any, owned: Sequence[slice], *_: Any
    ) -> Together:
        """No step for any."""
        zeros = np.zeros(len(owned))
        return Together(np.ones(len(owned), np.int64), zeros, zeros, [None] * len(owned))


def round_secs(tasks: int, mode: str) -> float:
    """CPU seconds of a round of so many tasks."""
    job = load_job(
        {
            "data": {"name": f"{PEERS}/peer_muster.py:Work", "work": "B"},
            "model": "logistic",
            "algorithm": {"name": "fedavg", "pace": {"cohort": tasks, "over_commit": 1}},
            "population": "always_on",
            "engine": {"backend": "numpy", "mode": mode, "workers": 1},
            "stop": {"rounds": ROUNDS},
            "track": {"evaluate_every": 10**9},
        }
    )
    session = compose(job)
    assert session.plane is not None
    trainer = session.plane._crew._trainer  # type: ignore[attr-defined]
    trainer.learner = Nothing(trainer.learner)
    ends = []
    for _ in session.sim:
        ends.append(time.process_time())
    session.close()
    return statistics.median(np.diff(ends)[1:-1].tolist())  # the first warms up, the last is evaluated


def main() -> None:
    """Prints and writes the table."""
    lines = ["| engine | us a task | ms a round of one task |", "| --- | --- | --- |"]
    for mode in ("sequential", "cohort"):
        one, many = round_secs(1, mode), round_secs(1000, mode)
        lines.append(f"| {mode} | {(many - one) / 999 * 1e6:.1f} | {one * 1e3:.2f} |")
    print("\n".join(lines))
    write_between(Path(__file__).resolve().parent.parent / "docs/benchmarks.md", "overhead", "\n".join(lines))


if __name__ == "__main__":
    main()
