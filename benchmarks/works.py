"""Muster beside bare loops on works A to D, in turn, on one thread a process; writes docs/benchmarks.md.

    python benchmarks/works.py [--works A B C D] [--rounds N] [--times N]

The works are those of benchmarks/peers/workload.py, the bare loops those of benchmarks/bare.py. Each work has
a table of its own, so that they can be run one at a time.
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
    """The commands that do a work, by name; the ratios are to the first."""
    if work != "B":
        found = {f"bare {way}": [BARE, way, work] for way in ("torch2", "torch")}
        return found | {f"muster, {n} workers": [MUSTER, work, "--workers", str(n)] for n in (2, 1)}
    found = {f"bare {way}": [BARE, way, work] for way in ("jax2", "jax", "vmap2", "vmap", "torch2", "torch")}
    for backend in ("numba", "numpy", "jax"):
        engine = json.dumps({"backend": backend})
        for n in (2, 1):
            command = [MUSTER, work, "--engine", engine, "--workers", str(n)]
            found[f"muster, {backend}, {n} workers"] = command
    together = json.dumps({"mode": "cohort", "backend": "torch"})
    for n in (2, 1):
        command = [MUSTER, work, "--engine", together, "--workers", str(n)]
        found[f"muster, torch cohorts, {n} workers"] = command
    one_by_one = json.dumps({"mode": "sequential", "backend": "torch"})
    found["muster, torch, one client after another"] = [MUSTER, work, "--engine", one_by_one]
    return found


def table(work: str, rounds: int | None, times: int) -> str:
    """Medians, and medians of the ratios run by run."""
    lines = [
        f"| work {work} | s a round | of the first | CPU s a round | of the first | RSS MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways(work)}
    for _ in range(times):
        for name, command in ways(work).items():
            more = ["--rounds", str(rounds)] if rounds else []
            found[name].append(once([sys.executable, *command, *more]))
    first = next(iter(found.values()))
    for name, runs in found.items():
        told = [name]
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
    for work in args.works:
        told = table(work, args.rounds, args.times)
        load = os.getloadavg()[0]
        ran = f"Medians of {args.times} runs in turn, {args.rounds or 'all'} rounds each"
        text = f"{told}\n\n{ran}; load of the machine ({os.cpu_count()} cores) at the end: {load:.1f}."
        print(text)
        write_between(HERE.parent / "docs/benchmarks.md", f"work {work}", text)


if __name__ == "__main__":
    main()
