"""Muster and other platforms on works A and B, in turn; writes docs/benchmarks.md.

    python benchmarks/peers/compare.py [--cores 2] [--works A B] [--peers fedjax pfl ...] [--times N]

With one core everybody has one thread; with two everybody uses both in its own way, by its own defaults
(Muster: two workers). Each has a table of its own. On B Muster has a second line, with compiled cohorts.

Each peer lives in a virtual environment of its own under --folder, made when it is missing; `--install`
makes them and measures nothing. Every figure is kept in the folder, and a call goes on where the last one
stopped: with `--secs 200` it begins no run after 200 seconds, so that the table can be measured in pieces.
`--again muster` measures somebody anew. A peer that cannot be installed, or fails, is in the table with why.

Flower runs its own processes; on a machine without a network, run it where loopback is all there is
(`unshare -n sh -c 'ip link set lo up; exec ...'`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from marked import write_between  # noqa: E402
from one_run import FailedError, once  # noqa: E402

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
    "flsim": [TORCH, "flsim"],
    "flower": [TORCH, "flwr[simulation]", "psutil"],
    # Left to itself pip tries old versions of what FedML wants beside for half an hour.
    "fedml": [
        TORCH,
        "fedml==0.9.6",
        "setuptools<81",
        "boto3==1.44.8",
        "fastapi==0.165.0",
        "opentelemetry-api==1.45.2",
        "tritonclient==2.73.0",
        "wandb==0.13.2",
    ],
}
OURS: dict[str, dict[str, str]] = {"muster": {}, "muster, numba": {"backend": "numba"}}
"""Muster's engine by line of the table."""
BESIDE = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(HERE)}


class NotInstalledError(Exception):
    """A peer that pip cannot install here, and what it said."""


def python_of(peer: str, folder: Path) -> str:
    """The peer's own interpreter; installs it if it is not there yet.

    A failure is kept, so that it is not tried again at each call: remove the peer's folder to try again.
    """
    if peer in OURS:
        return sys.executable
    place = folder / peer
    python, failure = place / "bin/python", place / "failed.txt"
    if failure.exists():
        raise NotInstalledError(failure.read_text())
    if not (place / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        done = subprocess.run(
            [python, "-m", "pip", "install", "-q", *INSTALLS[peer]], stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "rror" in line]
            failure.write_text((errors or ["pip failed"])[-1])
            raise NotInstalledError(failure.read_text())
        (place / "installed").touch()
    return str(python)


@dataclass(frozen=True)
class Kept:
    """The figures of all runs so far, a line of JSON each: who, which work, which turn, and what it took."""

    path: Path

    def read(self) -> list[dict[str, Any]]:
        """All lines, in order."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def add(self, figures: dict[str, Any]) -> None:
        """Writes one more."""
        with self.path.open("a") as lines:
            lines.write(json.dumps(figures) + "\n")

    def drop(self, peers: list[str]) -> None:
        """Forgets what some took."""
        rest = [line for line in self.read() if line["peer"] not in peers]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in rest))


def missing(kept: Kept, works: list[str], peers: list[str], times: int) -> Iterator[tuple[str, str, int]]:
    """(work, peer, turn) of runs that are not there yet: each turn is one run of everybody, ours first.

    Whoever failed once at a work is not tried again at it.
    """
    for work in works:
        for turn in range(times):
            for peer in (*OURS, *peers) if work == "B" else ("muster", *peers):
                told = [line for line in kept.read() if (line["work"], line["peer"]) == (work, peer)]
                if not any("failed" in line or line["turn"] == turn for line in told):
                    yield work, peer, turn


def measure(peer: str, work: str, rounds: int, folder: Path, cores: int) -> dict[str, Any]:
    """One run's figures, or why there are none."""
    try:
        script = HERE / f"peer_{'muster' if peer in OURS else peer}.py"
        command = [python_of(peer, folder), str(script), work, "--rounds", str(rounds)]
        if peer in OURS:
            command += ["--workers", str(cores), "--engine", json.dumps(OURS[peer])]
        return {**once(command, BESIDE, one_thread=cores == 1 or peer in OURS), "peer": peer}
    except NotInstalledError as error:
        return {"peer": peer, "work": work, "failed": f"cannot be installed: {error}"}
    except FailedError as error:
        return {"peer": peer, "work": work, "failed": str(error)}


def table(lines: list[dict[str, Any]]) -> str:
    """Medians, and the medians of the ratios turn by turn."""
    told = [
        "| work | platform | runs | s a round | of Muster's | CPU s a round | of Muster's | RSS MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work in sorted({line["work"] for line in lines}):
        ours = {run["turn"]: run for run in lines if (run["peer"], run["work"]) == ("muster", work)}
        for peer in (*OURS, *INSTALLS):
            runs = [run for run in lines if (run["peer"], run["work"]) == (peer, work)]
            if runs:
                told.append(row(work, peer, runs, ours))
    return "\n".join(told)


def row(work: str, peer: str, runs: list[dict[str, Any]], ours: dict[int, dict[str, Any]]) -> str:
    """A line of the table; a failure says its last line instead of figures."""
    if failed := [run["failed"] for run in runs if "failed" in run]:
        why = failed[-1].strip().splitlines()[-1][:120].replace("|", "/")
        return f"| {work} | {peer} | 0 | {why} | | | | |"
    told = [work, peer, str(len(runs))]
    for key in ("secs", "cpu_secs"):
        if runs[0][key] is None:  # work is done in processes that are not its own
            told += ["", ""]
            continue
        ratios = [run[key] / ours[run["turn"]][key] for run in runs if run["turn"] in ours]
        told += [f"{statistics.median(run[key] for run in runs):.3f}"]
        told += [f"{statistics.median(ratios):.2f}x" if ratios else ""]
    told.append(f"{statistics.median(run['rss_mb'] for run in runs):.0f}")
    return f"| {' | '.join(told)} |"


def main() -> None:
    """Runs everybody in turn, prints and writes the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cores", type=int, default=2, choices=(1, 2))
    parser.add_argument("--works", nargs="+", default=["A", "B"])
    parser.add_argument("--peers", nargs="*", default=list(INSTALLS), choices=list(INSTALLS))
    parser.add_argument("--rounds", type=int, default=2, help="of each run that are timed")
    parser.add_argument("--times", type=int, default=3, help="runs of each")
    parser.add_argument("--secs", type=float, default=float("inf"), help="begins no run after so long")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache/muster-peers")
    parser.add_argument("--install", action="store_true", help="makes the environments, no more")
    parser.add_argument(
        "--again", nargs="*", default=[], help="forgets what these took, and measures them anew"
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.install:
        for peer in args.peers:
            try:
                print(peer, python_of(peer, args.folder))
            except NotInstalledError as error:
                print(f"{peer} cannot be installed: {error}")
        return
    kept, until = Kept(args.folder / f"figures-{args.cores}.jsonl"), time.monotonic() + args.secs
    kept.drop(args.again)
    for work, peer, turn in missing(kept, args.works, args.peers, args.times):
        if time.monotonic() > until:
            break
        kept.add({**measure(peer, work, args.rounds, args.folder, args.cores), "turn": turn})
        print(json.dumps(kept.read()[-1])[:300], flush=True)
    print(found := table(kept.read()))
    name = "peers" if args.cores == 1 else "peers on two cores"
    write_between(HERE.parent.parent / "docs/benchmarks.md", name, found)


if __name__ == "__main__":
    main()
