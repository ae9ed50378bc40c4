from __future__ import annotations

from muster.algorithms.asgd import asgd
from muster.core.state import Limits
from worlds.rig import Rig, small
from worlds.world import ToyWorld


def test_every_arrival_makes_a_version():
    rig = Rig(small("asgd", concurrency=3, size=1), ToyWorld(), limits=Limits(rounds=9)).run()
    assert [record.num_accepted for record in rig.records[1:]] == [1] * 9
    assert asgd().pace.size == 1 and asgd().server.lr == 1.0
