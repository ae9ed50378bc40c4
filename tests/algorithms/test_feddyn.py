from __future__ import annotations

import pytest

from muster.algorithms.feddyn import Bent, Unbend, feddyn
from worlds.rules import info, train, vector


def test_two_steps_by_hand():
    # 1 - 0.1 x (2 - 0.2) = 0.82;  0.82 - 0.1 x (-1 - 0.2 + 0.1 x (0.82 - 1)) = 0.9418
    params, _, kept = train(Bent(lr=0.1, alpha=0.1), [1.0], [2.0, -1.0], {"h": vector(0.2)})
    assert params == pytest.approx([0.9418], rel=1e-12)
    assert kept["h"] == pytest.approx([0.20582], rel=1e-12)  # 0.2 - 0.1 x (0.9418 - 1)


def test_a_new_client_begins_with_zero():
    assert train(Bent(lr=0.1, alpha=0.1), [1.0], [2.0])[2]["h"] == pytest.approx([0.02])


def test_the_server_by_hand():
    # h = 0.3 + 0.1 x 2/10 x 0.0582;  x = 1 - 0.0582 - h / 0.1
    moved, opt = Unbend(alpha=0.1).apply(vector(1.0), vector(-0.0582), {"h": vector(0.3)}, info(2, 10))
    assert opt["h"] == pytest.approx([0.301164], rel=1e-12)
    assert moved == pytest.approx([-2.06984], rel=1e-12)


def test_the_optimum_of_two_clients_is_a_fixed_point():
    """(y - 1)² / 2 and (y - 3)² / 2: at x = 2 with h_i = ∓1 nobody moves, whatever the steps."""
    for optimum, h in ((1.0, 1.0), (3.0, -1.0)):
        params, _, kept = train(Bent(lr=0.1, alpha=0.1), [2.0], [2.0 - optimum] * 3, {"h": vector(h)})
        assert params == pytest.approx([2.0]) and kept["h"] == pytest.approx([h])


def test_server_and_clients_share_their_alpha():
    assert feddyn().but(local=Bent(alpha=0.03)).fitted().server.alpha == 0.03
