"""How fast is the control plane? Rounds and asynchronous runs over many clients, with nothing trained.

    python benchmarks/clock.py

Clients are phones that come and go by day and night; each setting is a process of its own. Writes its
table to docs/benchmarks.md. Needs no data set.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
from marked import write_between

from muster.algorithms.fedavg import Sync, fedavg
from muster.algorithms.fedbuff import Buffered, fedbuff
from muster.algorithms.oort import oort
from muster.core.algorithm import Algorithm
from muster.core.population import Population
from muster.core.randomness import rng
from muster.core.state import Limits, initial_state
from muster.core.work import Work
from muster.devices.mobile import Mobile
from muster.devices.world import World
from muster.sim.clock_only import ClockOnly
from muster.sim.simulation import Simulation

SEED = 1
ROUNDS = 100
MODEL_BYTES = 4 * 1_000_000
SIZES = (10_000, 100_000, 1_000_000)


def population(num_clients: int) -> Population:
    """Phones with 20 to 400 examples that come and go."""
    examples = rng(SEED, "benchmark examples").integers(20, 400, num_clients, dtype=np.int32)
    return Mobile(availability="diurnal").draw(examples, SEED)


def simulation(algorithm: Algorithm, who: Population, rounds: int) -> Simulation:
    """A clock-only run of so many versions."""
    work, reads = Work(), bool(algorithm.select.reads)
    world = World(who, work, MODEL_BYTES, MODEL_BYTES, 0.06, SEED)
    if algorithm.select.foresees:
        who = replace(who, task_secs=world.expected_secs())
    state = initial_state(algorithm, who, Limits(rounds=rounds))
    plane = ClockOnly(who.num_examples, work, SEED, surrogate=reads)
    return Simulation(algorithm, SEED, world, plane, state, surrogate=reads)


def one(name: str, num_clients: int) -> dict[str, float]:
    """One run in this process: its seconds, tasks, events and peak memory."""
    begun = time.perf_counter()
    who = population(num_clients)
    opened = time.perf_counter() - begun
    told = {"opened": opened, "seconds": 0.0, "cpu": 0.0, "tasks": 0, "events": 0, "online": 0.0}
    if name != "open":
        pace = Sync(cohort=num_clients // 100, over_commit=1.3)
        algorithm = {
            "Uniform": fedavg().but(pace=pace),
            "Oort": oort().but(pace=pace),
            "fedbuff": fedbuff().but(pace=Buffered(size=100, concurrency=1_000)),
        }[name]
        run = simulation(algorithm, who, ROUNDS)
        events = [0]
        run.log = lambda delivered: events.append(len(delivered.table))
        begun, worked = time.perf_counter(), time.process_time()
        deque(run, maxlen=1)
        told["seconds"], told["cpu"] = time.perf_counter() - begun, time.process_time() - worked
        assert run.ended is not None and run.ended.status == "rounds", run.ended
        told["tasks"], told["events"] = run.state.next_ticket, sum(events)
    some = np.arange(0, num_clients, max(num_clients // 10_000, 1))
    told["online"] = float(who.availability.online(some, 0).mean()) if who.availability else 1.0
    return told | {"rss": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}


def apart(name: str, num_clients: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, name, str(num_clients)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def fitted(select: str, runs: dict[int, dict[str, float]]) -> str:
    """A round's time as a + b x tasks, by relative least squares, wall and CPU."""
    tasks = np.array([told["tasks"] / ROUNDS for told in runs.values()])
    found = []
    for kind in ("seconds", "cpu"):
        secs = np.array([told[kind] / ROUNDS for told in runs.values()])
        slope, offset = np.polyfit(tasks, secs, 1, w=1 / secs)
        found.append(f"{1e3 * offset:.1f} ms + {1e6 * slope:.2f} us x tasks")
    return (
        f"- {select}: a round takes {found[0]} of wall time, {found[1]} of CPU time (relative least squares)."
    )


def main() -> None:
    """Prints and writes the table."""
    rounds = {select: {size: apart(select, size) for size in SIZES} for select in ("Uniform", "Oort")}
    buffered, largest = apart("fedbuff", 1_000_000), apart("open", 10_000_000)
    lines = [
        "| select | clients | tasks | seconds | CPU seconds | ms a round | us a task | peak RSS |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for select, runs in rounds.items():
        for size, told in runs.items():
            tasks, secs = told["tasks"], told["seconds"]
            lines.append(
                f"| {select} | {size:,} | {tasks:,.0f} | {secs:.2f} | {told['cpu']:.2f} "
                f"| {1e3 * secs / ROUNDS:.1f} | {1e6 * secs / tasks:.1f} | {told['rss'] / 1e6:.0f} MB |"
            )
    lines += ["", *(fitted(select, runs) for select, runs in rounds.items())]
    speeds = [buffered["events"] / buffered[kind] for kind in ("seconds", "cpu")]
    lines += [
        f"- FedBuff with 1,000 of 1,000,000 at work and a buffer of 100: {buffered['events']:,.0f} events in "
        f"{buffered['seconds']:.2f} s, {speeds[0]:,.0f} a second; {speeds[1]:,.0f} a second of CPU time.",
        f"- A population of 10,000,000 opens in {largest['opened']:.1f} s "
        f"({largest['rss'] / 1e6:,.0f} MB peak); {100 * buffered['online']:.0f} % are online. "
        f"Load of the machine ({os.cpu_count()} cores): {os.getloadavg()[0]:.1f}.",
    ]
    print("\n".join(lines))
    write_between(Path(__file__).parent.parent / "docs/benchmarks.md", "clock", "\n".join(lines))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
