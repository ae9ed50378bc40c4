"""What look-ahead is worth: FedAsync, a version an update, with one worker and with two.

    python benchmarks/ahead.py

The LEAF CNN over FashionMNIST, clients of 600 examples; 24 versions, of which the first 4 start the
workers and are left out. Writes its table to docs/benchmarks.md. Needs the extra [torch] and MUSTER_DATA.
"""

from __future__ import annotations

import time
from pathlib import Path

from marked import write_between

import muster.learn.ahead as ahead
from muster.compose import compose
from muster.job import load_job

ROUNDS, LEFT_OUT = 24, 4
SETTINGS = {1: {"no": 0}, 2: {"no": 0, "yes": ahead.AHEAD_BYTES}}
"""Workers -> look-ahead -> bytes of updates that may wait."""


def run(workers: int, bound: int) -> tuple[float, float, str]:
    """Seconds a version, tasks handed out at once, and the model's hash."""
    ahead.AHEAD_BYTES = bound
    job = load_job(
        {
            "data": {"name": "fashion_mnist", "partition": {"name": "iid", "num_clients": 100}},
            "model": "leaf_cnn",
            "algorithm": {"name": "fedasync", "pace": {"concurrency": 8}},
            "engine": {"backend": "torch", "workers": workers},
            "stop": {"rounds": ROUNDS},
            "track": {"evaluate_every": 10**6},
        }
    )
    session = compose(job)
    ends = [time.perf_counter() for record in session.sim if record.version < ROUNDS]
    assert session.plane is not None
    sha, together = session.plane.spec.sha256(session.plane.params), session.plane.tasks_together
    session.close()
    return (ends[-1] - ends[LEFT_OUT]) / (len(ends) - 1 - LEFT_OUT), together or 0.0, sha


def main() -> None:
    """Prints and writes the table."""
    lines = ["| workers | look-ahead | tasks handed out at once | s a version |", "| --- | --- | --- | --- |"]
    hashes = set()
    for workers, settings in SETTINGS.items():
        for name, bound in settings.items():
            secs, together, sha = run(workers, bound)
            hashes.add(sha)
            lines.append(f"| {workers} | {name} | {together:.1f} | {secs:.2f} |")
    assert len(hashes) == 1, "look-ahead and workers must change no bit"
    lines += ["", "The models' hashes are equal."]
    print("\n".join(lines))
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "ahead", "\n".join(lines))


if __name__ == "__main__":
    main()
