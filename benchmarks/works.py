"""Muster beside bare loops on works A to D, in turn, on one thread a process; writes docs/benchmarks.md.

    python benchmarks/works.py [--works A B C D] [--rounds N] [--times N]

The works are those of benchmarks/peers/workload.py, the bare loops those of benchmarks/bare.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from marked import write_between
from one_run import once

HERE = Path(__file__).resolve().parent
MUSTER, BARE = str(HERE / "peers/peer_muster.py"), str(HERE / "bare.py")


def ways(work: str) -> dict[str, list[str]]:
    """The commands that do a work, by name; the first is what the ratios are to."""
    found = {f"bare {way}": [BARE, way, work] for way in ("torch", "torch2")}
    if work == "B":
        found |= {f"bare {way}": [BARE, way, work] for way in ("vmap", "jax")}
        found = {"bare jax": found.pop("bare jax"), **found}
        one_by_one = json.dumps({"mode": "sequential", "backend": "torch"})
        found["muster, torch, one client after another"] = [MUSTER, work, "--engine", one_by_one]
    found |= {f"muster, {n} worker{'s'[n == 1 :]}": [MUSTER, work, "--workers", str(n)] for n in (1, 2)}
    return found


def table(works: list[str], rounds: int | None, times: int) -> str:
    """Medians, and medians of the ratios run by run."""
    lines = [
        "| work | | s a round | of the first | CPU s a round | of the first | RSS MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work in works:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways(work)}
        for _ in range(times):
            for name, command in ways(work).items():
                more = ["--rounds", str(rounds)] if rounds else []
                found[name].append(once([sys.executable, *command, *more]))
        first = next(iter(found.values()))
        for name, runs in found.items():
            told = [work, name]
            for key in ("secs", "cpu_secs"):
                ratios = [run[key] / other[key] for run, other in zip(runs, first, strict=True)]
                told += [
                    f"{statistics.median(run[key] for run in runs):.3f}",
                    f"{statistics.median(ratios):.2f}",
                ]
            told.append(f"{statistics.median(run['rss_mb'] for run in runs):.0f}")
            lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    """Runs everybody in turn, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="+", default=["A", "B", "C", "D"])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    told = table(args.works, args.rounds, args.times)
    load = os.getloadavg()[0]
    text = f"{told}\n\nLoad of the machine ({os.cpu_count()} cores) at the end: {load:.1f}."
    print(text)
    write_between(HERE.parent / "docs/benchmarks.md", "works", text)


if __name__ == "__main__":
    main()
