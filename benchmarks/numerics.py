"""What fused steps, factors, channels last and bfloat16 give on the models of works A, C and D.

    python benchmarks/numerics.py [--works A C D] [--clients 12] [--profile]

In one process on one thread; every client is trained by each way in turn, and the ratio is the median over
clients of CPU seconds to those of the first way. Writes the table to docs/benchmarks.md. With --profile it
prints instead what a step of `auto` goes into, operation by operation and shape by shape, and writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch.profiler import ProfilerActivity, profile

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
from marked import write_between  # noqa: E402
from workload import workload  # noqa: E402

from muster.algorithms.fedavg import SGD  # noqa: E402
from muster.core.examples import Examples, Facts  # noqa: E402
from muster.core.randomness import rng  # noqa: E402
from muster.core.work import Work  # noqa: E402
from muster.learn.numerics import Numerics  # noqa: E402
from muster.learn.torch_learner import TorchLearner  # noqa: E402
from muster.models.convolutional import ConvNet2  # noqa: E402
from muster.models.own import OwnModel  # noqa: E402
from muster.tasks.classification import Classification  # noqa: E402

WAYS = {
    "plain": Numerics("plain", "channels_first"),
    "fused": Numerics("fused", "channels_first"),
    "auto but channels first": Numerics("auto", "channels_first"),
    "auto but channels last": Numerics("auto", "channels_last"),
    "bfloat16": Numerics("auto", "auto", "bfloat16"),
}
MOST = 24
"""Operations that are told."""


Train = Callable[[int], int]
"""Trains the client of a number; returns the steps."""


def trainers(work: str, ways: Mapping[str, Numerics]) -> dict[str, Train]:
    """A learner for each way."""
    given = workload(work)
    model = ConvNet2() if work == "D" else OwnModel(f"{HERE}/peers/torch_models.py:Work{work}")
    facts = Facts(f"work_{work}", given.clients[0][0].shape[1:], given.num_classes)
    local, steps = SGD(lr=given.lr, clip_norm=given.clip_norm), Work(1, batch_size=given.batch_size)

    def made(numerics: Numerics) -> Train:
        learner = TorchLearner(model, Classification(), facts, local, steps, numerics)
        sent, up = {"model": learner.initial(0)}, np.zeros((1, learner.spec.size), np.float32)

        def train(number: int) -> int:
            x, y = given.clients[number % len(given.clients)]
            examples = Examples(x, y.astype(np.int64))
            return learner.train(sent, examples, rng(number, "train"), up, None).num_steps

        return train

    return {name: made(numerics) for name, numerics in ways.items()}


def secs(work: str, clients: int) -> dict[str, list[float]]:
    """CPU seconds of each client's training, by way."""
    made = trainers(work, WAYS)
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(1 + clients):
        for name, train in made.items():
            begun = time.process_time()
            train(number)
            found[name].append(time.process_time() - begun)
    return {name: each[1:] for name, each in found.items()}  # the first warms up


def profiled(work: str, clients: int) -> list[str]:
    """A line for each of the operations that a step spends most in."""
    (train,) = trainers(work, {"auto": Numerics("auto", "auto")}).values()
    train(0)
    begun = time.process_time()
    num_steps = sum(train(number) for number in range(1, 1 + clients))
    lines = [f"work {work}: {1e3 * (time.process_time() - begun) / num_steps:.2f} ms of CPU a step"]
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        num_steps = sum(train(number) for number in range(1, 1 + clients))
    events = seen.key_averages(group_by_input_shape=True)
    whole = sum(event.self_cpu_time_total for event in events)
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:MOST]:
        ms, share = event.self_cpu_time_total / num_steps / 1e3, 100 * event.self_cpu_time_total / whole
        shapes = " ".join("x".join(map(str, shape)) for shape in event.input_shapes if shape)
        lines.append(
            f"  {ms:7.3f} ms {share:5.1f} % {event.count / num_steps:6.2f} times {event.key} {shapes}"
        )
    return lines


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="+", default=["A", "C", "D"])
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.profile:
        for work in args.works:
            print("\n".join(profiled(work, args.clients)), flush=True)
        return
    found = {work: secs(work, args.clients) for work in args.works}
    lines = [f"| CPU time, of plain | {' | '.join(args.works)} |", "| --- " * (1 + len(found)) + "|"]
    for name in WAYS:
        told = []
        for each in found.values():
            ratios = [one / plain for one, plain in zip(each[name], each["plain"], strict=True)]
            told.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {name} | {' | '.join(told)} |")
    print("\n".join(lines))
    write_between(HERE.parent / "docs/benchmarks.md", "numerics", "\n".join(lines))


if __name__ == "__main__":
    main()
