"""Works A to D as plain arrays, the same for every platform, and the clock that they are timed with.

A is federated EMNIST in shape: 200 clients with 28,157 images of 28 x 28 in 62 classes, 20 clients a round,
one epoch in batches of 20. B is tiny: 10,000 clients with 15 to 25 rows of 64 features, 1,000 clients a
round, batches of 10: all overhead. C is a ResNet-18 with group norms: 10 clients of 50 colour images. D is
FederatedScope's own benchmark: 40 clients of 134 images, ConvNet2, clipped at norm 5. Images are noise and
half a smooth template of their class.

Needs numpy only, so that it runs in a peer's own environment.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Client = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """What is trained: the clients' examples (x f32[N, ...], y i64[N]) and how."""

    clients: Sequence[Client]
    per_round: int
    rounds: int
    batch_size: int
    lr: float
    num_classes: int
    clip_norm: float | None = None

    def cohort(self, number: int) -> list[int]:
        """The clients of a round."""
        return np.random.default_rng(number).choice(len(self.clients), self.per_round, False).tolist()


def workload(name: str) -> Workload:
    """Work A, B, C or D."""
    rng = np.random.default_rng(1)
    if name == "C":
        smooth = _templates(rng, 10, 3, 8)
        return Workload([_images(rng, 50, smooth) for _ in range(100)], 10, 3, 25, 0.01, 10)
    if name == "D":
        smooth = _templates(rng, 62, 1, 7)
        return Workload([_images(rng, 134, smooth) for _ in range(200)], 40, 3, 10, 0.01, 62, clip_norm=5.0)
    if name == "A":
        sizes = np.clip(rng.lognormal(np.log(135), 0.5, 200), 20, 300).astype(int)
        smooth = _templates(rng, 62, 1, 7)
        return Workload([_images(rng, n, smooth) for n in sizes], 20, 10, 20, 0.01, 62)
    sizes = rng.integers(15, 26, 10_000)
    centres = rng.standard_normal((10, 64)).astype(np.float32)
    return Workload([_rows(rng, n, centres) for n in sizes], 1000, 5, 10, 0.1, 10)


def _templates(rng: np.random.Generator, classes: int, channels: int, coarse: int) -> np.ndarray:
    drawn = rng.standard_normal((classes, channels, coarse, coarse)).astype(np.float32)
    return drawn.repeat(4, axis=2).repeat(4, axis=3)


def _images(rng: np.random.Generator, count: int, templates: np.ndarray) -> Client:
    y = rng.integers(0, len(templates), count)
    noise = rng.standard_normal((count, *templates.shape[1:]), np.float32)
    return noise + 0.5 * templates[y], y


def _rows(rng: np.random.Generator, count: int, centres: np.ndarray) -> Client:
    y = rng.integers(0, len(centres), count)
    return rng.standard_normal((count, 64), np.float32) + 0.5 * centres[y], y


def measure(peer: str, prepare: Callable[[str, Workload], Callable[[list[int]], None]]) -> None:
    """Times a peer's rounds and prints one line of JSON: what benchmarks/peers/compare.py reads.

    Args:
        peer: Its name.
        prepare: (name of the work, work) -> a function that trains one round with the clients it is given.

    """
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=("A", "B"))
    parser.add_argument("--rounds", type=int, help="that are timed, after one that warms up")
    args = parser.parse_args()
    work = workload(args.work)
    train = prepare(args.work, work)
    secs, cpu = [], []
    for number in range(1 + (args.rounds or work.rounds)):
        wall_before, cpu_before = time.perf_counter(), time.process_time()
        train(work.cohort(number))
        secs.append(time.perf_counter() - wall_before)
        cpu.append(time.process_time() - cpu_before)
    told = {
        "peer": peer,
        "work": args.work,
        "secs": float(np.median(secs[1:])),
        "cpu_secs": float(np.median(cpu[1:])),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))
