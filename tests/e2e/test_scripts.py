"""Scripts of a user's that simulate with several workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import PATIENCE_SECS

SIMULATE = """
import dataclasses
import muster
print("the script runs")
engine = {"backend": "numpy", "workers": 2}
job = muster.load_job({"model": "logistic", "engine": engine, "stop": {"rounds": 2}})
"""


def ran(folder: Path, text: str) -> list[str]:
    """What a script prints."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_script_simulates_where_it_is_read_and_workers_do_not_run_it_again(tmp_path: Path) -> None:
    printed = ran(tmp_path, f"{SIMULATE}print([record.version for record in muster.simulate(job)])\n")
    assert printed == ["the script runs", "[0, 1, 2]"]


PART = """
from muster.algorithms.fedavg import SGD

@dataclasses.dataclass(frozen=True)
class Mine(SGD):
    pass

if __name__ == "__main__":
    algorithm = job.algorithm.but(local=Mine())
    print([record.version for record in muster.simulate(dataclasses.replace(job, algorithm=algorithm))])
"""


def test_workers_find_a_part_that_is_defined_in_the_script(tmp_path: Path) -> None:
    assert "[0, 1, 2]" in ran(tmp_path, SIMULATE + PART)
