"""A coordinate median of 1,000 updates of 25 MB: from a file, in blocks of coordinates, in less than 1 GB.

    python benchmarks/spill.py [--updates K] [--size P] [--folder DIR]

Writes K updates of P numbers to the spill file, as workers do, and folds them, as the plane does. Each is the
same vector and a number of its own, so the median is known, and is checked. Says how long writing, reading
and the medians took, and the peak RSS. Writes the table to docs/benchmarks.md. Needs 4 * K * P bytes of disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from marked import write_between

from muster.algorithms.median import Median
from muster.core.memory import peak_rss_bytes
from muster.learn.spill import Spill
from muster.learn.stopwatch import Stopwatch


def run(updates: int, size: int, folder: Path) -> dict[str, float]:
    """Seconds of writing, of reading, of the medians, and CPU seconds of each; peak RSS in bytes."""
    draw = np.random.default_rng(0)
    base = draw.integers(-1000, 1000, size).astype(np.float32)
    shifts = draw.permutation(updates).astype(np.float32)
    spill = Spill(folder / "spill" / "updates.f32", size)  # which goes with its folder
    watches = Stopwatch(), Stopwatch(time.process_time)
    for row, shift in enumerate(shifts):
        with watches[0].at("write"), watches[1].at("write"):
            spill.write(row, base + shift)
    median = np.empty(size, np.float32)
    with watches[0].at("read"), watches[1].at("read"):
        for part, block in spill.blocks(np.arange(updates)):
            with watches[0].at("fold"), watches[1].at("fold"):
                median[part] = Median().fold(block, np.zeros(updates))
    spill.clear()
    spill.close()
    np.testing.assert_array_equal(median, base + np.float32((updates - 1) / 2))
    cpu = {f"{name}_cpu": secs for name, secs in watches[1].secs.items()}
    return {**watches[0].secs, **cpu, "rss": float(peak_rss_bytes())}


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--size", type=int, default=6_553_600)
    parser.add_argument("--folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = run(args.updates, args.size, Path(folder))
    gigabytes = 4e-9 * args.updates * args.size
    lines = ["| | seconds | CPU seconds | GB a CPU second |", "| --- | --- | --- | --- |"]
    for name, what in (("write", "write the updates"), ("read", "read them in blocks"), ("fold", "medians")):
        cpu = found[f"{name}_cpu"]
        lines.append(f"| {what} | {found[name]:.1f} | {cpu:.1f} | {gigabytes / cpu:.2f} |")
    lines += [
        "",
        f"{args.updates:,} updates of {4e-6 * args.size:.1f} MB; peak RSS {found['rss'] / 1e6:.0f} MB.",
    ]
    print("\n".join(lines))
    if (args.updates, args.size) == (1000, 6_553_600):
        write_between(
            Path(__file__).resolve().parent.parent / "docs/benchmarks.md", "spill", "\n".join(lines)
        )


if __name__ == "__main__":
    main()
