"""What training is compared with: products where clients are trained."""

import json

import pytest

import muster.learn.profile as profile_module
from muster.core.work import Work
from muster.learn.numerics import Numerics
from muster.learn.profile import ProfiledPlane, gemm_flops_per_sec_there
from muster.learn.stopwatch import Stopwatch

torch = pytest.importorskip("torch")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")


def profiled(workers, **numerics):
    """What a plane says that has trained for a second on so many workers."""
    plane = ProfiledPlane(None, Stopwatch(), Work(), 1e9, Numerics(**numerics))
    plane.watch.secs["train"], plane.num_samples = 1.0, 5
    plane.watch.workers.update({number: Stopwatch() for number in range(workers)})
    return plane.profile(1.0, (1,) * (1 + workers))


@pytest.mark.parametrize(
    ("device", "workers", "cards"),
    [("cuda", 0, ["cuda:0"]), ("cuda", 3, ["cuda:0", "cuda:1"]), ("cuda:1", 2, ["cuda:1"])],
)
def test_training_on_gpus_is_compared_with_products_on_those_that_train(monkeypatch, device, workers, cards):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: f"Card {card}")
    monkeypatch.setattr(profile_module, "gemm_flops_per_sec_there", lambda *what: asked.append(what) or 2e13)
    told = profiled(workers, device=device, precision="tf32")
    assert asked == [(cards[0], "tf32")]
    assert (told.device, told.num_devices) == (f"Card {cards[0]}", len(cards))
    assert told.peak_flops_per_sec == 2e13 * len(cards)
    assert json.loads(json.dumps(told.to_json()))["of_peak"] == pytest.approx(5e9 / told.peak_flops_per_sec)
    assert any(f"(matrix products, Card {cards[0]} x {len(cards)})" in line for line in told.lines())


def test_training_on_the_cpu_is_compared_with_a_thread_for_each_process(monkeypatch):
    monkeypatch.setattr(profile_module, "gemm_flops_per_sec", lambda: 1e11)
    for workers in (0, 2):
        told = profiled(workers)
        assert (told.device, told.num_devices) == ("cpu, one thread", max(workers, 1))
        assert told.peak_flops_per_sec == 1e11 * told.num_devices


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tf32"])
def test_products_are_timed_where_training_is(monkeypatch, device, precision):
    seen, product = [], torch.mm

    def mm(left, right, out):
        seen.append((left.device.type, left.dtype, torch.backends.cuda.matmul.allow_tf32))
        return product(left, right, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    before = torch.backends.cuda.matmul.allow_tf32
    assert gemm_flops_per_sec_there(device, precision, size=32) > 0
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    assert set(seen) == {(device, kind, precision == "tf32")} and len(seen) == profile_module.SPELLS
    assert torch.backends.cuda.matmul.allow_tf32 == before
