"""What a run's wall time went into, and how its training compares with the machine's matrix products."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from muster.core.tables import Ids, Table
from muster.core.work import Work
from muster.track.units import bytes_text, short_count

from .device import device_of
from .numerics import Numerics, Precision
from .plane import DataPlane
from .stopwatch import Stopwatch

PHASES = ("start", "select", "world", "measure", "train", "wait", "fold", "apply", "evaluate", "write")
"""In the order in which they are told; docs/profile.md says what each is."""

SIZE, SIZE_THERE = 1024, 8192
"""Rows and columns of the matrices that the peak is measured with, on the CPU and on a GPU."""

SPELLS = 5
"""Products that are timed; the fastest counts."""


class ProfiledPlane:
    """A data plane under the watch that counts what is trained.

    Args:
        inner: The plane.
        watch: Takes the times.
        work: The clients', to know what they go through.
        sample_flops: Floating-point operations of one example's training; None: nobody knows.
        numerics: The learner's: where it computes, and how short its products are.

    """

    def __init__(
        self,
        inner: DataPlane,
        watch: Stopwatch,
        work: Work,
        sample_flops: float | None,
        numerics: Numerics = Numerics(),
    ) -> None:
        self._inner, self.watch, self._work, self.sample_flops = inner, watch, work, sample_flops
        self._numerics = numerics
        self.num_tasks = self.num_samples = 0

    @property
    def look_ahead(self) -> int:
        """As the plane says."""
        return self._inner.look_ahead

    def advance(
        self, tasks: Table, staleness: Ids, keep: Collection[int], coming: Table | None = None
    ) -> Table:
        """As the plane does; counts tasks and the examples that they go through."""
        with self.watch.at("apply"):
            reports = self._inner.advance(tasks, staleness, keep, coming)
        self.num_tasks += len(reports)
        trained = reports[(reports["num_steps"] > 0) & (reports["num_examples"] > 0)]
        counts, steps = trained["num_examples"].astype(np.int64), trained["num_steps"].astype(np.int32)
        self.num_samples += int(self._work.num_trained(counts, steps).sum())
        return reports

    def measure(self, tasks: Table) -> Table:
        """As the plane does."""
        with self.watch.at("measure"):
            return self._inner.measure(tasks)

    def evaluate(self) -> Mapping[str, float]:
        """As the plane does."""
        with self.watch.at("evaluate"):
            return self._inner.evaluate()

    def profile(self, wall_secs: float, peaks: tuple[int, ...]) -> Profile:
        """What was seen so far; `peaks` is of this process and its workers, in bytes."""
        watch, workers = self.watch, [each for _, each in sorted(self.watch.workers.items())]
        known = sum(watch.secs.values()) - watch.secs.get("select", 0.0)
        device, processes = self._numerics.device, max(len(workers), 1)
        if device == "cpu":
            computes, count, peak = "cpu, one thread", processes, gemm_flops_per_sec()
        else:
            cards = sorted({device_of(device, worker) for worker in range(processes)})
            computes, count = card_name(cards[0]), len(cards)
            peak = gemm_flops_per_sec_there(cards[0], self._numerics.precision)
        names = ("parent", *(f"worker {number}" for number in range(len(peaks) - 1)))
        return Profile(
            wall_secs=wall_secs,
            secs={**watch.secs, "select": max(wall_secs - known, 0.0)},
            workers=[each.secs for each in workers],
            num_tasks=self.num_tasks,
            num_calls=sum(each.times.get("train", 0) for each in (watch, *workers)),
            num_samples=self.num_samples,
            flops=None if self.sample_flops is None else self.num_samples * self.sample_flops,
            device=computes,
            num_devices=count,
            peak_flops_per_sec=peak * count,
            peak_rss_bytes=dict(zip(names, peaks, strict=True)),
        )


@dataclass
class Profile:
    """What a run's wall time went into; profile.json holds `to_json`."""

    wall_secs: float
    secs: dict[str, float]
    """By phase, of this process; they add up to the wall time."""
    workers: list[dict[str, float]]
    """Seconds of each worker by phase. What is missing to the wall time it waited, or was not there."""
    num_tasks: int
    num_calls: int
    """Of learners, to train."""
    num_samples: int
    """Examples that were trained on, each as often as it was."""
    flops: float | None
    """Of that training: two for each multiply-add, backward twice the forward."""
    device: str
    """What clients are trained on: a thread of the CPU, or a GPU by its name."""
    num_devices: int
    """How many of them."""
    peak_flops_per_sec: float
    """Of a matrix product on all of them: float32, on a GPU in the precision of training."""
    peak_rss_bytes: dict[str, int]
    """Of each process."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, rates included: of the wall time while training went on."""
        secs = sum(self.secs.get(name, 0.0) for name in ("train", "wait", "fold")) or float("nan")
        rate = None if self.flops is None else self.flops / secs
        return {
            **asdict(self),
            "tasks_per_call": self.num_tasks / max(self.num_calls, 1),
            "samples_per_sec": self.num_samples / secs,
            "flops_per_sec": rate,
            "of_peak": None if rate is None else rate / self.peak_flops_per_sec,
        }

    def lines(self) -> list[str]:
        """For people."""
        told = self.to_json()
        lines = [f"profile of {self.wall_secs:.2f} s:"]
        for name in PHASES:
            secs = self.secs.get(name, 0.0)
            if secs > 0.0:
                lines.append(f"  {name:<9}{secs:9.3f} s {100 * secs / self.wall_secs:5.1f} %")
        for number, worker in enumerate(self.workers):
            parts = ", ".join(f"{name} {worker[name]:.3f} s" for name in PHASES if name in worker)
            lines.append(f"  worker {number}: {parts}")
        lines.append(
            f"  {self.num_tasks:,} tasks in {self.num_calls:,} calls ({told['tasks_per_call']:.1f} a call), "
            f"{self.num_samples:,} samples, {short_count(told['samples_per_sec'])}/s"
        )
        if told["flops_per_sec"] is not None:
            rate, peak = short_count(told["flops_per_sec"]), short_count(self.peak_flops_per_sec)
            lines.append(
                f"  {rate}FLOP/s, {100 * told['of_peak']:.1f} % of {peak}FLOP/s "
                f"(matrix products, {self.device} x {self.num_devices})"
            )
        lines += [f"  {name}: peak RSS {bytes_text(peak)}" for name, peak in self.peak_rss_bytes.items()]
        return lines


def gemm_flops_per_sec() -> float:
    """The most that a float32 matrix product reaches on one thread, of NumPy and (if it is loaded) torch."""
    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal((SIZE, SIZE), np.float32) for _ in range(2))
    out = np.empty_like(a)
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        best = _fastest(lambda: np.matmul(a, b, out=out))
    torch = sys.modules.get("torch")
    if torch is not None:
        left, right, into = (torch.from_numpy(each) for each in (a, b, out))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        best = min(best, _fastest(lambda: torch.mm(left, right, out=into)))
        torch.set_num_threads(threads)
    return 2.0 * SIZE**3 / best


def card_name(device: str) -> str:
    """What a GPU calls itself; any other device goes by its own name."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def gemm_flops_per_sec_there(device: str, precision: Precision, size: int = SIZE_THERE) -> float:
    """The most that a matrix product reaches on a device of torch, in this precision."""
    import torch

    from .torch_module import products

    where = torch.device(device)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    factor = torch.linspace(-1, 1, size * size, device=where).view(size, size).to(kind)
    out = torch.empty_like(factor)

    def product() -> None:
        torch.mm(factor, factor, out=out)
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    with products(precision == "tf32"):
        return 2.0 * size**3 / _fastest(product)


def _fastest(product: Callable[[], Any]) -> float:
    """Seconds of the fastest of some calls."""
    found = []
    for _ in range(SPELLS):
        begin = time.perf_counter()
        product()
        found.append(time.perf_counter() - begin)
    return min(found)
