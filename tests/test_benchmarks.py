"""The benchmarks of the engine run, on a work that is cut to a few clients: that, not how fast."""

import numpy as np
import pytest

from worlds.scripts import FOLDER, loaded


@pytest.fixture(scope="module")
def bare():
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER / "peers")  # its models are imported when a way is prepared
        yield loaded("bare")


@pytest.fixture(scope="module")
def tiny(bare):
    draw = np.random.default_rng(0)
    clients = [(draw.standard_normal((n, 64), np.float32), draw.integers(0, 10, n)) for n in (3, 12, 20)]
    return bare.Workload(clients, per_round=2, rounds=1, batch_size=5, lr=0.1, num_classes=10)


def test_batches_are_padded(bare, tiny):
    x, y, real = bare.padded(tiny, [0, 1], np.random.default_rng(0))
    assert x.shape == (2, 3, 5, 64) and y.shape == (2, 3, 5)
    assert real.tolist() == [[3, 0, 0], [5, 5, 2]]
    assert not x[0, 0, 3:].any() and x[1, 2, 1].any()


@pytest.mark.parametrize("way", ["torch", "vmap", "jax"])
def test_bare_loops_run(bare, tiny, way):
    if way == "jax":
        pytest.importorskip("jax")
    train = bare.one_process(way, "B", tiny)
    assert train([0, 1]) == train([1, 2]) == 0.0


def test_a_million_clients_cut_to_two_hundred(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path))
    found = loaded("million").measure(200, participants=10, workers=1, rounds=5)
    assert found["secs"] > 0 and 10e6 < found["rss"] < 1e9


def test_the_spill_benchmark_finds_the_median(tmp_path):
    found = loaded("spill").run(7, 5000, tmp_path)
    assert min(found.values()) > 0 and not list(tmp_path.iterdir())
