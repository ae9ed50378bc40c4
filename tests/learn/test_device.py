"""Which device is chosen, and what is refused."""

import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.core.errors import UserError
from muster.core.part import dumps, loads
from muster.core.work import Work
from muster.learn.accumulator import Folding
from muster.learn.crew import Recipe
from muster.learn.device import choose_device, conflict, device_of, lacking, num_gpus
from muster.learn.numerics import Numerics
from muster.models.convolutional import LeafCNN
from muster.models.dense import MLP
from muster.tasks.classification import Classification

torch = pytest.importorskip("torch")


@pytest.fixture
def gpus(monkeypatch):
    """Has this machine have so many GPUs, as far as torch's questions go."""

    def have(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(gpus):
    gpus(0)
    assert choose_device("auto", "auto", MLP()) == choose_device("cpu", "numpy", MLP()) == "cpu"
    with pytest.raises(
        UserError, match=r"engine.device is cuda:1, but torch .*; it must be cpu or auto here: use"
    ):
        choose_device("cuda:1", "torch", MLP())


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("numpy", "engine.backend is numpy, which computes on the CPU; use engine.backend=torch, or leave"),
        ("jax", "engine.backend is jax, which picks its device itself: the GPU where"),
    ],
)
def test_other_backends_have_no_device(gpus, backend, says):
    gpus(1)
    with pytest.raises(UserError, match=says):
        choose_device("cuda", backend, MLP())
    assert says in conflict("cuda", backend) and choose_device("auto", backend, MLP()) == "cpu"
    assert conflict("cuda", "torch") == conflict("cpu", backend) == conflict("auto", backend) == ""


def test_with_gpus_auto_takes_them_and_numbers_are_checked(gpus):
    gpus(2)
    assert choose_device("auto", "torch", LeafCNN()) == "cuda"
    assert choose_device("cuda:1", "auto", MLP()) == "cuda:1"
    assert lacking("cuda:2") == (
        "engine.device is cuda:2, but this machine has 2 GPUs; it must be cpu, auto, cuda, or cuda:N with N "
        "below 2"
    )


def test_workers_are_dealt_the_gpus_in_turn(gpus):
    gpus(2)
    assert [device_of("cuda", worker) for worker in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [device_of(device, 1) for device in ("cuda:0", "cpu")] == ["cuda:0", "cpu"]
    assert [num_gpus(device) for device in ("cuda", "cuda:1", "cpu")] == [2, 1, 0]
    folding = Folding(Mean(), 1.0, 40, 0, SGD())
    parts, cuda = (MLP(), Classification(), SGD(), Work(), folding, "data"), Numerics(device="cuda")
    recipe = Recipe("torch", *parts, numerics=cuda)
    assert loads(dumps(recipe.of(1))).numerics == Numerics(device="cuda:1")


def test_a_machine_without_a_gpu_rounds_in_float32_where_others_take_tf32():
    asked = Numerics("fused", "channels_last", "tf32", "cuda")
    assert asked.on("cpu") == Numerics("fused", "channels_last", "float32", "cpu")
    assert asked.on("cuda:1") == Numerics("fused", "channels_last", "tf32", "cuda:1")
    assert Numerics("fused", precision="bfloat16", device="cuda").on("cpu").precision == "bfloat16"
    assert asked.said()[-2:] == ("precision: tf32", "device: cuda") and Numerics(device="cuda").of_torch
