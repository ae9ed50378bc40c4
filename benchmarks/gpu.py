"""Works A and B on a GPU, with as many clients a round as a GPU is for, beside plain torch on the same card.

    python benchmarks/gpu.py [--device cuda] [--rounds 3] [--share 1] [--only A-1000]

A with 1,000 and with 10,000 clients a round, B with 100,000; the clients are those of
benchmarks/peers/workload.py, as often as it takes. Every way runs in this process, one after another; seconds
are the median of the rounds after the first. The plain loop goes through at most 1,000 clients, and its time
is multiplied. `--share` takes a part of the clients of a round, to try the script (`--device cpu --share
0.002`). Writes the table to docs/benchmarks.md if the device is a GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
from marked import write_between  # noqa: E402
from workload import Workload, workload  # noqa: E402

MOST_BARE = 1000
"""Clients that the plain loop goes through."""


@dataclass(frozen=True)
class Row:
    """A work with so many clients a round."""

    work: str
    participants: int
    copies: int
    """How many clients have the same examples."""

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return f"{self.work}-{self.participants}"


ROWS = (Row("A", 1_000, 5), Row("A", 10_000, 50), Row("B", 100_000, 10))


def ways(row: Row) -> dict[str, dict[str, Any]]:
    """Settings of the job's engine by way."""
    together = {"mode": "cohort", "backend": "torch"}
    if row.work == "B":
        return {"muster, cohorts": together, "muster, cohorts, CUDA graphs": {**together, "graphs": True}}
    found = {
        "muster, cohorts, unfolded": {**together, "convolutions": "unfolded"},
        "muster, cohorts, unfolded, CUDA graphs": {**together, "convolutions": "unfolded", "graphs": True},
        "muster, cohorts, grouped convolutions": {**together, "convolutions": "direct"},
        "muster, cohorts, unfolded, tf32": {**together, "convolutions": "unfolded", "precision": "tf32"},
    }
    if row.participants <= MOST_BARE:
        found["muster, one client after another"] = {"mode": "sequential", "backend": "torch"}
    return found


def bare(row: Row, device: str, count: int) -> float:
    """Seconds of `count` clients in plain torch: data on the device, which is waited for at the end only."""
    import torch
    from torch_models import model

    work = workload(row.work)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    net = model(row.work).to(device)
    start = [parameter.detach().clone() for parameter in net.parameters()]
    totals = [torch.zeros_like(parameter) for parameter in start]
    put = [tuple(torch.from_numpy(array).to(device) for array in client) for client in work.clients[:count]]
    optimizer, criterion = torch.optim.SGD(net.parameters(), work.lr), torch.nn.CrossEntropyLoss()

    def client(x: Any, y: Any) -> None:
        with torch.no_grad():
            for parameter, first in zip(net.parameters(), start, strict=True):
                parameter.copy_(first)
        for index in torch.randperm(len(x)).to(device).split(work.batch_size):
            optimizer.zero_grad()
            criterion(net(x[index]), y[index]).backward()
            optimizer.step()
        with torch.no_grad():
            for total, parameter in zip(totals, net.parameters(), strict=True):
                total.add_(parameter, alpha=len(x))

    client(*put[0])
    _wait(device)
    began = time.perf_counter()
    for number in range(count):
        client(*put[number % len(put)])
    _wait(device)
    return time.perf_counter() - began


def muster(row: Row, device: str, engine: dict[str, Any], rounds: int) -> float:
    """Median seconds of a round after the first; the last one is evaluated, and not counted."""
    import muster as package

    work: Workload = workload(row.work)
    model = {"name": "mlp", "hidden": [64]} if row.work == "B" else f"{HERE}/peers/torch_models.py:WorkA"
    job = {
        "name": f"gpu-{row.name}",
        "data": {"name": f"{HERE}/peers/peer_muster.py:Work", "work": row.work, "copies": row.copies},
        "model": model,
        "algorithm": {"name": "fedavg", "pace": {"cohort": row.participants}, "local": {"lr": work.lr}},
        "population": "always_on",
        "train": {"epochs": 1, "batch_size": work.batch_size},
        "engine": {"device": device, "workers": 1, **engine},
        "stop": {"rounds": rounds + 2},
        "track": {"evaluate_every": 10**9},
    }
    walls = [record.wall_secs for record in package.simulate(job)]
    return float(np.median(np.diff(walls)[1:-1]))


def table(row: Row, device: str, rounds: int, share: float) -> Iterator[str]:
    """The lines of a row's ways, each as soon as it is measured."""
    participants = max(int(row.participants * share), 2)
    row = Row(row.work, participants, row.copies if share == 1 else 1)
    count = min(participants, MOST_BARE)
    times = participants / count
    plain = bare(row, device, count) * times
    told = "" if times == 1 else f" ({count:,} clients, times {times:g})"
    what = f"{row.work}, {participants:,}"
    yield f"| {what} | plain torch, one client after another{told} | {plain:.3f} | 1.00 |"
    for name, engine in ways(row).items():
        if (engine.get("precision") == "tf32" or "graphs" in engine) and not device.startswith("cuda"):
            continue
        secs = muster(row, device, engine, rounds)
        yield f"| {what} | {name} | {secs:.3f} | {secs / plain:.3f} |"


def _wait(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    """Prints the table, and writes it if it is a GPU's."""
    plainly = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plainly)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS])
    args = parser.parse_args()
    import torch

    gpu = args.device.startswith("cuda")
    if gpu and not torch.cuda.is_available():
        sys.exit(
            f"--device is {args.device}, but torch {torch.__version__} finds no GPU here; run it on a "
            "machine with one, or try the script with --device cpu --share 0.002"
        )
    lines = ["| work, clients a round | way | s a round | of the plain loop |", "| --- | --- | --- | --- |"]
    print("\n".join(lines))
    for row in ROWS:
        if args.only is None or row.name in args.only:
            for line in table(row, args.device, args.rounds, args.share):
                print(line, flush=True)
                lines.append(line)
    if not gpu:
        return
    peak = torch.cuda.max_memory_allocated(args.device) / 2**30
    card = torch.cuda.get_device_name(args.device)
    end = f"{card}, torch {torch.__version__}; at most {peak:.1f} GiB of its memory."
    if args.share == 1 and args.only is None:
        write_between(HERE.parent / "docs/benchmarks.md", "gpu", "\n".join([*lines, "", end]))
    print(end)


if __name__ == "__main__":
    main()
