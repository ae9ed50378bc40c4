"""FedYogi: algorithm 2 of the paper with its v0 = τ², to nine digits, on NumPy and torch arrays."""

from __future__ import annotations

import numpy as np
import pytest

from muster.algorithms.fedavg import fedavg
from muster.algorithms.fedyogi import Yogi, fedyogi
from muster.core.algorithm import Info
from muster.core.errors import FieldError

INFO = Info(version=1, num_clients=10, num_folded=2)
YOGI = Yogi(lr=3e-3, beta1=0.9, beta2=0.99, tau=1e-8)
DELTAS = (0.1, -0.05, 0.2, 0.0)
M = (0.01, 0.004, 0.0236, 0.02124)
V = (1.000000000001e-4, 1.250000000001e-4, 5.250000000001e-4, 5.250000000001e-4)
STEPS = (0.0029999970000014983, 0.001073311669200328, 0.0030899639771705158, 0.0027809675794534645)


def array(library, *values):
    if library == "numpy":
        return np.array(values, np.float64)
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_four_steps_of_the_paper(library):
    params = array(library, 1.0)
    opt = YOGI.init(params)
    assert float(opt["m"][0]) == 0.0 and float(opt["v"][0]) == pytest.approx(1e-16, rel=1e-12)
    for delta, m, v, step in zip(DELTAS, M, V, STEPS, strict=True):
        moved, opt = YOGI.apply(params, array(library, delta), opt, INFO)
        assert float(opt["m"][0]) == pytest.approx(m, rel=1e-9)
        # v0 = τ² = 1e-16 is told from 0 by its own part of v, 1e-12.
        assert float(opt["v"][0]) == pytest.approx(v, rel=1e-13)
        assert float(moved[0] - params[0]) == pytest.approx(step, rel=1e-9)
        assert type(moved) is type(params) and moved.dtype == params.dtype
        params = moved


def test_the_second_moment_of_a_delta_of_its_own_size_stays():
    # v = Δ²: sign(0) = 0, so v neither grows nor shrinks.
    opt = {"m": np.array([0.0]), "v": np.array([0.25])}
    moved, opt = Yogi(lr=1.0, tau=0.5).apply(np.array([0.0]), np.array([0.5]), opt, INFO)
    assert opt["v"].tolist() == [0.25]
    # m = 0.1 x 0.5; step 0.05 / (0.5 + 0.5).
    assert moved == pytest.approx([0.05])


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_v_grows_and_shrinks_by_a_hundredth_of_the_square(library):
    opt = {"m": array(library, 0, 0), "v": array(library, 1.0, 1.0)}
    _, opt = Yogi().apply(array(library, 0, 0), array(library, 0.5, 2.0), opt, INFO)
    # v > Δ²: 1 - 0.01 x 0.25; v < Δ²: 1 + 0.01 x 4.
    assert np.asarray(opt["v"]) == pytest.approx([0.9975, 1.04])


def test_coordinates_do_not_touch_each_other():
    both = np.array([0.1, 0.0])
    moved, _ = YOGI.apply(np.zeros(2), both, YOGI.init(both), INFO)
    assert moved == pytest.approx([STEPS[0], 0.0])


def test_nothing_that_goes_in_is_changed():
    params, delta = np.array([1.0, 2.0], np.float32), np.array([0.1, -0.2], np.float32)
    opt = dict(Yogi().init(params))
    before = [a.tobytes() for a in (params, delta, *opt.values())]
    for a in (params, delta, *opt.values()):
        a.flags.writeable = False
    moved, after = Yogi().apply(params, delta, opt, INFO)
    assert [a.tobytes() for a in (params, delta, *opt.values())] == before
    assert (moved.dtype, after["m"].dtype, after["v"].dtype) == (np.float32,) * 3


def test_fedyogi_is_fedavg_with_another_server():
    assert fedyogi().but(name="fedavg", server=fedavg().server) == fedavg()
    assert (fedyogi().server.beta1, fedyogi().server.beta2, fedyogi().server.tau) == (0.9, 0.99, 1e-3)


@pytest.mark.parametrize(
    "field", [{"lr": 0}, {"beta1": 1}, {"beta2": -0.1}, {"tau": 0}, {"tau": float("nan")}]
)
def test_settings_that_make_no_sense_are_refused(field):
    (name,) = field
    with pytest.raises(FieldError, match=rf"yogi\.{name} is "):
        Yogi(**field)
