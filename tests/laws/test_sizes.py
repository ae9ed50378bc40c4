"""Laws 5, 9 and 14 over worlds drawn whole: what clients hold, how long they take, who is lost or away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.state import Limits
from muster.core.tables import SECOND
from worlds.rig import NAMES, Rig, numpy_learner, replay, small, to_bytes
from worlds.toy import toy_data
from worlds.world import ToyWorld, at_times, keyed

every_algorithm = pytest.mark.parametrize("name", NAMES)
LIMITS = Limits(rounds=2, virtual_ns=2000 * SECOND)


@every_algorithm
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 7]), min_size=12, max_size=12).filter(any),
    durations=st.tuples(st.integers(0, 99), st.sampled_from([0.01, 1.0]), st.sampled_from([2.0, 60.0])),
    loss=st.sampled_from([0.0, 0.3, 0.9]),
    leaves=st.dictionaries(st.integers(0, 11), st.integers(1, 300), max_size=12),
    seed=st.integers(0, 9),
)
@settings(deadline=None, derandomize=True, database=None, max_examples=2)
def test_any_sizes_arrivals_losses_and_absences_end_well(name, sizes, durations, loss, leaves, seed):
    """Clients without examples, alone or among large ones; some leave for a minute, none for ever."""
    algorithm = small(name)
    shifts = {
        client: ((0, after * SECOND), ((after + 60) * SECOND, 10**15)) for client, after in leaves.items()
    }
    world = ToyWorld(12, keyed(*durations), at_times(loss, seed, SECOND // 4), shifts)
    how = {"seed": seed, "limits": LIMITS, "make_learner": numpy_learner(local=algorithm.local)}
    rig = Rig(algorithm, world, toy_data(sizes), **how).run()
    assert rig.sim.ended.status in ("rounds", "virtual_secs", "stalled")
    assert rig.sim.ended.status != "stalled" or loss > 0 or leaves
    assert np.isfinite(rig.plane.params).all()
    times = [record.now_secs for record in rig.records]
    assert times == sorted(times) and [r.version for r in rig.records[:-1]] == list(range(len(times) - 1))
    ends = ("num_accepted", "num_measured", "num_lost", "num_late", "num_discarded")
    counted = sum(getattr(record, name) for record in rig.records for name in ends)
    assert counted == sum(r.num_sent for r in rig.records), "each task has one end"
    again = Rig(algorithm, world, toy_data(sizes), **how)
    replay(again, to_bytes(rig.events))
    assert again.hash == rig.hash
