"""What a second worker is worth: work A with one and two, beside the bare loop in one and two processes.

    python benchmarks/scaling.py [--turns 2] [--rounds 5]

Alternated; medians over the turns. Seconds and CPU seconds a round: where the seconds of one process are more
than its CPU seconds, others had the machine. Writes the table to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from marked import write_between
from one_run import once

HERE = Path(__file__).resolve().parent
WAYS = {
    "Muster, 1 worker": ["peers/peer_muster.py", "A", "--workers", "1"],
    "Muster, 2 workers": ["peers/peer_muster.py", "A", "--workers", "2"],
    "bare loop, 1 process": ["bare.py", "torch", "A"],
    "bare loop, 2 processes": ["bare.py", "torch2", "A"],
}


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.turns):
        for way, (script, *more) in WAYS.items():
            told = once([sys.executable, str(HERE / script), *more, "--rounds", str(args.rounds)])
            print(way, told, flush=True)
            found[way].append(told)
    secs = {way: statistics.median(each["secs"] for each in runs) for way, runs in found.items()}
    lines = ["| work A | s a round | CPU s a round | faster than with one |", "| --- | --- | --- | --- |"]
    for way, runs in found.items():
        cpu = statistics.median(each["cpu_secs"] for each in runs)
        one = secs["Muster, 1 worker" if way.startswith("Muster") else "bare loop, 1 process"]
        lines.append(f"| {way} | {secs[way]:.2f} | {cpu:.2f} | {one / secs[way]:.2f} |")
    print("\n".join(lines))
    write_between(HERE.parent / "docs/benchmarks.md", "scaling", "\n".join(lines))


if __name__ == "__main__":
    main()
