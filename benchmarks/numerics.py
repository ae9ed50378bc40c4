"""What fused steps, factors, channels last and bfloat16 give on the models of works A, C and D.

    python benchmarks/numerics.py [--works A C D] [--clients 12]

In one process on one thread; every client is trained by each way in turn, and the ratio is the median over
clients of CPU seconds to those of the first way. Writes the table to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

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


def secs(work: str, clients: int) -> dict[str, list[float]]:
    """CPU seconds of each client's training, by way."""
    given = workload(work)
    model = ConvNet2() if work == "D" else OwnModel(f"{HERE}/peers/torch_models.py:Work{work}")
    facts = Facts(f"work_{work}", given.clients[0][0].shape[1:], given.num_classes)
    local, steps = SGD(lr=given.lr, clip_norm=given.clip_norm), Work(1, batch_size=given.batch_size)
    learners = {
        name: TorchLearner(model, Classification(), facts, local, steps, numerics)
        for name, numerics in WAYS.items()
    }
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(1 + clients):
        x, y = given.clients[number % len(given.clients)]
        for name, learner in learners.items():
            sent, up = {"model": learner.initial(0)}, np.zeros((1, learner.spec.size), np.float32)
            begun = time.process_time()
            learner.train(sent, Examples(x, y.astype(np.int64)), rng(number, "train"), up, None)
            found[name].append(time.process_time() - begun)
    return {name: each[1:] for name, each in found.items()}  # the first warms up


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="+", default=["A", "C", "D"])
    parser.add_argument("--clients", type=int, default=12)
    args = parser.parse_args()
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
