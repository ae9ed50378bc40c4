"""SSP by hand: two workers whose clocks take 1 s and 3 s."""

from __future__ import annotations

import numpy as np
import pytest

from muster.core.state import Limits
from muster.core.tables import SECOND
from worlds.rig import Rig, small
from worlds.toy import toy_data
from worlds.world import ToyWorld


def pushes(slack, virtual_secs, loss=None, secs=(1, 3)):
    """(second, worker) of each update."""
    world = ToyWorld(
        len(secs), duration=lambda k, attempt: secs[k] * SECOND, **({"loss": loss} if loss else {})
    )
    limits = Limits(rounds=None, virtual_ns=virtual_secs * SECOND)
    rig = Rig(small("ssp", workers=len(secs), slack=slack), world, toy_data([1] * len(secs)), limits=limits)
    rig.sim.timeline = np.arange(len(secs))
    return [(r.now_secs, s.client) for r in rig.run().records for s in r.spans if s.outcome == "accepted"]


def test_nobody_is_more_than_the_slack_ahead():
    # Worker 0 makes clocks 1 and 2, waits until worker 1 has made its first at 3, and so on.
    assert pushes(1, 10) == [(1, 0), (2, 0), (3, 1), (4, 0), (6, 1), (7, 0), (9, 1), (10, 0)]


def test_without_slack_all_wait_for_all():
    assert pushes(0, 9) == [(1, 0), (3, 1), (4, 0), (6, 1), (7, 0), (9, 1)]


def test_with_enough_slack_nobody_waits():
    assert pushes(100, 6) == [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0), (5, 0), (6, 0), (6, 1)]


@pytest.mark.parametrize("slack", [0, 1])
def test_who_is_gone_is_not_waited_for(slack):
    """Worker 1 is lost after 2 s, each time: it comes back at the clock of the slowest, worker 0's."""
    made = pushes(slack, 8, loss=lambda k, attempt: 2 * SECOND if k == 1 else None)
    assert [client for _, client in made] == [0] * len(made) and len(made) >= 4
