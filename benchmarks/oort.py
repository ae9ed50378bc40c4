"""Does guided selection reach an accuracy sooner? Oort against uniform selection, with YoGi and with Prox.

    python benchmarks/oort.py [--seeds 5] [--rounds 200]

FashionMNIST dealt out as OpenImage's clients are: 500 rows of the real label histograms of Oort's
repository (50 of its classes, folded into 10), all divided by the same number, so that sizes and labels
stay as unequal as they were. The speeds and links of phones, 20 of 26 a round. A task is 20 steps, as in
the paper's experiments, or an epoch, whose time grows with the client's examples; phones are always there, or
come and go by day and night. Writes its table to docs/benchmarks.md. Needs MUSTER_DATA and the extra [torch].
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from marked import write_between

import muster
from muster.data.fashion_mnist import FashionMNIST
from muster.data.partition import Assignment, Partition

OORT: dict[str, dict[str, Any]] = {"Oort": {}, "Oort, nobody barred": {"blacklist_after": 0}}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "YoGi": {"name": "fedyogi", "server": {"lr": 0.01}},
    "Prox": {"name": "fedprox"},
}
STEPS: dict[str, Any] = {"steps": 20}
SETTINGS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "20 steps, always there": (STEPS, "always", list(OORT)),
    "20 steps, day and night": (STEPS, "diurnal", ["Oort"]),
    "an epoch, always there": ({"epochs": 1}, "always", ["Oort"]),
}
"""What a task is, when phones are there, and which selects are held against the uniform one."""
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


Curve = list[tuple[float, float]]
"""(virtual minutes, accuracy) of each evaluation."""


def curve(algorithm: dict[str, Any], select: dict[str, Any], setting: str, seed: int, rounds: int) -> Curve:
    """One run."""
    train, availability, _ = SETTINGS[setting]
    job = {
        "data": FashionMNIST(partition=OpenImage()),
        "model": "mlp",
        "population": {"name": "mobile", "availability": availability},
        "clock": {"compute": "examples"},  # the MLP stands in for a model of the size of the trace's
        "algorithm": {**algorithm, "pace": {"cohort": 20, "over_commit": 1.3}, "select": select},
        "train": train,
        "engine": {"workers": 1},
        "stop": {"rounds": rounds},
        "track": {"evaluate_every": 2},
        "seed": seed,
    }
    return [(r.now_secs / 60, r.metrics["accuracy"]) for r in muster.simulate(job) if r.metrics]


def reached(points: Curve, target: float) -> float | None:
    """Virtual minutes until the accuracy was first there."""
    return next((minutes for minutes, accuracy in points if accuracy >= target), None)


def compared(uniform: list[Curve], guided: list[Curve], target: float) -> str:
    """The cells of a target: means over the seeds in which both got there, and how much sooner one was."""
    times = [[reached(points, target) for points in curves] for curves in (uniform, guided)]
    both = [(u, o) for u, o in zip(*times, strict=True) if u and o]
    cells = ["-"] * 4
    if both:
        ratios = [u / o for u, o in both]
        cells = [f"{statistics.mean(column):.1f}" for column in zip(*both, strict=True)]
        cells += [", ".join(f"{r:.2f}" for r in ratios), f"{statistics.geometric_mean(ratios):.2f}"]
    there = ", ".join(str(sum(time is not None for time in column)) for column in times)
    return " | ".join([*cells, there])


def ends(curves: list[Curve]) -> str:
    """The mean of the last points."""
    accuracy, minutes = (statistics.mean(points[-1][i] for points in curves) for i in (1, 0))
    return f"{accuracy:.4f} in {minutes:.1f} min"


def table(setting: str, seeds: int, rounds: int) -> Iterator[tuple[list[str], str]]:
    """For each algorithm its rows, and where its runs end."""
    for name, algorithm in ALGORITHMS.items():
        selects = {"uniform": {"name": "uniform"}}
        selects |= {key: {"name": "oort", **OORT[key]} for key in SETTINGS[setting][2]}
        runs = {
            key: [curve(algorithm, select, setting, seed, rounds) for seed in range(seeds)]
            for key, select in selects.items()
        }
        yield (
            [
                f"| {setting} | {name} | {key} | {target:.2f} | "
                f"{compared(runs['uniform'], runs[key], target)} |"
                for key in list(selects)[1:]
                for target in TARGETS
            ],
            f"- {setting}, {name}: " + "; ".join(f"{key} {ends(runs[key])}" for key in selects) + ".",
        )


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    lines = [
        "| task, phones | server and client | select | accuracy | uniform, min | its own, min "
        "| speed-up, each seed | geometric mean | seeds there: uniform, its own |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    final = []
    for setting in SETTINGS:
        for rows, end in table(setting, args.seeds, args.rounds):
            lines += rows
            final.append(end)
            print("\n".join([*rows, end]), flush=True)
    told = f"{args.seeds} seeds, virtual minutes; means over the seeds in which both got there."
    text = "\n".join([told, "", *lines, "", f"After {args.rounds} rounds:", "", *final])
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "oort", text)


if __name__ == "__main__":
    main()
