"""Time to 80 % accuracy of ESync and its siblings on FashionMNIST: 12 workers, the slowest 150 times as slow.

    python benchmarks/esync.py [--target 0.8] [--only esync ssgd ...]

A small MLP is trained in place of ResNet18, on ResNet18's clock: a step of 32 images takes the fastest
worker 23 ms and the slowest 3.5 s, and the links, one of 1 Gbit/s shared by all, carry as much less as the
model is smaller than ResNet18's 42.6 MB. The rate is 0.05 with the mean loss of a batch (the authors' code
sums the loss over the batch, which multiplies its rate by the batch size). Writes the table to
docs/benchmarks.md and the timelines of four workers of speeds 1, 2, 4, 8 to docs/img/esync.png. Needs
MUSTER_DATA and the extras [torch] and [report].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from marked import write_between

import muster

ROOT = Path(__file__).parent.parent
WORKERS = 12
MODEL_MB, RESNET18_MB, LINK_KBPS = 0.2036, 42.6, 1_000_000
KBPS = LINK_KBPS * MODEL_MB / RESNET18_MB
SPLITS = {
    "iid": {"name": "iid", "num_clients": WORKERS},
    "by class": {"name": "shards", "num_clients": WORKERS, "shards_per_client": 1},
}
EVERY = {"esync": 1, "ssgd": 5, "asgd": 24, "dcasgd": 24, "fedavg": 1}
"""Versions from one evaluation to the next."""
PACES: dict[str, dict[str, Any]] = {
    "esync": {"cohort": WORKERS},
    "ssgd": {"cohort": WORKERS},
    "asgd": {"concurrency": WORKERS},
    "dcasgd": {"concurrency": WORKERS},
    "fedavg": {"cohort": WORKERS},
}


def job(name: str, split: str, target: float, hours: float) -> dict[str, Any]:
    """The job of one row: only the algorithm differs."""
    return {
        "data": {"name": "fashion_mnist", "partition": SPLITS[split]},
        "model": "mlp",
        "algorithm": {"name": name, "pace": PACES[name], "local": {"lr": 0.05}},
        "population": {"name": "silo", "ratio": 150.0, "fastest_ms": 0.24, "kbps": KBPS},
        "clock": {"compute": "examples", "server_down_kbps": KBPS, "server_up_kbps": KBPS},
        "train": {"epochs": 1, "batch_size": 32},
        "stop": {
            "rounds": 200_000,
            "virtual_secs": hours * 3600,
            "target": {"metric": "accuracy", "value": target},
        },
        "track": {"evaluate_every": EVERY[name], "timeline": 0},
    }


def row(name: str, split: str, target: float, hours: float) -> dict[str, Any]:
    """Runs one row."""
    run = muster.simulate(job(name, split, target, hours))
    best, updates, up_bytes, versions = 0.0, 0, 0, 0
    for record in run:
        best = max(best, record.metrics.get("accuracy", 0.0))
        updates, up_bytes = updates + record.num_accepted, up_bytes + record.up_bytes
        versions = record.version
    assert run.summary is not None
    secs = run.summary.time_to_target_secs
    return {"secs": secs, "best": best, "updates": updates, "mb": up_bytes / 1e6, "versions": versions}


def timelines(path: Path) -> None:
    """Three rounds of four workers under ESync and SSGD: computing, sending, waiting."""
    from matplotlib.figure import Figure

    runs = {name: [r for r in muster.simulate(four(name)) if r.spans] for name in ("ssgd", "esync")}
    step = {s.client: s.compute_secs for s in runs["ssgd"][0].spans}  # SSGD makes one a round
    order = sorted(step, key=lambda client: step[client])
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (name, records) in zip(figure.subplots(2, 1, sharex=True), reversed(runs.items()), strict=True):
        for record in records:
            for span in record.spans:
                y, x, begun = order.index(span.client), span.sent_secs, span.sent_secs + span.down_secs
                legs = (
                    ("#56B4E9", span.down_secs),
                    ("#333333", span.compute_secs),
                    ("#0072B2", span.up_secs),
                )
                for colour, secs in (*legs, ("#CCCCCC", record.now_secs - span.end_secs)):
                    axes.barh(y, secs, left=x, height=0.62, color=colour)
                    x += secs
                for i in range(1, round(span.compute_secs / step[span.client])):
                    axes.plot([begun + i * step[span.client]] * 2, [y - 0.3, y + 0.3], color="white", lw=1)
            axes.axvline(record.now_secs, color="#D55E00", lw=1)
        axes.set(title={"esync": "ESync", "ssgd": "SSGD"}[name], ylabel="worker")
        axes.set_yticks(range(4), [f"{step[client]:g} s a step" for client in order])
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("virtual seconds (black: steps, blue: loading and sending, grey: waiting)")
    figure.savefig(path, dpi=110)


def four(name: str) -> dict[str, Any]:
    """A job of four workers whose steps take 1, 2, 4 and 8 s, and their links 1 s either way."""
    pace = {"cohort": 4, "beliefs": "population"} if name == "esync" else {"cohort": 4}
    return {
        "data": {"name": "digits", "partition": {"name": "iid", "num_clients": 4}},
        "model": "logistic",
        "algorithm": {"name": name, "pace": pace},
        "population": {"name": "silo", "ratio": 8.0, "fastest_ms": 1000 / 60, "kbps": 20.8},
        "clock": {"compute": "examples"},
        "train": {"batch_size": 20},
        "stop": {"rounds": 3},
        "engine": {"backend": "numpy"},
        "track": {"timeline": 4},
    }


def main() -> None:
    """Runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--hours", type=float, default=3.0, help="virtual time after which a run gives up")
    parser.add_argument("--only", nargs="+", default=list(PACES))
    args = parser.parse_args()
    lines = [
        f"| data | algorithm | time to {args.target:g} | against SSGD | versions | updates | sent | best |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    timelines(ROOT / "docs/img/esync.png")
    for split in SPLITS:
        done = {name: row(name, split, args.target, args.hours) for name in args.only}
        base = done.get("ssgd", {}).get("secs")
        for name, told in done.items():
            secs = told["secs"]
            reached = "not reached" if secs is None else f"{secs:,.0f} s"
            ratio = f"{secs / base - 1:+.1%}" if secs and base and name != "ssgd" else ""
            lines.append(
                f"| {split} | {name} | {reached} | {ratio} | {told['versions']:,} | {told['updates']:,} | "
                f"{told['mb']:,.0f} MB | {told['best']:.4f} |"
            )
            print(lines[-1], flush=True)
    table = "\n".join(lines)
    write_between(ROOT / "docs/benchmarks.md", "esync", table)


if __name__ == "__main__":
    main()
