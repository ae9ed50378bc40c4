"""A data plane that trains nothing and remembers what it was asked, and small helpers for runs by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from muster.core.population import Population
from muster.core.state import Limits, initial_state
from muster.core.tables import MEASURED, REPORT, SECOND, Refusal, rows
from muster.sim.simulation import Simulation


@dataclass
class ToyPlane:
    """A `sim.simulation.Plane`: client i holds i + 1 examples and its loss is i; accuracy is version / 10."""

    refuse: tuple[int, ...] = ()
    version: int = 0
    asked: list = field(default_factory=list)
    evaluated: list = field(default_factory=list)

    look_ahead = 0

    def advance(self, tasks, staleness, keep, coming=None):
        self.version += 1
        self.asked.append((tasks["client"].tolist(), staleness.tolist(), set(keep)))
        clients = tasks["client"]
        return rows(
            REPORT,
            len(tasks),
            ticket=tasks["ticket"],
            client=clients,
            num_examples=clients + 1,
            staleness=staleness,
            loss=clients.astype(np.float64),
            refused=np.where(np.isin(clients, self.refuse), Refusal.NON_FINITE, Refusal.NONE),
        )

    def measure(self, tasks):
        clients = tasks["client"]
        given = {"ticket": tasks["ticket"], "client": clients, "num_examples": clients + 1}
        return rows(MEASURED, len(tasks), **given, loss=clients, accuracy=1 / (1.0 + clients))

    def evaluate(self):
        self.evaluated.append(self.version)
        return {"accuracy": self.version / 10}


def simulation(algorithm, world, plane=None, limits=Limits(rounds=3), **settings) -> Simulation:
    """A run of `world`'s clients with one example each, seed 5."""
    ones = np.ones(world.num_clients, np.float32)
    population = Population(ones.astype(np.int32), ones, ones, ones)
    state = initial_state(algorithm, population, limits)
    return Simulation(algorithm, 5, world, plane or ToyPlane(), state, **settings)


def secs(durations):
    """Seconds by client, for all of a client's tasks."""
    return lambda client, attempt: round(durations[client] * SECOND)


def lost_after(times):
    """Client -> seconds after which each of its tasks is lost."""
    return lambda client, attempt: round(times[client] * SECOND) if client in times else None


def timeless(record):
    """A record without the wall's time."""
    return replace(record, wall_secs=0.0)
