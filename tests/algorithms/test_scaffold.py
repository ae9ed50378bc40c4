"""SCAFFOLD's two rules by hand, and what becomes of c_i when a client is late."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.scaffold import Control, Controlled, scaffold
from muster.core.state import Limits
from muster.core.store import decode
from worlds.rig import Rig, numpy_learner, small
from worlds.rules import info, train, vector
from worlds.world import ToyWorld, keyed


def test_two_steps_by_hand():
    # c - c_i = 0.3.  1 - 0.1 x 2.3 = 0.77;  0.77 - 0.1 x (-1 + 0.3) = 0.84
    params, ups, kept = train(Controlled(lr=0.1), [1.0], [2.0, -1.0], {"control": vector(0.2)}, control=[0.5])
    assert params == pytest.approx([0.84], rel=1e-12)
    # c_i is the mean of the raw gradients, (2 - 1) / 2; it has grown by 0.3
    assert kept["control"] == pytest.approx([0.5], rel=1e-12)
    assert ups["control"] == pytest.approx([0.3], rel=1e-12)


def test_a_new_client_begins_with_zero():
    _, ups, kept = train(Controlled(lr=0.1), [1.0], [4.0], control=[0.0])
    assert kept["control"] == pytest.approx([4.0]) and ups["control"] == pytest.approx([4.0])


def test_the_absent_count_with_no_change():
    moved, opt = Control(lr=0.5).apply(
        vector(1.0), vector(-0.16), {"control": vector(0.5)}, info(2, 10, control=vector(0.3))
    )
    assert moved == pytest.approx([0.92], rel=1e-12)  # 1 - 0.5 x 0.16
    assert opt["control"] == pytest.approx([0.56], rel=1e-12)  # 0.5 + 2 / 10 x 0.3


def test_a_late_client_keeps_its_old_control():
    algorithm = small("scaffold", over_commit=2.0)
    learner = numpy_learner(local=algorithm.local)
    rig = Rig(algorithm, ToyWorld(duration=keyed(3, 1, 9)), make_learner=learner, limits=Limits(rounds=8))
    states, num_late, changed = [None] * 12, 0, 0
    for record in rig.sim:
        now = [rig.plane.store.read(client) for client in range(12)]
        for client in range(12):
            assert (now[client] != states[client]) == (client in record.clients)
        states, num_late, changed = now, num_late + record.num_late, changed + len(record.clients)
    assert num_late >= 8 and changed == 8 * 4
    # c is the mean of all c_i, the clients that never took part counting with 0
    of_clients = [decode(state)["control"] for state in states if state is not None]
    np.testing.assert_allclose(rig.plane.moment.opt["control"], sum(of_clients) / 12, atol=1e-6)


def test_both_vectors_travel_both_ways():
    local = scaffold().local
    assert (local.down, local.up) == (("model", "control"), ("delta", "control"))
