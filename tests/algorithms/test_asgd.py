from __future__ import annotations

import numpy as np

from muster.algorithms.asgd import asgd
from muster.core.state import Limits
from muster.core.tables import SECOND
from worlds.rig import Rig, small
from worlds.toy import toy_data
from worlds.world import ToyWorld


def test_every_arrival_makes_a_version():
    rig = Rig(small("asgd", concurrency=3, size=1), ToyWorld(), limits=Limits(rounds=9)).run()
    assert [record.num_accepted for record in rig.records[1:]] == [1] * 9
    assert asgd().pace.size == 1 and asgd().server.lr == 1.0


def test_four_workers_push_as_often_as_they_are_fast():
    """Seconds a step 1, 2, 4, 8; 16 s inclusive: 30 updates. Ties go by rank."""
    world = ToyWorld(4, duration=lambda k, attempt: 2**k * SECOND)
    rig = Rig(
        small("asgd", concurrency=4, size=1),
        world,
        toy_data([1] * 4),
        limits=Limits(rounds=None, virtual_ns=16 * SECOND),
    ).run()
    late = {k: [] for k in range(4)}
    for events in rig.events:
        for report in events.reports:
            late[int(report["client"])].append(int(report["staleness"]))
    assert {k: len(each) for k, each in late.items()} == {0: 16, 1: 8, 2: 4, 3: 2}
    assert [np.mean(late[k]) for k in range(4)] == [0.6875, 2.5, 6.25, 14.0] and late[3] == [14, 14]
    assert np.mean([s for each in late.values() for s in each]) == 2.8
