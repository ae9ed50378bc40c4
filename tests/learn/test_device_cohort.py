"""Cohorts on a device apart: on the CPU against one client after another, and where there are shapes only."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.tables import TASK, rows
from muster.learn import compiled
from muster.learn.cohort import chunk_on_device
from muster.learn.learners import choose_engine, make_learner
from muster.learn.numerics import Numerics
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.tasks.classification import Classification
from worlds.rig import small
from worlds.toy import FACTS

torch = pytest.importorskip("torch")
from muster.learn.resident import ResidentData  # noqa: E402
from worlds.cohorts import (  # noqa: E402
    EACH_MODEL,
    MODELS,
    RULES,
    WORK,
    assert_alike,
    federated,
    made,
    run,
)
from worlds.one_device import OneDevice  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_in_a_cohort_there_what_it_gives_alone(rule):
    local = RULES[rule]
    alone = make_learner("torch", *MODELS["mlp"], local, WORK, Numerics())
    _, wanted = run(alone, local, federated(FACTS))
    _, found = run(made("cpu", "mlp", local), local, federated(FACTS), chunk=4)
    assert_alike(found, wanted)


@EACH_MODEL
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_models_give_in_a_cohort_there_what_they_give_alone(which, numerics, device):
    local, data = SGD(lr=0.1), federated(MODELS[which][2])
    _, wanted = run(make_learner("torch", *MODELS[which], local, WORK, Numerics()), local, data)
    it, found = run(made(device, which, **numerics), local, data, chunk=6)
    assert isinstance(it.near, ResidentData)
    assert_alike(found, wanted, bound={"cpu": 2e-5, "cuda": 2e-4}[device])
    one_by_one = make_learner("torch", *MODELS[which], local, WORK, Numerics("auto", "auto", device=device))
    assert_alike(run(one_by_one, local, data)[1], wanted, bound={"cpu": 2e-5, "cuda": 2e-4}[device])
    it.near = data  # as if it did not fit: batches are copied one by one, to the same bits
    again = it.train(
        rows(TASK, 6, client=np.array([3, 0, 5, 2, 4, 1]), attempt=2, ticket=np.arange(6)),
        *(np.zeros(6, np.int64), {0: {"model": it.learner.initial(2)}}, {}, {}, np.zeros(1, np.int64)),
    )[0]
    other, there = run(made(device, which, **numerics), local, data, chunk=6, rounds=3)
    assert (other.total.total == it.total.total).all()
    assert there[2][0]["loss"].tolist() == again["loss"].tolist()


@pytest.mark.parametrize(
    ("rule", "which", "numerics"),
    [*((rule, "mlp", {}) for rule in RULES), ("SGD", "leaf", {"precision": "tf32"}), ("SGD", "lstm", {})],
)
def test_a_cohort_stays_on_its_device(rule, which, numerics):
    local = RULES[rule]
    with OneDevice() as machine:
        learner = made("meta", which, local, **numerics)
        machine.back.clear()  # gradients, by which the model was tried
        run(learner, local, federated(MODELS[which][2]), chunk=6, rounds=1)
    if not local.keeps:
        size = learner.spec.size * len(local.up)
        assert [n for n in machine.back if n >= size] == [size], "the sum, once for all clients"


@pytest.mark.parametrize("clients", [(3, 0, 5, 2, 4, 1), (4, 0, 1, 3, 2, 5)], ids=["sorted", "unsorted"])
def test_what_all_clients_are_sent_goes_there_once(clients):
    with OneDevice() as machine:
        learner = made("meta", "mlp")
        machine.there.clear()
        run(learner, SGD(lr=0.1), federated(FACTS), chunk=6, rounds=1, clients=clients)
    size = learner.spec.size
    assert [count for count in machine.there if count % size == 0] == [size]


@pytest.mark.parametrize("chunk", [0, 4])
def test_clients_are_measured_on_the_examples_that_lie_there(chunk):
    local, data, one = small("qfedavg").local, federated(MODELS["leaf"][2]), 2 * 8 * 8
    assert local.needs_loss
    asked = Numerics("auto", "auto", device="meta")
    with OneDevice() as machine:
        learner = (
            made("meta", "leaf", local)
            if chunk
            else make_learner("torch", *MODELS["leaf"], local, WORK, asked)
        )
        machine.there.clear()
        run(learner, local, data, chunk=chunk, rounds=1)
    images = [count // one for count in machine.there if count % one == 0 and count != learner.spec.size]
    assert images == [data.num_examples.sum()], "all of them, once"


def test_shuffles_are_compiled_where_they_can_be_to_the_same_bits(monkeypatch):
    pytest.importorskip("numba")
    shuffled, kernels = [], compiled.kernels
    monkeypatch.setattr(
        compiled, "kernels", SimpleNamespace(shuffle=lambda *all: shuffled.append(kernels.shuffle(*all)))
    )
    local, data = SGD(lr=0.1), federated(FACTS)
    _, found = run(made("cpu", "mlp"), local, data, chunk=3)
    assert len(shuffled) == 4, "two chunks in two rounds"
    monkeypatch.setattr(compiled, "kernels", None)
    _, wanted = run(made("cpu", "mlp"), local, data, chunk=3)
    for (_, total), (_, other) in zip(found, wanted, strict=True):
        assert total.tobytes() == other.tobytes()


@pytest.mark.parametrize(("chunk", "says"), [(4, "use engine.chunk=2 or less"), (1, "use engine.mode=seq")])
def test_a_chunk_that_does_not_fit_is_told_with_what_to_do(monkeypatch, chunk, says):
    learner = made("cpu", "mlp")

    def full(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee the documentation")

    monkeypatch.setattr(learner, "_taught", full)
    wanted = rf"{chunk} clients at once do not fit into the GPU's memory \(CUDA .* 9 GiB\.\); {says}"
    with pytest.raises(UserError, match=wanted):
        run(learner, SGD(lr=0.1), federated(FACTS), chunk=chunk)


def test_what_is_chosen_is_told():
    assert made("cpu", "leaf").numerics == Numerics("fused", convolutions="unfolded")
    assert made("cpu", "leaf", gradients="plain", convolutions="direct").numerics == Numerics()
    assert made("cpu", "mlp", SGD(clip_norm=1.0)).numerics.gradients == "plain"
    for rule in (SGD(clip_norm=1.0), SGD(momentum=0.5)):
        with pytest.raises(UserError, match=r"engine.gradients is fused, but must be auto or plain: fused"):
            made("cpu", "mlp", rule, gradients="fused")
    after = "is for clients one after another; use"
    with pytest.raises(UserError, match=rf"engine.gradients factored {after} auto or plain or fused"):
        made("cpu", "leaf", gradients="factored")
    with pytest.raises(UserError, match=rf"engine.precision bfloat16 {after} float32 or tf32"):
        made("cpu", "leaf", precision="bfloat16")
    assert [chunk_on_device(num_bytes) for num_bytes in (20_000, 6_760_000, 1 << 33)] == [4096, 158, 1]


def choose(model, facts, task, local=SGD(), mode="auto", chunk="auto", **numerics):
    asked = replace(Numerics("auto", "auto"), **numerics)
    return choose_engine("auto", mode, chunk, model, facts, local, asked, task)


def test_auto_trains_cohorts_on_a_gpu_where_the_model_lets_it():
    cnn = (LeafCNN(), Facts("femnist", (1, 28, 28), 62), Classification())
    with OneDevice():
        told = choose(*cnn, device="meta")
        assert (told.backend, told.mode, told.chunk) == ("torch", "cohort", 158)
        assert told.why == "engine: cohorts of 158 clients (auto: on a GPU)"
        assert choose(*cnn, device="meta", chunk=9, precision="tf32").chunk == 9
        assert choose(*cnn, device="meta", mode="cohort").chunk == 158
        for other in (
            choose(ConvNet2(), *cnn[1:], device="meta"),
            choose(*cnn, device="meta", precision="bfloat16"),
            choose(*cnn, device="meta", mode="sequential"),
            choose(*cnn, device="meta", chunk=1),
            choose(*cnn, SGD(clip_norm=1.0), device="meta", gradients="fused"),
        ):
            assert (other.backend, other.mode) == ("torch", "sequential")
    assert (choose(*cnn).backend, choose(*cnn).mode) == ("torch", "sequential")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_no_cohort_trains_is_not_unfolded(device):
    asked, rest = Numerics(device=device, convolutions="unfolded"), (SGD(), WORK)
    with pytest.raises(UserError, match=r"convolutions unfolded is for cohorts in torch, but clients train"):
        make_learner("torch", *MODELS["leaf"], *rest, asked)
    with pytest.raises(UserError, match=r"convolutions unfolded, .* are for backend torch, but this is"):
        make_learner("numpy", *MODELS["mlp"], *rest, asked)
