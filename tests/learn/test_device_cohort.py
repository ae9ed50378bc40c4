"""Cohorts on a device apart: on the CPU against one client after another, and where there are shapes only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.core.errors import UserError
from muster.core.examples import Facts
from muster.core.randomness import rng
from muster.core.sums import FixedPointSum
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.data.federated import FederatedData
from muster.learn.accumulator import Folding
from muster.learn.cohort import chunk_on_device
from muster.learn.learners import choose_engine, make_learner
from muster.learn.numerics import Numerics
from muster.learn.trainer import Trainer
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.models.dense import MLP
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter
from worlds.rig import NAMES, small
from worlds.toy import FACTS, toy_data

torch = pytest.importorskip("torch")
from muster.learn.device_cohort import DeviceCohort  # noqa: E402
from muster.learn.resident import ResidentData  # noqa: E402
from worlds.one_device import OneDevice  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")
SIZES = (7, 0, 3, 8, 1, 4)
IMAGES, TEXT = Facts("images", (2, 8, 8), 3), Facts("text", (6,), 5)
WORK = Work(epochs=2, batch_size=3)
MODELS = {
    "mlp": (MLP((5,)), Classification(), FACTS),
    "leaf": (LeafCNN(dense=8), Classification(), IMAGES),
    "lstm": (CharLSTM(embed=4, hidden=8, layers=2), NextCharacter(), TEXT),
}
RULES = {type(small(name).local).__name__: small(name).local for name in NAMES}


def federated(facts):
    """Six clients, one of whom has nothing."""
    if facts is FACTS:
        return toy_data(SIZES)
    draw, count = rng(0, "cohorts there"), sum(SIZES)
    text = draw.integers(0, 5, count + 6).astype(np.uint8)
    x = np.arange(count) if facts is TEXT else draw.normal(size=(count, 2, 8, 8)).astype(np.float32)
    y, offsets = draw.integers(0, facts.num_classes, count), np.r_[0, np.cumsum(SIZES)].astype(np.int64)
    arrays = {"x": x, "y": y, "offsets": offsets, "test_x": x, "test_y": y, "text": text}
    return FederatedData(Path("in-memory"), facts, (), arrays)


def made(device, which, local=SGD(lr=0.1), **numerics):
    asked = replace(Numerics("auto", "auto", device=device, convolutions="auto"), **numerics)
    return DeviceCohort(*MODELS[which], local, WORK, asked)


def run(learner, local, data, chunk=0, rounds=2):
    """Rounds of all six clients: reports, and sums as numbers."""
    size = len(local.up) * learner.spec.size
    total, kept = FixedPointSum(size, 40), {}
    it = Trainer(learner, data, Folding(Mean(), 8.0, 40, 3, local), total, chunk)
    found = []
    for attempt in range(rounds):
        sent = {"model": learner.initial(attempt)}
        sent |= {name: np.full(learner.spec.trained, 0.01, np.float32) for name in local.down[1:]}
        tasks = rows(TASK, 6, client=np.array([3, 0, 5, 2, 4, 1]), attempt=attempt, ticket=np.arange(6))
        reports, new = it.train(tasks, np.zeros(6, np.int64), {0: sent}, kept, {}, np.zeros(1, np.int64))
        kept |= new
        found.append((reports, total.total / 2.0**40))
    return it, found


def assert_alike(found, wanted, bound=2e-5):
    for (reports, total), (others, other) in zip(found, wanted, strict=True):
        assert np.abs(other).max() > 1e-2
        np.testing.assert_allclose(total, other, atol=bound * np.abs(other).max())
        for name in ("loss", "loss_sq_mean", "norm", "num_steps", "refused", "client", "loss_before"):
            np.testing.assert_allclose(reports[name], others[name], rtol=5 * bound, err_msg=name)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_in_a_cohort_there_what_it_gives_alone(rule):
    local = RULES[rule]
    alone = make_learner("torch", *MODELS["mlp"], local, WORK, Numerics())
    _, wanted = run(alone, local, federated(FACTS))
    _, found = run(made("cpu", "mlp", local), local, federated(FACTS), chunk=4)
    assert_alike(found, wanted)


@pytest.mark.parametrize(
    ("which", "numerics"),
    [
        ("leaf", {"convolutions": "direct", "gradients": "plain"}),
        ("leaf", {"convolutions": "unfolded"}),
        ("lstm", {}),
    ],
    ids=["grouped convolutions", "unfolded convolutions", "text"],
)
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


def test_what_is_chosen_is_told():
    assert made("cpu", "leaf").numerics == Numerics("fused", convolutions="unfolded")
    assert made("cpu", "leaf", gradients="plain", convolutions="direct").numerics == Numerics()
    assert made("cpu", "mlp", SGD(clip_norm=1.0)).numerics.gradients == "plain"
    after = "is for clients one after another; use"
    with pytest.raises(UserError, match=rf"engine.gradients factored {after} auto or plain or fused"):
        made("cpu", "leaf", gradients="factored")
    with pytest.raises(UserError, match=rf"engine.precision bfloat16 {after} float32 or tf32"):
        made("cpu", "leaf", precision="bfloat16")
    assert [chunk_on_device(num_bytes) for num_bytes in (20_000, 6_760_000, 1 << 33)] == [4096, 158, 1]


def choose(model, facts, task, local=SGD(), mode="auto", chunk="auto", **numerics):
    asked = Numerics("auto", "auto", **numerics)
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
        ):
            assert (other.backend, other.mode) == ("torch", "sequential")
    assert (choose(*cnn).backend, choose(*cnn).mode) == ("torch", "sequential")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_no_cohort_trains_is_not_unfolded(device):
    asked, rest = Numerics(device=device, convolutions="unfolded"), (SGD(), WORK)
    with pytest.raises(UserError, match=r"convolutions unfolded is for cohorts in torch, but clients train"):
        make_learner("torch", *MODELS["leaf"], *rest, asked)
    with pytest.raises(UserError, match=r"convolutions unfolded and .* are for backend torch, but this is"):
        make_learner("numpy", *MODELS["mlp"], *rest, asked)
