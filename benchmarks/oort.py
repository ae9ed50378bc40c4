"""Does guided selection reach an accuracy sooner? Oort against uniform selection, with YoGi and with Prox.

    python benchmarks/oort.py [--seeds 5] [--rounds 200]

FashionMNIST dealt out as OpenImage's clients are: 500 rows of the real label histograms of Oort's
repository (50 of its classes, folded into 10), all divided by the same number, so that sizes and labels
stay as unequal as they were. Phones that come and go, 20 of 26 a round. Writes its table to
docs/benchmarks.md. Needs MUSTER_DATA and the extra [torch].
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from marked import write_between

import muster
from muster.data.fashion_mnist import FashionMNIST
from muster.data.partition import Assignment, Partition

SELECTS = {"uniform": "uniform", "Oort": "oort"}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "YoGi": {"name": "fedyogi", "server": {"lr": 0.01}},
    "Prox": {"name": "fedprox"},
}
TARGETS = (0.70, 0.75, 0.80)


@dataclass(frozen=True)
class OpenImage(Partition):
    """Label histograms of OpenImage's clients, over the ten classes of FashionMNIST."""

    num_clients: int = 500

    def assign(
        self,
        labels: npt.NDArray[np.int64],
        num_classes: int,
        natural: npt.NDArray[np.int32] | None,
        rng: np.random.Generator,
    ) -> Assignment:
        """Rows with at least 20 images, drawn at random; one scale for all, as large as the classes allow."""
        path = Path(os.environ["MUSTER_DATA"]) / "traces/oort-client-sizes/openImg_size.txt.gz"
        rows = np.loadtxt(path, dtype=np.int64)
        folded = np.stack([rows[:, g::num_classes].sum(axis=1) for g in range(num_classes)], axis=1)
        folded = folded[folded.sum(axis=1) >= 20]
        drawn = folded[rng.choice(len(folded), self.num_clients, replace=False)]
        supply = np.bincount(labels, minlength=num_classes)
        counts = np.floor(drawn * (supply / drawn.sum(axis=0)).min()).astype(np.int64)
        counts[counts.sum(axis=1) == 0, 0] = 1
        owner = np.full(len(labels), -1, np.int64)
        for g in range(num_classes):
            of_class = rng.permutation(np.flatnonzero(labels == g))
            given = np.repeat(np.arange(self.num_clients), counts[:, g])[: len(of_class)]
            owner[of_class[: len(given)]] = given
        kept = np.flatnonzero(owner >= 0)
        order = kept[np.argsort(owner[kept], kind="stable")]
        offsets = np.r_[0, np.cumsum(np.bincount(owner[kept], minlength=self.num_clients))]
        return Assignment(order, offsets.astype(np.int64))


def curve(algorithm: dict[str, Any], select: str, seed: int, rounds: int) -> list[tuple[float, float]]:
    """(virtual minutes, accuracy) of each evaluation."""
    job = {
        "data": FashionMNIST(partition=OpenImage()),
        "model": "mlp",
        "population": {"name": "mobile", "availability": "diurnal"},
        "algorithm": {**algorithm, "pace": {"cohort": 20, "over_commit": 1.3}, "select": {"name": select}},
        "engine": {"workers": 1},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 2},
        "seed": seed,
    }
    return [(r.now_secs / 60, r.metrics["accuracy"]) for r in muster.simulate(job) if r.metrics]


def reached(points: list[tuple[float, float]], target: float) -> float | None:
    """Virtual minutes until the accuracy was first there."""
    return next((minutes for minutes, accuracy in points if accuracy >= target), None)


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    lines = [
        "| server and client | accuracy | uniform, minutes | Oort, minutes | speed-up, each seed | mean |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    final = []
    for name, algorithm in ALGORITHMS.items():
        runs = {
            select: [curve(algorithm, select, seed, args.rounds) for seed in range(args.seeds)]
            for select in SELECTS.values()
        }
        for target in TARGETS:
            minutes = {s: [reached(points, target) for points in curves] for s, curves in runs.items()}
            both = [(u, o) for u, o in zip(minutes["uniform"], minutes["oort"], strict=True) if u and o]
            ratios = [u / o for u, o in both]
            told = ["-"] * 4
            if both:
                told = [f"{statistics.mean(column):.2f}" for column in zip(*both, strict=True)]
                told += [", ".join(f"{r:.2f}" for r in ratios), f"{statistics.mean(ratios):.2f}"]
            missed = args.seeds - len(both)
            lines.append(
                f"| {name} | {target:.2f} | {' | '.join(told)}{f' ({missed} not there)' if missed else ''} |"
            )
        last = {s: statistics.mean(points[-1][1] for points in curves) for s, curves in runs.items()}
        spent = {s: statistics.mean(points[-1][0] for points in curves) for s, curves in runs.items()}
        final.append(
            f"{name} after {args.rounds} rounds: "
            f"uniform {last['uniform']:.4f} in {spent['uniform']:.1f} min, "
            f"Oort {last['oort']:.4f} in {spent['oort']:.1f} min."
        )
        print("\n".join(lines + final), flush=True)
    text = "\n".join([f"Mean over {args.seeds} seeds, virtual minutes.", "", *lines, "", *final])
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "oort", text)


if __name__ == "__main__":
    main()
