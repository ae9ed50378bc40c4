"""The real world of devices in the size of the others: a dozen clients that come and go by traces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from muster.core.randomness import rng
from muster.core.tables import SECOND
from muster.core.work import Work
from muster.devices.availability import Availability, Intervals
from muster.devices.world import World
from worlds.toy import SIZES, toy_population


class OnlineWorld(World):
    """`devices.world.World` that tests can ask for one client."""

    def is_present(self, client: int, now_ns: int) -> bool:
        return bool(self.population.availability.online(np.array([client]), now_ns)[0])


def online_world(seed: int = 0) -> OnlineWorld:
    """Five traces of ten minutes with a minute or two online in every three; tasks take 5 to 30 s."""
    draw = rng(seed, "toy traces")
    trace = np.repeat(np.arange(5), 3)
    starts = (np.tile(np.arange(3), 5) * 200 + draw.integers(0, 80, 15)) * SECOND
    ends = starts + draw.integers(60, 150, 15) * SECOND
    intervals = Intervals.joined(trace, starts, ends, np.full(5, 600 * SECOND))
    count = len(SIZES)
    row = draw.integers(0, 5, count, dtype=np.int32)
    there = Availability(intervals, row, draw.integers(0, 600 * SECOND, count))
    speed = draw.uniform(200, 900, count).astype(np.float32)
    population = replace(toy_population(), ms_per_example=speed, availability=there)
    return OnlineWorld(population, Work(), 250, 250, dropout=0.1, seed=seed)
