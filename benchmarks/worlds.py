"""The same training in different worlds: what unequal phones, nights and a trace change on FashionMNIST.

    python benchmarks/worlds.py [--rounds 100] [--seeds 8]

FedAvg with over-commitment 1.3 on configs/fashion_mnist.yml with the mlp; only the population differs. The
imported one is of 2,023 rows of FedScale's device trace, in MUSTER_DATA/traces. Writes the table to
docs/benchmarks.md and the picture docs/img/worlds.png.
Needs MUSTER_DATA and the extras [torch] and [report].
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from marked import write_between

ROOT = Path(__file__).parent.parent
TARGET = 0.8
"""Accuracy whose time is told."""
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73")

Runs = dict[str, list[list[dict[str, Any]]]]


def worlds(folder: Path) -> dict[str, list[str]]:
    """The settings of each world; makes the imported one's folder."""
    traces = folder / "traces"
    if not traces.exists():
        file = Path(os.environ["MUSTER_DATA"]) / "traces/device_capacity_recovered.csv"
        muster("devices", "import", str(file), "--out", str(traces))
    return {
        "always on": ["population={name: always_on}"],
        "phones": ["population={name: mobile}"],
        "phones by day and night": ["population={name: mobile, availability: diurnal}"],
        "imported trace": [f"population={{name: imported, path: {traces}, dropout: 0.06}}"],
    }


def muster(*arguments: str) -> None:
    """Runs a command of Muster."""
    subprocess.run([sys.executable, "-m", "muster", *arguments], check=True)


def run(world: str, pairs: list[str], seed: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The records of one run."""
    out = folder / f"{world.replace(' ', '-')}-{seed}"
    if not (out / "summary.json").exists():
        # The MLP stands in for a model of the size of the trace's, and is timed as such.
        fixed = ["model.name=mlp", "clock.compute=examples", "algorithm.pace.over_commit=1.3"]
        fixed += [f"seed={seed}", f"stop.rounds={rounds}"]
        muster("run", str(ROOT / "configs/fashion_mnist.yml"), *fixed, *pairs, "--out", str(out))
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["version"] <= rounds]


def final(records: list[dict[str, Any]]) -> float:
    """Mean accuracy of the last three evaluations."""
    return statistics.mean([r["metrics"]["accuracy"] for r in records if r["metrics"]][-3:])


def paired(runs: Runs) -> str:
    """What day and night cost in accuracy, seed by seed."""
    told = []
    for other in ("always on", "phones", "imported trace"):
        pairs = zip(runs[other], runs["phones by day and night"], strict=True)
        more = [final(one) - final(nights) for one, nights in pairs]
        error = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else 0.0
        told.append(f"{other} {statistics.mean(more):.4f} ± {error:.4f} ({sum(m > 0 for m in more)} seeds)")
    return (
        "More accurate than by day and night, seed by seed (± standard error; in how many seeds): "
        f"{', '.join(told)}."
    )


def row(world: str, runs: list[list[dict[str, Any]]]) -> str:
    """A line of the table: means over the seeds."""

    def mean(of: Any) -> float:
        return statistics.mean(of(records) for records in runs)

    def reached(records: list[dict[str, Any]]) -> float:
        times = [r["now_secs"] for r in records if r["metrics"].get("accuracy", 0.0) >= TARGET]
        return times[0] / 3600 if times else float("nan")

    def shares(records: list[dict[str, Any]]) -> list[int]:
        tasks = Counter(client for r in records for client in r["clients"])
        return sorted((tasks[c] for c in range(100)), reverse=True)

    last = [final(records) for records in runs]
    spread = statistics.stdev(last) if len(last) > 1 else 0.0
    hours = mean(lambda rs: rs[-1]["now_secs"] / 3600)
    medians = mean(lambda rs: statistics.median(b["now_secs"] - a["now_secs"] for a, b in pairwise(rs)))
    used = mean(lambda rs: sum(r["device_secs_used"] for r in rs))
    wasted = mean(lambda rs: sum(r["device_secs_wasted"] for r in rs))
    top = mean(lambda rs: sum(shares(rs)[:20]) / max(sum(shares(rs)), 1))
    never = mean(lambda rs: shares(rs).count(0))
    return (
        f"| {world} | {statistics.mean(last):.4f} ± {spread:.4f} | {hours:.2f} h | {mean(reached):.2f} h "
        f"| {medians:.0f} s | {100 * wasted / (used + wasted):.0f} % | {100 * top:.0f} % | {never:.0f} |"
    )


def draw(runs: Runs, file: Path) -> None:
    """Accuracy against rounds and against virtual hours; a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (world, seeds), colour in zip(runs.items(), COLOURS, strict=True):
        for number, everything in enumerate(seeds):
            records = [r for r in everything if r["metrics"]]
            accuracy = [r["metrics"]["accuracy"] for r in records]
            style = {"color": colour, "lw": 0.9, "alpha": 0.7, "label": world if number == 0 else None}
            left.plot([r["version"] for r in records], accuracy, **style)
            hours = [max(r["now_secs"], 1.0) / 3600 for r in records]
            right.plot(hours, accuracy, **style)
    left.set(xlabel="rounds of 10 updates", ylabel="test accuracy")
    right.set(xlabel="virtual hours", xscale="log", xlim=(3e-3, None), ylim=(0.5, 0.9))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keep the run folders here, and reuse finished ones")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    done = {
        world: [run(world, pairs, seed, args.rounds, folder) for seed in range(args.seeds)]
        for world, pairs in worlds(folder).items()
    }
    draw(done, ROOT / "docs/img/worlds.png")
    lines = [
        f"FedAvg, mlp, {args.rounds} rounds of 10 of 13, {args.seeds} seeds; means "
        "(± standard deviation over seeds).",
        "",
        "| world | accuracy, last 3 evaluations | all rounds | accuracy 0.8 after | median round | device "
        "time wasted | updates by the 20 busiest of 100 | clients never used |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(world, runs) for world, runs in done.items()),
        "",
        paired(done),
    ]
    table = "\n".join(lines)
    print(table)
    write_between(ROOT / "docs/benchmarks.md", "worlds", table)


if __name__ == "__main__":
    main()
