"""The benchmarks of the engine run, on a work that is cut to a few clients: that, not how fast."""

import sys

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


def test_muster_does_a_work_of_the_table():
    """Of work B, which is the smallest, one round of five clients."""
    works, run = loaded("works"), loaded("one_run")
    command = works.ways("B")["muster, numpy, 1 workers"]
    found = run.once([sys.executable, *command, "--rounds", "1", "--per-round", "5"])
    assert (found["peer"], found["work"]) == ("muster", "B")
    assert min(found["secs"], found["cpu_secs"]) > 0 and found["rss_mb"] > 10


def test_a_table_has_a_row_for_each_way_and_ratios_to_the_first(monkeypatch):
    works = loaded("works")
    told = iter([(1.0, 2.0), (3.0, 1.0), (2.0, 2.0), (2.0, 3.0), (4.0, 2.0), (8.0, 1.0)])
    monkeypatch.setattr(works, "ways", lambda work: {"bare": ["a"], "muster": ["b"]})
    monkeypatch.setattr(
        works, "once", lambda command: dict(zip(("secs", "cpu_secs"), next(told), strict=True), rss_mb=9.6)
    )
    # ratios turn by turn: 3, 1 and 2 of seconds, 1/2, 3/2 and 1/2 of CPU seconds
    assert works.table("A", None, 3).splitlines()[2:] == [
        "| bare | 2.000 | 1.00 | 2.000 | 1.00 | 10 |",
        "| muster | 3.000 | 2.00 | 1.000 | 0.50 | 10 |",
    ]


def test_a_million_clients_cut_to_two_hundred(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSTER_CACHE", str(tmp_path))
    found = loaded("million").measure(200, participants=10, workers=1, rounds=5)
    assert found["secs"] > 0 and 10e6 < found["rss"] < 1e9


def test_the_spill_benchmark_finds_the_median(tmp_path):
    found = loaded("spill").run(7, 5000, tmp_path)
    assert min(found.values()) > 0 and not list(tmp_path.iterdir())


def test_peak_memory_is_that_of_a_process_and_its_children():
    holds = "x = bytearray(b'1') * (80 << 20)"
    child = f"import time; {holds}; time.sleep(0.5)"  # it is looked at now and then only
    parent = f"import subprocess, sys; {holds}; subprocess.run([sys.executable, '-c', {child!r}])"
    found = loaded("memory").peak([sys.executable, "-c", parent])
    assert 160 << 20 < found < 260 << 20


def test_the_scaling_table_is_by_medians_of_alternated_runs(monkeypatch):
    scaling, written, asked = loaded("scaling"), [], []
    secs = {"peers/peer_muster.py": {"1": 6.0, "2": 3.0}, "bare.py": {"torch": 5.0, "torch2": 4.0}}

    def once(command):
        script = next(name for name in secs if command[1].endswith(name))
        way = next(secs[script][arg] for arg in command if arg in secs[script])
        asked.append(way)
        return {"secs": way, "cpu_secs": 5.5}

    monkeypatch.setattr(scaling, "once", once)
    monkeypatch.setattr(scaling, "write_between", lambda path, name, text: written.append((name, text)))
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--turns", "2", "--rounds", "1"])
    scaling.main()
    assert asked == [6.0, 3.0, 5.0, 4.0] * 2
    ((name, text),) = written
    assert name == "scaling" and text.splitlines()[2:] == [
        "| Muster, 1 worker | 6.00 | 5.50 | 1.00 |",
        "| Muster, 2 workers | 3.00 | 5.50 | 2.00 |",
        "| bare loop, 1 process | 5.00 | 5.50 | 1.00 |",
        "| bare loop, 2 processes | 4.00 | 5.50 | 1.25 |",
    ]


def test_esync_on_processes_cut_to_three_short_rounds(tmp_path):  # 10 s: seven processes that start
    script = loaded("esync_processes")
    deployed, simulated = script.both("esync", 3, 40.0, tmp_path)
    assert simulated.typical() == [8, 4, 2, 1]
    assert deployed.steps[3] == [1, 1, 1]  # the slowest makes one, whatever else this machine does
    assert deployed.typical()[0] > 2  # 8 on an idle machine; tests/net/test_esync_deployed.py is exact
    (waiting, computing), (idle, _) = deployed.shares(40.0), simulated.shares(40.0)
    assert idle < 0.01 and 0 <= waiting < 0.5 and computing > 0.3  # SSGD waits for 0.53
    assert "| ESync | " in script.table({"esync": (deployed, simulated)}, 40.0)
    script.draw(dict.fromkeys(("esync", "ssgd"), (deployed, simulated)), 40.0, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_a_round_of_work_b_is_taken_to_pieces(backend):
    """Every stretch is found, whatever trains."""
    pytest.importorskip(backend)
    script = loaded("profile_b")
    found = script.in_one_process(backend, 1)
    assert list(found) == [*script.PARTS, script.REST] and min(found.values()) > 0
    assert script.table("a", {backend: found}, True).splitlines()[-1].startswith("| **whole** | ")


def test_the_gpu_benchmark_runs_on_the_cpu_with_five_clients():
    pytest.importorskip("torch")
    script = loaded("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER / "peers")
        lines = list(script.table(script.Row("B", 50, 1), "cpu", 1, 0.1))
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| B, 5", "plain torch, one client after another"],
        ["| B, 5", "muster, cohorts"],
    ]
    assert min(float(line.split(" | ")[2]) for line in lines) > 0


def test_the_gpu_benchmark_asks_for_a_gpu(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match=r"--device is cuda, but torch .* finds no GPU here; run it"):
        loaded("gpu").main()


@pytest.mark.parametrize("mode", ["sequential", "cohort"])
def test_an_empty_round_is_timed(mode, monkeypatch):
    script = loaded("overhead")
    monkeypatch.setattr(script, "ROUNDS", 3)
    assert 0 < script.round_secs(2, mode) < 60


def test_each_way_to_round_trains_a_client():
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER / "peers")
        script = loaded("numerics")
        found = script.secs("A", 1)
    assert list(found) == list(script.WAYS) and min(min(secs) for secs in found.values()) > 0
