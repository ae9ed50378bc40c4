"""Muster and other platforms on works A and B, in turn, on one thread each; writes docs/benchmarks.md.

    python benchmarks/peers/compare.py [--works A B] [--peers fedjax pfl ...] [--rounds N] [--times N]

Each peer lives in a virtual environment of its own under --folder, made when it is missing. Flower runs
its own processes; on a machine without a network, run it where loopback is all there is
(`unshare -n sh -c 'ip link set lo up; exec ...'`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from marked import write_between  # noqa: E402

TORCH = "torch>=2.6,<2.14"
INSTALLS = {
    "fedjax": [
        "fedjax",
        "jax==0.4.25",
        "jaxlib==0.4.25",
        "optax==0.1.9",
        "dm-haiku==0.0.12",
        "numpy<2",
        "scipy<1.13",
    ],
    "pfl": [TORCH, "pfl[pytorch]"],
    "fedlab": [TORCH, "fedlab"],
    "flower": [TORCH, "flwr[simulation]", "psutil"],
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def python_of(peer: str, folder: Path) -> str:
    """The peer's own interpreter; installs it if it is not there yet."""
    if peer == "muster":
        return sys.executable
    place = folder / peer
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *INSTALLS[peer]], check=True)
    return str(python)


def once(peer: str, work: str, rounds: int, folder: Path) -> dict[str, Any] | None:
    """One run's figures; None if it failed, and its last lines on stderr."""
    command = [python_of(peer, folder), str(HERE / f"peer_{peer}.py"), work, "--rounds", str(rounds)]
    told = subprocess.run(
        command, env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(HERE)}, capture_output=True, text=True
    )
    lines = [line for line in told.stdout.splitlines() if line.startswith('{"peer"')]
    if told.returncode or not lines:
        print(f"{peer} failed on {work}:", told.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def main() -> None:
    """Runs everybody in turn, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="+", default=["A", "B"])
    parser.add_argument("--peers", nargs="*", default=list(INSTALLS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/muster-peers")
    args = parser.parse_args()
    lines = [
        "| work | platform | s a round | of Muster's | CPU s a round | of Muster's | RSS MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work in args.works:
        found: dict[str, list[dict[str, Any]]] = {peer: [] for peer in ["muster", *args.peers]}
        for _ in range(args.times):
            for peer, runs in found.items():
                told = once(peer, work, args.rounds, args.folder)
                runs += [told] if told else []
        ours = found["muster"]
        for peer, runs in found.items():
            if runs:
                lines.append(row(work, peer, runs, ours))
    table = "\n".join(lines)
    print(table)
    write_between(HERE.parent.parent / "docs/benchmarks.md", "peers", table)


def row(work: str, peer: str, runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """A line of the table: medians, and the median of the ratios pair by pair."""
    told = [work, peer]
    for key in ("secs", "cpu_secs"):
        values = [run[key] for run in runs]
        if None in values:  # work is done in processes that are not its own
            told += ["", ""]
            continue
        ratios = [value / our[key] for value, our in zip(values, ours, strict=False)]
        told += [f"{statistics.median(values):.3f}", f"{statistics.median(ratios):.1f}x"]
    told.append(f"{statistics.median(run['rss_mb'] for run in runs):.0f}")
    return f"| {' | '.join(told)} |"


if __name__ == "__main__":
    main()
