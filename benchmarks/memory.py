"""Does memory grow with the participants of a round? Peak RSS at 10 and at 1,000 of 1,500 clients.

    python benchmarks/memory.py

Each setting is a run of its own process. Writes the table to docs/benchmarks.md. Needs MUSTER_DATA and
the extra [torch].
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from marked import write_between

JOB = """
data: {name: fashion_mnist, partition: {name: iid, num_clients: 1500}}
model: {name: leaf_cnn}
population: always_on
algorithm: {name: fedavg, pace: {cohort: 10, over_commit: 1}}
engine: {workers: 1}
stop: {rounds: 2}
"""


def peak(cohort: int, folder: Path) -> int:
    """Peak RSS in bytes of a run with so many participants a round."""
    conf = folder / "memory.yml"
    conf.write_text(JOB)
    out = folder / str(cohort)
    command = [sys.executable, "-m", "muster", "run", str(conf), f"algorithm.pace.cohort={cohort}"]
    done = subprocess.run(
        [*command, "--out", str(out), "--json"], check=True, stdout=subprocess.PIPE, text=True
    )
    summary = json.loads(done.stdout)
    assert summary["num_tasks"]["accepted"] == 2 * cohort, summary
    return int(summary["peak_rss_bytes"])


def main() -> None:
    """Prints and writes the peaks and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = {cohort: peak(cohort, Path(folder)) for cohort in (10, 100, 1000)}
    lines = ["| participants a round | peak RSS | ratio |", "| --- | --- | --- |"]
    for cohort, value in peaks.items():
        lines.append(f"| {cohort:,} | {value / 1e6:.1f} MB | {value / peaks[10]:.3f} |")
    print("\n".join(lines))
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "memory", "\n".join(lines))


if __name__ == "__main__":
    main()
