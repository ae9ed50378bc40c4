"""How long one selection takes: 10,000 of 1,000,000 phones that come and go by day and night.

    python benchmarks/selection.py

Every client has been tried before. Times are CPU milliseconds, the median of 15 draws, beside one
numpy.argpartition of a million numbers in the same process: the ratio holds on any machine. Writes its
table to docs/benchmarks.md. Needs no data set.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from marked import write_between

from muster.algorithms.fedavg import Uniform
from muster.algorithms.oort import Oort
from muster.core.algorithm import Select
from muster.core.population import Free
from muster.core.randomness import rng
from muster.core.tables import REPORT, SECOND, rows
from muster.core.work import Work
from muster.devices.mobile import Mobile
from muster.devices.world import World

SEED, CLIENTS, COHORT, DRAWS = 1, 1_000_000, 10_000, 15
SELECTS = {"Uniform": Uniform(), "Oort": Oort(), "Oort, variant fedscale": Oort(variant="fedscale")}


def milliseconds(work: Callable[[int], object]) -> float:
    """The median CPU time of a piece of work, which is told which time it is done."""
    times = []
    for number in range(DRAWS + 1):
        begun = time.process_time()
        work(number)
        times.append(1e3 * (time.process_time() - begun))
    return statistics.median(times[1:])


def selection(select: Select, world: World) -> tuple[float, float]:
    """Milliseconds of a draw, and of learning from the reports of one cohort."""
    state = select.init(world.population)
    draw = rng(SEED, "benchmark losses")
    everybody = rows(REPORT, CLIENTS, client=np.arange(CLIENTS), num_examples=100)
    everybody["loss_sq_mean"], everybody["took_secs"] = draw.gamma(2, 1, CLIENTS), draw.gamma(2, 30, CLIENTS)
    for start in range(0, CLIENTS, CLIENTS // 5):
        state = select.observe(state, 0, everybody[start : start + CLIENTS // 5])
    busy = np.arange(0, CLIENTS, CLIENTS // 1_000)

    def draws(number: int) -> None:
        free = Free(world.present(number * 3600 * SECOND), busy)
        drawn = select.draw(state, COHORT, free, rng(SEED, "select", number))
        assert len(drawn) == COHORT

    cohort = everybody[rng(SEED, "benchmark cohort").choice(CLIENTS, COHORT, replace=False)]
    return milliseconds(draws), milliseconds(lambda _: select.observe(state, 0, cohort))


def main() -> None:
    """Prints and writes the table."""
    examples = rng(SEED, "benchmark examples").integers(20, 400, CLIENTS, dtype=np.int32)
    who = Mobile(availability="diurnal").draw(examples, SEED)
    world = World(who, Work(), 4_000_000, 4_000_000, 0.06, SEED)
    numbers = rng(SEED, "benchmark numbers").random(CLIENTS)
    yardstick = milliseconds(lambda _: np.argpartition(numbers, CLIENTS - COHORT))
    lines = [
        "| select | CPU ms a draw | x one argpartition | CPU ms to learn from the cohort |",
        "| --- | --- | --- | --- |",
    ]
    for name, select in SELECTS.items():
        draw, learn = selection(select, world)
        lines.append(f"| {name} | {draw:.1f} | {draw / yardstick:.1f} | {learn:.1f} |")
    lines.append(f"| numpy.argpartition | {yardstick:.1f} | 1.0 | |")
    print("\n".join(lines))
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "selection", "\n".join(lines))


if __name__ == "__main__":
    main()
