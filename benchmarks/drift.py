"""What unequal work and unequal data do to the mean, and what FedNova, SCAFFOLD and FedDyn do about it.

    python benchmarks/drift.py [--seeds 5] [--rounds 40]

First: four quadratics (w - a)² / 2 whose clients take 8, 4, 2 and 1 steps; where rounds come to rest, by the
rules of the house themselves. The optimum of the mean loss is 2.5.

Second: digits, two classes a client, 50 clients, 10 a round, 5 epochs; each algorithm at the best of the same
rates. Writes both tables to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
from math import sqrt
from pathlib import Path

import numpy as np
from marked import write_between

import muster
from muster.algorithms.fedavg import SGD, Mean
from muster.algorithms.fednova import Nova
from muster.core.algorithm import Combine, Info
from muster.core.errors import UserError
from muster.core.tables import REPORT, rows

ROOT = Path(__file__).parent.parent
STEPS, OPTIMA = (8, 4, 2, 1), (1.0, 2.0, 3.0, 4.0)
NAMES = ("fedavg", "scaffold", "feddyn")
RATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantiles of Student's t, by number of seeds."""


def rest(combine: Combine, lr: float, rounds: int = 20_000) -> float:
    """Where rounds of the four clients come to rest, from 0."""
    local, w = SGD(lr=lr), 0.0
    worth = [local.worth(steps) for steps in STEPS]
    reports = rows(REPORT, 4, num_examples=1, num_steps=STEPS, a_norm=worth)
    share = combine.weights(reports) / combine.divisors(reports).sum()
    for number in range(rounds):
        updates = []
        for steps, optimum in zip(STEPS, OPTIMA, strict=True):
            y = np.array([w])
            for _ in range(steps):
                y, _ = local.step(y, y - optimum, {}, {})
            updates.append(float(y[0]) - w)
        mean = {"delta": np.array([share @ updates])}
        folded, _ = combine.finish(mean, reports, {}, Info(number + 1, 4, 4))
        moved = float(folded.get("delta", mean["delta"])[0])
        w += moved
        if abs(moved) < 1e-12:
            break
    return w


def accuracies(name: str, lr: float, seed: int, rounds: int) -> list[float]:
    """Test accuracy after a quarter of the rounds and after all of them."""
    partition = {"name": "shards", "num_clients": 50, "shards_per_client": 2}
    job = {
        "data": {"name": "digits", "partition": partition},
        "algorithm": {"name": name, "local": {"lr": lr}},
        "population": "always_on",
        "train": {"epochs": 5, "batch_size": 10},
        "engine": {"backend": "numpy", "workers": 1},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": rounds // 4},
        "seed": seed,
    }
    try:
        found = {record.version: record.metrics for record in muster.simulate(job)}
    except UserError:  # it left the numbers that can be trained
        return [0.1, 0.1]
    return [found[rounds // 4]["accuracy"], found[rounds]["accuracy"]]


def told(values: list[float]) -> str:
    """Mean ± half the 95 % confidence interval."""
    spread = STUDENT[len(values)] * statistics.stdev(values) / sqrt(len(values))
    return f"{statistics.mean(values):.4f} ± {spread:.4f}"


def main() -> None:
    """Runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, choices=STUDENT)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    rules = {"mean": Mean(), "mean by steps": Mean(by="steps"), "FedNova": Nova()}
    lines = [
        "| combination | " + " | ".join(f"lr {lr:g}" for lr in (0.1, 0.01, 0.001)) + " |",
        "| --- " * 4 + "|",
    ]
    for name, rule in rules.items():
        lines.append(f"| {name} | " + " | ".join(f"{rest(rule, lr):.4f}" for lr in (0.1, 0.01, 0.001)) + " |")
    lines += [
        "",
        f"{args.seeds} seeds, mean ± 95 % interval; the rate is the best of {RATES} after all rounds.",
        "",
    ]
    lines += [
        f"| algorithm | rate | after {args.rounds // 4} rounds | after {args.rounds} | by rate, in order |"
    ]
    lines += ["| --- " * 5 + "|"]
    for name in NAMES:
        by_rate = {lr: [accuracies(name, lr, s, args.rounds) for s in range(args.seeds)] for lr in RATES}
        means = {lr: statistics.mean(last for _, last in found) for lr, found in by_rate.items()}
        best = max(means, key=means.__getitem__)
        early, late = zip(*by_rate[best], strict=True)
        every = ", ".join(f"{mean:.3f}" for mean in means.values())
        lines.append(f"| {name} | {best:g} | {told(list(early))} | {told(list(late))} | {every} |")
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    print(table)
    write_between(ROOT / "docs/benchmarks.md", "drift", table)


if __name__ == "__main__":
    main()
