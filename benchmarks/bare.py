"""The same SGD steps with no platform at all: what there is to be measured against.

    python benchmarks/bare.py torch|torch2|vmap|vmap2|jax|jax2 A|B|C|D [--rounds N]

torch is one client after another; vmap torch.func.vmap and jax jit(vmap(scan)), both 100 clients at a time,
for work B only: they make convolutions slower. A 2 is for two processes of one thread each. Every one
sums the updates weighed by examples and moves the model. Prints one line of JSON, as the peers do.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from workload import Workload, workload

GROUP = 100
"""Clients that vmap and jax train at once."""
Round = Callable[[list[int]], float]
"""Trains the clients of a round; returns the CPU seconds of other processes."""


class Loop:
    """Client after client in torch."""

    def __init__(self, name: str, work: Workload) -> None:
        import torch
        from torch_models import model

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.work, self.net = work, model(name)
        self.tensors = [*self.net.parameters(), *(b for b in self.net.buffers() if b.is_floating_point())]

    def sum(self, ids: list[int], model: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
        """Trained models times their numbers of examples, added up, and the number of examples."""
        import torch

        work, net = self.work, self.net
        optimizer, criterion = torch.optim.SGD(net.parameters(), work.lr), torch.nn.CrossEntropyLoss()
        totals, examples = [torch.zeros_like(tensor) for tensor in self.tensors], 0
        for i in ids:
            with torch.no_grad():
                for tensor, array in zip(self.tensors, model, strict=True):
                    tensor.copy_(torch.from_numpy(array))
            x, y = (torch.from_numpy(array) for array in work.clients[i])
            for index in torch.randperm(len(x)).split(work.batch_size):
                optimizer.zero_grad()
                criterion(net(x[index]), y[index]).backward()
                if work.clip_norm is not None:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), work.clip_norm)
                optimizer.step()
            with torch.no_grad():
                for total, tensor in zip(totals, self.tensors, strict=True):
                    total.add_(tensor, alpha=len(x))
            examples += len(x)
        return [total.numpy() for total in totals], examples

    def initial(self) -> list[np.ndarray]:
        """The untrained model."""
        return [tensor.detach().numpy().copy() for tensor in self.tensors]


def one_process(way: str, name: str, work: Workload) -> Round:
    """One process, one thread."""
    loop = LOOPS[way](name, work)
    model = loop.initial()

    def train(ids: list[int]) -> float:
        nonlocal model
        totals, examples = loop.sum(ids, model)
        model = [total / np.float32(examples) for total in totals]
        return 0.0

    return train


def _serve(pipe, way: str, name: str) -> None:
    loop = LOOPS[way](name, workload(name))
    pipe.send(loop.initial())
    with suppress(EOFError):  # the parent has gone
        while True:
            asked = pipe.recv()
            before = time.process_time()
            done = loop.sum(*asked)
            pipe.send((*done, time.process_time() - before))


def two_processes(way: str, name: str, work: Workload) -> Round:
    """Two processes of one thread each, the clients dealt out by their sizes."""
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(2):
        ours, theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, way, name), daemon=True).start()
        pipes.append(ours)
    model, _ = [pipe.recv() for pipe in pipes]

    def train(ids: list[int]) -> float:
        nonlocal model
        ids = sorted(ids, key=lambda i: len(work.clients[i][1]))
        for number, pipe in enumerate(pipes):
            pipe.send((ids[number::2], model))
        first, second = (pipe.recv() for pipe in pipes)
        examples = np.float32(first[1] + second[1])
        model = [(a + b) / examples for a, b in zip(first[0], second[0], strict=True)]
        return first[2] + second[2]

    return train


def padded(work: Workload, ids: list[int], draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Shuffled batches f32[K, T, B, ...], targets i32[K, T, B] and how many are real, i32[K, T]."""
    most, size = max(len(work.clients[i][1]) for i in ids), work.batch_size
    steps = -(-most // size)
    x = np.zeros((len(ids), steps * size, *work.clients[0][0].shape[1:]), np.float32)
    y, real = np.zeros(x.shape[:2], np.int64), np.zeros((len(ids), steps), np.int32)
    for row, i in enumerate(ids):
        inputs, targets = work.clients[i]
        order = draw.permutation(len(targets))
        x[row, : len(order)], y[row, : len(order)] = inputs[order], targets[order]
        real[row] = np.clip(len(order) - size * np.arange(steps), 0, size)
    return x.reshape(len(ids), steps, size, *x.shape[2:]), y.reshape(len(ids), steps, size), real


class VmapLoop:
    """torch.func over groups of clients."""

    def __init__(self, name: str, work: Workload) -> None:
        import torch
        from torch.func import functional_call, grad, vmap
        from torch_models import model

        torch.set_num_threads(1)
        torch.manual_seed(0)
        net = model(name)
        self.work, self.draw = work, np.random.default_rng(0)
        self.start = {key: value.detach() for key, value in net.named_parameters()}

        def loss(params, x, y, real):
            each = torch.nn.functional.cross_entropy(functional_call(net, params, (x,)), y, reduction="none")
            return (each * (torch.arange(len(y)) < real)).sum() / real.clamp(min=1)

        self.slope = vmap(grad(loss))

    def initial(self) -> list[np.ndarray]:
        """The untrained model."""
        return [value.numpy() for value in self.start.values()]

    def sum(self, ids: list[int], model: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
        """As `Loop.sum`."""
        import torch

        params = {key: torch.from_numpy(array) for key, array in zip(self.start, model, strict=True)}
        totals, examples = {key: torch.zeros_like(value) for key, value in params.items()}, 0
        for start in range(0, len(ids), GROUP):
            group = ids[start : start + GROUP]
            x, y, real = (torch.from_numpy(array) for array in padded(self.work, group, self.draw))
            mine = {key: value.expand(len(group), *value.shape).clone() for key, value in params.items()}
            for step in range(x.shape[1]):
                slopes = self.slope(mine, x[:, step], y[:, step], real[:, step])
                for key, value in mine.items():
                    value.sub_(slopes[key], alpha=self.work.lr)
            counts = real.sum(1).float()
            for key, value in mine.items():
                totals[key] += torch.tensordot(counts, value, 1)
            examples += int(counts.sum())
        return [value.numpy() for value in totals.values()], examples


class JaxLoop:
    """jit(vmap(scan)) over groups of clients."""

    def __init__(self, name: str, work: Workload) -> None:
        import jax
        import jax.numpy as jnp

        self.work, self.draw = work, np.random.default_rng(0)

        def loss(params, x, y, real):
            w1, b1, w2, b2 = params
            scores = jax.nn.log_softmax(jax.nn.relu(x @ w1 + b1) @ w2 + b2)
            each = -jnp.take_along_axis(scores, y[:, None], 1)[:, 0]
            return jnp.sum(each * (jnp.arange(len(y)) < real)) / jnp.maximum(real, 1)

        def client(params, x, y, real):
            def step(params, batch):
                slopes = jax.grad(loss)(params, *batch)
                return jax.tree.map(lambda p, g: p - work.lr * g, params, slopes), None

            trained, _ = jax.lax.scan(step, params, (x, y, real))
            return jax.tree.map(lambda value: value * jnp.sum(real), trained)

        def group(params, x, y, real):
            trained = jax.vmap(client, (None, 0, 0, 0))(params, x, y, real)
            return jax.tree.map(lambda value: value.sum(0), trained)

        self.group = jax.jit(group)

    def initial(self) -> list[np.ndarray]:
        """The untrained model."""
        draw = np.random.default_rng(0)
        return [
            array
            for ins, outs in itertools.pairwise((64, 64, 10))
            for array in (
                draw.standard_normal((ins, outs)).astype(np.float32) / 8,
                np.zeros(outs, np.float32),
            )
        ]

    def sum(self, ids: list[int], model: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
        """As `Loop.sum`."""
        parts, examples = [], 0
        for start in range(0, len(ids), GROUP):
            x, y, real = padded(self.work, ids[start : start + GROUP], self.draw)
            parts.append(self.group(model, x, y, real))
            examples += int(real.sum())
        return [np.asarray(sum(each)) for each in zip(*parts, strict=True)], examples


LOOPS = {"torch": Loop, "vmap": VmapLoop, "jax": JaxLoop}
WAYS = [*LOOPS, *(f"{way}2" for way in LOOPS)]


def main() -> None:
    """Runs and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("work", choices=("A", "B", "C", "D"))
    parser.add_argument("--rounds", type=int, help="that are timed, after one that warms up")
    args = parser.parse_args()
    loop = args.way.removesuffix("2")
    if loop != "torch" and args.work != "B":
        parser.error(f"{args.way} is for work B")
    work = workload(args.work)
    train = (one_process if loop == args.way else two_processes)(loop, args.work, work)
    secs, cpu = [], []
    for number in range(1 + (args.rounds or work.rounds)):
        wall, mine = time.perf_counter(), time.process_time()
        others = train(work.cohort(number))
        secs.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - mine + others)
    told = {
        "peer": f"bare {args.way}",
        "work": args.work,
        "secs": float(np.median(secs[1:])),
        "cpu_secs": float(np.median(cpu[1:])),
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
