"""FedAvg, FedYogi and FedBuff on FashionMNIST at equal accepted tasks, from one job file.

    python benchmarks/three_algorithms.py [--model mlp|leaf_cnn] [--rounds 100] [--seeds 3]

Each differs from configs/fashion_mnist.yml in the algorithm's name and one rate. Over-commitment makes
every synchronous round end with ten updates, as every version of FedBuff does. Writes the table to
docs/benchmarks.md, between the two marks of that model, and for the mlp the picture
docs/img/three_algorithms.png.
Needs MUSTER_DATA and the extras [torch] and [report].
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from marked import write_between

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "fedavg": ["algorithm.pace.over_commit=1.3"],
    "fedyogi": ["algorithm.pace.over_commit=1.3", "algorithm.server.lr=0.01"],
    "fedbuff": [],
}


def run(name: str, model: str, seed: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The records of one run, up to version `rounds`."""
    out = folder / f"{name}-{model}-{seed}"
    if not (out / "summary.json").exists():
        pairs = [f"algorithm.name={name}", *SETTINGS[name], f"model.name={model}"]
        # Phones are timed as if either model were of the size of the trace's, so that the two compare.
        pairs += [f"seed={seed}", f"stop.rounds={rounds}", "clock.compute=examples"]
        command = [sys.executable, "-m", "muster", "run", str(ROOT / "configs/fashion_mnist.yml"), *pairs]
        subprocess.run([*command, "--out", str(out)], check=True)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["version"] <= rounds]


def row(name: str, runs: list[list[dict[str, Any]]]) -> str:
    """A line of the table: what the algorithm reached, for how much work and time."""
    evaluated = [[r["metrics"]["accuracy"] for r in records if r["metrics"]] for records in runs]
    last = [statistics.mean(accuracy[-3:]) for accuracy in evaluated]
    each = ", ".join(f"{value:.4f}" for value in last)
    tasks = statistics.mean(sum(r["num_accepted"] for r in records) for records in runs)
    hours = statistics.mean(records[-1]["now_secs"] for records in runs) / 3600
    secs = statistics.mean(records[-1]["wall_secs"] for records in runs)
    return f"| {name} | {each} | {statistics.mean(last):.4f} | {tasks:.0f} | {hours:.2f} h | {secs:.0f} s |"


def draw(runs: dict[str, list[list[dict[str, Any]]]], path: Path) -> None:
    """Accuracy against rounds and against virtual hours; a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for (name, seeds), colour in zip(runs.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True):
        for number, everything in enumerate(seeds):
            records = [r for r in everything if r["metrics"]]
            accuracy = [r["metrics"]["accuracy"] for r in records]
            label = name if number == 0 else None
            left.plot([r["version"] for r in records], accuracy, color=colour, lw=1.4, label=label)
            hours = [r["now_secs"] / 3600 for r in records]
            right.plot(hours, accuracy, color=colour, lw=1.4, label=label)
    left.set(xlabel="versions of 10 updates", ylabel="test accuracy")
    right.set(xlabel="virtual hours", ylim=(0.5, 0.92))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", choices=("mlp", "leaf_cnn"), default="mlp")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keep the run folders here, and reuse finished ones")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    done = {
        name: [run(name, args.model, seed, args.rounds, folder) for seed in range(args.seeds)]
        for name in SETTINGS
    }
    if args.model == "mlp":
        draw(done, ROOT / "docs/img/three_algorithms.png")
    lines = [
        "| algorithm | accuracy per seed (mean of the last 3 evaluations) | mean | tasks | virtual | wall |",
        "| --- | --- | --- | --- | --- | --- |",
        *(row(name, runs) for name, runs in done.items()),
    ]
    what = f"Model {args.model}, {args.seeds} seeds, {args.rounds} versions of 10 updates."
    table = "\n".join([what, "", *lines])
    print(table)
    write_between(ROOT / "docs/benchmarks.md", f"three_algorithms {args.model}", table)


if __name__ == "__main__":
    main()
