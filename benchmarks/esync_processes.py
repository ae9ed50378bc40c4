"""ESync, SSGD, SSP, ASGD and DC-ASGD deployed: four worker processes of speeds 1, 0.5, 0.25, 0.125.

    python benchmarks/esync_processes.py [--rounds 8] [--fastest-ms 100] [--only esync ssgd ...]

Each algorithm is one job file, run twice by the command: `muster deploy JOB --local 4`, a server and four
clients as processes, and `muster run JOB`, the same job on the virtual clock. The table and the picture are
made from what the runs wrote themselves: records, and the server's journal. A step is a real gradient step
of logistic regression on digits, stretched by sleep (`--step-secs`) to 100, 200, 400 and 800 ms: what is
measured is waiting. Since 8 x 100 ms is exactly 800 ms, the rule sits on its edge, and what messages take
would cost a step: the margin is half a step of the fastest, the other way.
Writes docs/img/esync_processes.png and the table in docs/benchmarks.md. Needs [net] and [report].
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marked import write_between

from muster.core.record import Record, Span
from muster.core.tables import Kind
from muster.devices.clocks import TRAIN_FACTOR
from muster.net.journal import JOURNAL, Entry, read
from muster.track.folder import RunFolder

ROOT = Path(__file__).parent.parent
SPEEDS = (1.0, 0.5, 0.25, 0.125)
WORKERS, BATCH, SLACK = len(SPEEDS), 20, 3
NAMES = {"esync": "ESync", "ssgd": "SSGD", "ssp": f"SSP, slack {SLACK}", "asgd": "ASGD", "dcasgd": "DC-ASGD"}
UPDATES = sum(round(speed / SPEEDS[-1]) for speed in SPEEDS)
"""Steps of all workers while the slowest makes one: those of an asynchronous run in one round's time."""


def job(rule: str, rounds: int, fastest_ms: float) -> dict[str, Any]:
    """The job of one row: `rounds` steps of the slowest worker, whatever the algorithm."""
    paces: dict[str, dict[str, Any]] = {
        "esync": {"cohort": WORKERS, "leases": True, "margin_secs": -fastest_ms / 2000},
        "ssgd": {"cohort": WORKERS},
        "ssp": {"workers": WORKERS, "slack": SLACK},
        "asgd": {"concurrency": WORKERS},
        "dcasgd": {"concurrency": WORKERS},
    }
    versions = {"ssp": WORKERS * rounds, "asgd": UPDATES * rounds, "dcasgd": UPDATES * rounds}
    return {
        "name": rule,
        "data": {"name": "digits", "partition": {"name": "iid", "num_clients": WORKERS}},
        "model": "logistic",
        "algorithm": {"name": rule, "pace": paces[rule], "local": {"lr": 0.2}},
        "population": {
            "name": "silo",
            "ratio": 1.0,
            "fastest_ms": fastest_ms / BATCH / TRAIN_FACTOR,
            "quotas": list(SPEEDS),
        },
        "clock": {"compute": "examples"},
        "train": {"steps": 1, "batch_size": BATCH},
        "stop": {"rounds": versions.get(rule, rounds)},
        "engine": {"backend": "numpy"},
        "track": {"evaluate_every": 1_000_000, "timeline": WORKERS},
    }


@dataclass(frozen=True)
class Run:
    """What a run's own files say; workers are numbered by speed, the fastest first."""

    records: list[Record]
    steps: list[list[int]]
    """Of each worker, the steps of its updates, in order."""
    tasks: list[list[Span]]
    """Of each worker, when these were sent and how long their legs took."""
    ending: list[Span]
    """What was under way when the run ended."""

    @classmethod
    def of(cls, folder: Path, fastest_ms: float) -> Run:
        """Reads a run folder: steps from the server's journal, or, simulated, from the time they took."""
        records = list(RunFolder.open(folder).read())
        spans = [span for record in records for span in record.spans]
        ending = [span for span in spans if span.outcome != "accepted"]
        tasks = [[s for s in spans if s.client == k and s.outcome == "accepted"] for k in range(WORKERS)]
        if (folder / JOURNAL).exists():
            entries = [body for _, body in read(folder / JOURNAL) if isinstance(body, Entry)]
            arrived = [entry for entry in entries if entry.kind == Kind.ARRIVED]
            steps = [[entry.steps for entry in arrived if entry.client == k] for k in range(WORKERS)]
        else:
            each = [fastest_ms / 1000 / speed for speed in SPEEDS]
            steps = [
                [round(span.compute_secs / secs) for span in of] for of, secs in zip(tasks, each, strict=True)
            ]
        return cls(records, steps, tasks, ending)

    @property
    def accuracy(self) -> float:
        """Of the last model."""
        return next(r.metrics["accuracy"] for r in reversed(self.records) if r.metrics)

    @property
    def versions(self) -> list[float]:
        """When versions were made, s."""
        return [record.now_secs for record in self.records if record.version and record.complete]

    def typical(self) -> list[float]:
        """Median steps of an update, by worker, without the first: speeds are not known then."""
        return [statistics.median(of[1:] or of) for of in self.steps]

    def shares(self, fastest_ms: float) -> tuple[float, float]:
        """Of the workers' time, first version to last: without a task, and in steps that counted."""
        start, end = self.versions[0], self.versions[-1]

        def inside(task: Span) -> float:
            return max(0.0, min(task.end_secs, end) - max(task.sent_secs, start))

        busy, computing = sum(map(inside, self.ending)), 0.0
        for speed, tasks, steps in zip(SPEEDS, self.tasks, self.steps, strict=True):
            for task, made in zip(tasks, steps, strict=True):
                busy += inside(task)
                part = inside(task) / (task.end_secs - task.sent_secs)
                computing += part * made * fastest_ms / 1000 / speed
        whole = WORKERS * (end - start)
        return max(1 - busy / whole, 0.0), computing / whole  # -0.0 else, of rounding

    def rate(self) -> float:
        """Updates folded in a second, from the first version to the last."""
        later = sum(record.num_accepted for record in self.records if record.version > 1)
        return later / (self.versions[-1] - self.versions[0])


def both(rule: str, rounds: int, fastest_ms: float, place: Path) -> tuple[Run, Run]:
    """Deploys a job, and simulates it."""
    conf = place / f"{rule}.json"
    conf.write_text(json.dumps(job(rule, rounds, fastest_ms)))
    slowed = [f"--step-secs={fastest_ms / 1000 / speed}" for speed in SPEEDS]
    ways = {
        "deployed": ["deploy", str(conf), "--local", str(WORKERS), *slowed],
        "simulated": ["run", str(conf)],
    }
    runs = []
    for how, command in ways.items():
        folder = place / f"{rule}-{how}"
        done = subprocess.run(
            [sys.executable, "-m", "muster", *command, "--out", str(folder), "--json"],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"muster {' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
        runs.append(Run.of(folder, fastest_ms))
    return runs[0], runs[1]


def table(found: dict[str, tuple[Run, Run]], fastest_ms: float) -> str:
    """A row for each algorithm."""
    columns = ("steps of an update, by worker", "waiting", "computing", "updates a s", "accuracy")
    lines = [f"| algorithm | {' | '.join(f'{name} | simulated' for name in columns)} |"]
    lines.append(f"| --- |{' --- |' * 2 * len(columns)}")
    for rule, runs in found.items():
        cells = [", ".join(f"{n:g}" for n in run.typical()) for run in runs]
        shares = [run.shares(fastest_ms) for run in runs]
        cells += [f"{share:.1%}" for both_of in zip(*shares, strict=True) for share in both_of]
        cells += [f"{run.rate():.1f}" for run in runs]
        cells += [f"{run.accuracy:.3f}" for run in runs]
        lines.append(f"| {NAMES[rule]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gantt(axes: Any, run: Run, secs: float, title: str) -> None:
    """What four workers did from the second version on: steps, messages, waiting."""
    start = run.versions[1]
    for k, tasks in enumerate(run.tasks):
        axes.barh(-k, secs, height=0.66, color="#D9D9D9")
        for task, steps in zip(tasks, run.steps[k], strict=True):
            x = task.sent_secs - start
            if not -1e-3 <= x < secs:
                continue
            axes.barh(-k, task.end_secs - task.sent_secs, left=x, height=0.66, color="#56B4E9")
            for i in range(steps):
                each = task.compute_secs / steps
                left = x + task.down_secs + i * each
                axes.barh(-k, each, left=left, height=0.66, color="#333333", edgecolor="white", lw=0.6)
    for made in run.versions:
        axes.axvline(made - start, color="#D55E00", lw=1)
    axes.set(xlim=(0, secs), yticks=[-k for k in range(WORKERS)])
    axes.set_yticklabels([f"speed {speed:g}" for speed in SPEEDS])
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def draw(found: dict[str, tuple[Run, Run]], fastest_ms: float, path: Path) -> None:
    """Measured above simulated, ESync beside SSGD."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for column, rule in enumerate(("esync", "ssgd")):
        for row, (run, how) in enumerate(zip(found[rule], ("deployed", "simulated"), strict=True)):
            waiting, _ = run.shares(fastest_ms)
            title = f"{NAMES[rule]}, {how}: {waiting:.0%} of the time is waiting"
            gantt(axes[row][column], run, 4 * fastest_ms / 1000 / SPEEDS[-1], title)
    for axis in axes[1]:
        axis.set_xlabel("s; black: a step, blue: messages, grey: waiting, red: a version")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs the algorithms and writes the table and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8, help="steps of the slowest worker")
    parser.add_argument("--fastest-ms", type=float, default=100.0, help="a step of the fastest worker")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="measure these, and write nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {rule: both(rule, args.rounds, args.fastest_ms, Path(folder)) for rule in args.only or NAMES}
    print(text := table(found, args.fastest_ms))
    if args.only:
        return
    draw(found, args.fastest_ms, ROOT / "docs" / "img" / "esync_processes.png")
    steps = ", ".join(f"{args.fastest_ms / speed:g}" for speed in SPEEDS)
    told = f"Each for {args.rounds} steps of the slowest; steps of {steps} ms.\n\n{text}"
    write_between(ROOT / "docs" / "benchmarks.md", "esync processes", told)


if __name__ == "__main__":
    main()
