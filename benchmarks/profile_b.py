"""What a round of work B is made of; writes docs/benchmarks.md.

    python benchmarks/profile_b.py [--backends numpy numba jax] [--rounds N]

First in one process, stretch by stretch in CPU time (so that a busy machine disturbs it little), then with
two workers in wall time, as `muster run --profile` tells it. Work B is that of benchmarks/peers/workload.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from marked import write_between

from muster.compose import Session, compose
from muster.job import load_job
from muster.learn.stopwatch import Stopwatch
from muster.learn.together import TrainsTogether
from muster.learn.trainer import Trainer
from muster.tasks.classification import Classification

PEERS = Path(__file__).resolve().parent / "peers"
WARM = 3
"""Rounds that are not counted."""

REST = "all else: selection, clock, reports, the server's step"
PARTS = {
    "keys of the draws": [(Trainer, "draws")],
    "shuffles, who is in which batch": [(TrainsTogether, "_schedule")],
    "examples of the batches": [(Classification, "batch")],
    "forward and backward": [],
    "losses of clients": [("muster.learn.together", "_means")],
    "all else of local training": [(TrainsTogether, "train_together")],
    "norms": [],
    "largest coordinates": [],
    "fixed-point sum": [],
    "all else of folding": [(Trainer, "fold")],
    "all else of chunks": [(Trainer, "train")],
}
"""Stretches as they are told, and the functions that they are; of nested ones the inner counts."""


def session(backend: str, workers: int, rounds: int, watch: Stopwatch | None = None) -> Session:
    """Work B, ready to run."""
    if str(PEERS) not in sys.path:  # the work's module imports another of its folder
        sys.path.insert(0, str(PEERS))
    job = {
        "data": {"name": f"{PEERS}/peer_muster.py:Work", "work": "B"},
        "model": {"name": "mlp", "hidden": [64]},
        "algorithm": {"name": "fedavg", "pace": {"cohort": 1000}, "local": {"lr": 0.1}},
        "population": "always_on",
        "train": {"epochs": 1, "batch_size": 10},
        "engine": {"workers": workers, "backend": backend, "mode": "cohort"},
        "stop": {"rounds": WARM + rounds + 1},  # the last one is evaluated, and not counted
        "track": {"evaluate_every": 10**9},
    }
    return compose(load_job(job), watch=watch)


@contextmanager
def timed(watch: Stopwatch, learner: Any) -> Iterator[None]:
    """Has the watch take the time of the stretches."""
    places = {name: list(found) for name, found in PARTS.items()}
    module = sys.modules.get("muster.learn.kernels")
    inner = {"numba": (module, "backward"), "jax": (learner, "_program")}
    for name, method in (("norms", "norms"), ("largest coordinates", "extremes"), ("fixed-point sum", "add")):
        places[name] = [(type(learner.passes), method)]
    places["forward and backward"] = [inner.get(getattr(learner, "backend", ""), (learner, "_backward"))]
    with ExitStack() as stack:
        for name, found in places.items():
            for owner, attribute in found:
                owner = sys.modules[owner] if isinstance(owner, str) else owner
                new = under(watch, name, awaited(getattr(owner, attribute)))
                stack.enter_context(patch.object(owner, attribute, new))
        yield


def under(watch: Stopwatch, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, under the watch."""

    def call(*args: Any, **settings: Any) -> Any:
        with watch.at(name):
            return function(*args, **settings)

    return call


def awaited(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose result is there when it returns: JAX answers before it has computed."""
    jax = sys.modules.get("jax")
    return function if jax is None else lambda *args, **more: jax.block_until_ready(function(*args, **more))


def in_one_process(backend: str, rounds: int) -> dict[str, float]:
    """CPU milliseconds a round by stretch."""
    made, watch = session(backend, 1, rounds), Stopwatch(time.process_time)
    crew = made.plane._crew  # type: ignore[union-attr]
    records = iter(made.sim)
    with timed(watch, crew._trainer.learner):  # type: ignore[attr-defined]
        for _ in range(WARM):
            next(records)
        watch.read()
        begin = time.process_time()
        for _ in range(rounds):
            next(records)
        whole = time.process_time() - begin
    made.close()
    told = {name: 1e3 * watch.secs.get(name, 0.0) / rounds for name in PARTS}
    told[REST] = 1e3 * whole / rounds - sum(told.values())
    return told


def with_workers(backend: str, rounds: int) -> dict[str, float]:
    """Wall milliseconds a round of the parent and of both workers, by phase."""
    watch = Stopwatch()
    made = session(backend, 2, rounds, watch)
    records = iter(made.sim)
    for _ in range(WARM):
        next(records)
    for each in (watch, *watch.workers.values()):
        each.read()
    begin = time.perf_counter()
    for _ in range(rounds):
        next(records)
    whole = 1e3 * (time.perf_counter() - begin) / rounds
    told = {"a round": whole}
    known = {name: 1e3 * secs / rounds for name, secs in watch.secs.items()}
    told["parent, waiting for workers"] = known.pop("wait", 0.0)
    told["parent, at work"] = whole - told["parent, waiting for workers"]
    for name in ("train", "fold"):
        secs = sum(each.secs.get(name, 0.0) for each in watch.workers.values())
        told[f"both workers, {name}"] = 1e3 * secs / rounds
    made.close()
    return told


def table(first: str, columns: dict[str, dict[str, float]], total: bool) -> str:
    """Stretches by backend, in milliseconds."""
    lines = [f"| {first} | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | {' | '.join(f'{column[name]:.1f}' for column in columns.values())} |")
    if total:
        lines.append(f"| **whole** | {' | '.join(f'{sum(c.values()):.1f}' for c in columns.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", default=["numpy", "numba", "jax"])
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    alone = {backend: in_one_process(backend, args.rounds) for backend in args.backends}
    both = {backend: with_workers(backend, args.rounds) for backend in args.backends}
    text = table("one process, CPU ms a round", alone, True)
    text += "\n\n" + table("two workers, wall ms a round", both, False)
    text += f"\n\nMeans of {args.rounds} rounds; load of the machine at the end: {os.getloadavg()[0]:.1f}."
    print(text)
    write_between(Path(__file__).resolve().parent.parent / "docs/benchmarks.md", "profile B", text)


if __name__ == "__main__":
    main()
