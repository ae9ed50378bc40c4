"""DP-FedAvg: clipping, noise, the norm that adapts, and Poisson draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from muster.algorithms.dp_fedavg import Poisson, Private, dp_fedavg
from muster.core.algorithm import Info
from muster.core.errors import FieldError, UserError
from muster.core.population import Everyone, Free
from muster.core.randomness import rng
from muster.core.tables import REPORT, rows


def shifted(clip, *update):
    up = {"delta": np.array(update, np.float32)}
    report = rows(REPORT, 1, norm=np.linalg.norm(update))[0]
    made, _ = Private().shift(up, {}, {"clip": np.array([clip])}, report, {})
    return made.get("delta", up["delta"]).tolist()


def test_clipping_is_exact():
    """Half, where FedScale's 2.5 / (5 + 1e-6) is 0.4999999."""
    assert shifted(2.5, 3.0, 4.0) == [1.5, 2.0]
    assert shifted(5.0, 3.0, 4.0) == [3.0, 4.0]


def finished(rule, value, norms, clip=None, size=20_000, version=1):
    state = {"clip": np.array([rule.clip_norm if clip is None else clip])}
    mean = {"delta": np.full(size, value, np.float32)}
    made, state = rule.finish(
        mean, rows(REPORT, len(norms), norm=norms), state, Info(version, 100, len(norms), 5)
    )
    return made["delta"], float(state["clip"][0])


def test_the_noise_has_the_deviation_that_the_paper_says():
    noisy, clip = finished(Private(noise_multiplier=2.0, clip_norm=3.0, expected=10), 0.5, np.ones(8))
    # 8 came where 10 were expected: the mean of 8, 0.5, becomes 0.4; the noise is 2 x 3 / 10.
    assert noisy.mean() == pytest.approx(0.4, abs=0.02) and noisy.std() == pytest.approx(0.6, rel=0.02)
    assert clip == 3.0
    again, _ = finished(Private(noise_multiplier=2.0, clip_norm=3.0, expected=10), 0.5, np.ones(8))
    other, _ = finished(Private(noise_multiplier=2.0, clip_norm=3.0, expected=10), 0.5, np.ones(8), version=2)
    assert (noisy == again).all() and (noisy != other).any()


def test_the_clip_norm_moves_to_the_quantile():
    rule = Private(quantile=0.5, clip_norm=0.1, expected=100, count_noise=1e-0, noise_multiplier=1.0)
    norms = np.r_[np.full(70, 0.05), np.full(30, 9.0)]
    _, clip = finished(rule, 0.0, norms)
    draw = float(Info(1, 100, 100, 5).rng("clip count").standard_normal())
    assert clip == pytest.approx(0.1 * math.exp(-0.2 * ((70 + draw) / 100 - 0.5)), rel=1e-12)
    steps = [0.1]
    for version in range(1, 200):
        steps.append(finished(rule, 0.0, rng(1, "norms", version).random(100) * 2, steps[-1], 1, version)[1])
    assert np.mean(steps[-50:]) == pytest.approx(1.0, abs=0.1)  # the median of uniform norms below 2


def test_the_counts_noise_takes_its_share():
    # z = 1, sigma_b = 5: (1 - 0.01)^-1/2.
    assert Private(noise_multiplier=1.0).update_noise(5.0) == pytest.approx(0.99**-0.5)
    with pytest.raises(
        FieldError, match=r"private\.noise_multiplier is 2.0, but must be below 2 x count_noise, 2"
    ):
        Private(noise_multiplier=2.0, quantile=0.5, count_noise=1.0)


def test_each_client_is_drawn_by_its_own_coin():
    free = Free(Everyone(50, 0), np.array([3]))
    drawn = [Poisson(0.2).draw({}, 50, free, rng(1, "draw", i)) for i in range(2_000)]
    sizes = np.array([len(ids) for ids in drawn])
    assert sizes.mean() == pytest.approx(49 * 0.2, abs=0.3) and sizes.var() == pytest.approx(
        49 * 0.16, rel=0.15
    )
    counts = np.bincount(np.concatenate(drawn), minlength=50)
    assert counts[3] == 0 and np.delete(counts, 3) == pytest.approx(np.full(49, 400), abs=90)


def test_a_draw_that_the_pace_has_no_room_for_is_an_error():
    with pytest.raises(UserError, match="poisson drew 6 clients, but the pace has room for 5"):
        Poisson(1.0).draw({}, 5, Free(Everyone(6, 0), np.zeros(0, np.int64)), rng(0, "draw"))


def test_the_algorithm_and_what_is_refused():
    assert dp_fedavg().combine == Private()
    with pytest.raises(FieldError, match=r"private\.delta is 1"):
        Private(delta=1)
