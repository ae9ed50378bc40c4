"""Training on a device apart: on the CPU against the CPU's own learner, and where there are shapes only."""

import os
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD, Mean
from muster.algorithms.fedbuff import StaleMean
from muster.core.errors import DataError, UserError
from muster.core.examples import Examples, Facts
from muster.core.randomness import rng
from muster.core.sums import FixedPointSum
from muster.core.tables import TASK, Refusal, rows
from muster.core.work import Steps, Work
from muster.learn.accumulator import Folding
from muster.learn.client import OwnClient
from muster.learn.device import steady
from muster.learn.learners import make_learner
from muster.learn.numerics import Numerics
from muster.learn.trainer import Trainer
from muster.models.convolutional import ConvNet2, LeafCNN
from muster.models.dense import MLP
from muster.models.model import Model
from muster.models.recurrent import CharLSTM
from muster.tasks.classification import Classification
from muster.tasks.next_character import NextCharacter
from worlds.rig import NAMES, small
from worlds.toy import FACTS, SIZES, toy_data

torch = pytest.importorskip("torch")
from muster.learn import resident as resident_module  # noqa: E402
from muster.learn.device_learner import DeviceLearner  # noqa: E402
from muster.learn.device_sum import DeviceSum  # noqa: E402
from muster.learn.resident import Placed, ResidentData  # noqa: E402
from worlds.one_device import OneDevice  # noqa: E402

IMAGES, TEXT = Facts("images", (1, 8, 8), 3), Facts("text", (6,), 5)
WORK = Work(epochs=2, batch_size=4)
MODELS = [
    (MLP((5,)), Classification(), FACTS),
    (LeafCNN(dense=8), Classification(), IMAGES),
    (ConvNet2(hidden=8, dropout=0.5), Classification(), IMAGES),
    (CharLSTM(embed=4, hidden=8, layers=2), NextCharacter(), TEXT),
]
RULES = {type(small(name).local).__name__: small(name).local for name in NAMES}
PLAIN = Numerics("plain", "channels_first")


@dataclass(frozen=True)
class Dropping(Model):
    """Drops inputs at random."""

    def torch(self, facts):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, facts.num_classes))


def data(facts, count=9):
    draw = rng(0, "device")
    y = draw.integers(0, facts.num_classes, count)
    if facts is TEXT:
        return Examples(np.arange(count), y, draw.integers(0, 5, count + 6).astype(np.uint8))
    return Examples(draw.normal(size=(count, *facts.input_shape)).astype(np.float32), y)


def on(device, model, task, facts, local=SGD(), work=WORK, numerics=PLAIN):
    return DeviceLearner(model, task, facts, local, work, replace(numerics, device=device))


def trained(learner, local, examples, steps=0, rounds=2):
    """(what went up, losses, what is kept) of tasks of one client, one after another."""
    done, kept = [], None
    for attempt in range(rounds):
        sent = {"model": learner.initial(attempt)}
        sent |= {
            name: np.full(learner.spec.trained, 0.01, np.float32)
            for name in [*local.down[1:], *(["personal"] if local.needs_mask else [])]
        }
        up = np.full((len(local.up), learner.spec.size), 9.0, np.float32)
        told = learner.train(sent, examples, rng(1, "train", attempt), up, kept, steps)
        kept = told.kept
        done.append((up, told))
    return done


@pytest.mark.parametrize(("model", "task", "facts"), MODELS, ids=["mlp", "leaf", "convnet2", "lstm"])
def test_on_the_cpu_it_gives_what_the_learner_for_the_cpu_gives(model, task, facts):
    """Dropout and BatchNorm included, to the bit; so does evaluation, in larger batches, to rounding."""
    local, examples = SGD(lr=0.1, momentum=0.9, clip_norm=1.0), data(facts)
    alone = make_learner("torch", model, task, facts, local, WORK, PLAIN)
    there = on("cpu", model, task, facts, local)
    assert there.spec == alone.spec and (there.initial(3) == alone.initial(3)).all()
    for (up, told), (same, also) in zip(
        trained(there, local, examples), trained(alone, local, examples), strict=True
    ):
        assert np.abs(up).max() > 1e-3 and up.tobytes() == same.tobytes()
        assert (told.num_steps, told.loss, told.loss_sq_mean) == (
            also.num_steps,
            also.loss,
            also.loss_sq_mean,
        )
    one, other = there.scores(there.initial(1), examples), alone.scores(alone.initial(1), examples)
    assert one["accuracy"].tolist() == other["accuracy"].tolist()
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_the_same_there(rule):
    local, examples = RULES[rule], data(FACTS)
    alone = make_learner("torch", MLP((5,)), Classification(), FACTS, local, WORK, PLAIN)
    there = on("cpu", MLP((5,)), Classification(), FACTS, local)
    for (up, told), (same, also) in zip(
        trained(there, local, examples), trained(alone, local, examples), strict=True
    ):
        assert up.tobytes() == same.tobytes() and told.loss == also.loss
        assert (told.kept is None) == (also.kept is None)
        for name, vector in (also.kept or {}).items():
            assert told.kept[name].tobytes() == vector.tobytes()


@pytest.mark.parametrize(
    ("rule", "which"),
    [*((rule, 0) for rule in RULES), *(("SGD", which) for which in (1, 2, 3))],
)
def test_a_device_is_never_left_in_a_step(rule, which):
    """Nothing mixes with the CPU, and what comes back does not grow with the steps."""
    local, counts, (model, task, facts) = RULES[rule], [], MODELS[which]
    for epochs in (1, 3):
        there = on("meta", model, task, facts, local, Work(epochs=epochs, batch_size=4))
        with OneDevice() as machine:
            trained(there, local, data(facts), rounds=1)
            counts.append(len(machine.back))
            there.scores(np.zeros(there.spec.size, np.float32), data(facts))
    assert counts[0] == counts[1] <= 2 + local.keeps, "losses, what goes up, and what is kept"


def test_the_machine_refuses_what_a_gpu_refuses():
    with OneDevice():
        mine, theirs = torch.zeros(3, device="meta"), torch.zeros(3)
        with pytest.raises(RuntimeError, match="mixes tensors"):
            mine + theirs
        with pytest.raises(RuntimeError, match="item"):
            mine.sum().item()


@pytest.mark.parametrize(
    ("gradients", "layout", "precision"), [("fused", "channels_last", "float32"), ("plain", "auto", "tf32")]
)
def test_other_numerics_stay_on_the_device(gradients, layout, precision):
    there = on("meta", LeafCNN(dense=8), *MODELS[1][1:], numerics=Numerics(gradients, layout, precision))
    with OneDevice():
        trained(there, SGD(), data(IMAGES))
    assert there.numerics.device == "meta" and there.numerics.precision == precision


def test_auto_fuses_where_no_norm_must_be_waited_for():
    def made(local, numerics=Numerics("auto", "auto")):
        return on("cpu", LeafCNN(dense=8), *MODELS[1][1:], local, numerics=numerics).numerics

    assert made(SGD()) == Numerics("fused", "channels_first")
    assert made(SGD(clip_norm=1.0)).gradients == made(SGD(momentum=0.5)).gradients == "plain"
    assert made(SGD(), Numerics("auto", "auto", "bfloat16")).layout == "channels_last"


@pytest.mark.parametrize("gradients", ["fused", "factored"])
def test_ways_of_gradients_agree(gradients):
    facts = Facts("wide", (512,), 600)
    model, examples = MLP((600,)), data(facts)
    exact, _ = trained(on("cpu", model, Classification(), facts), SGD(), examples, rounds=1)[0]
    there = on("cpu", model, Classification(), facts, numerics=Numerics(gradients))
    up, _ = trained(there, SGD(), examples, rounds=1)[0]
    assert there.numerics.gradients == gradients
    np.testing.assert_allclose(up, exact, atol=1e-6)


def test_a_task_may_be_asked_before_each_step():
    local, examples = SGD(), data(FACTS)
    there = on("cpu", *MODELS[0], local)
    (up, told), *_ = trained(there, local, examples, Steps(None, lambda made: made < 2))
    (same, _), *_ = trained(there, local, examples, 2)
    assert told.num_steps == 2 and up.tobytes() == same.tobytes()


def test_a_client_without_examples_sends_zeros():
    there = on("cpu", *MODELS[0])
    (up, told), *_ = trained(there, SGD(), data(FACTS, 0))
    assert not up.any() and told.num_steps == 0


def test_a_client_of_ones_own_gets_tensors_of_the_device(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from muster.learn.client import Client\n"
        "class Mine(Client):\n    def train(self, data, model, conf):\n"
        "        assert data.x.device.type == data.y.device.type == next(model.parameters()).device.type\n"
        "        model(data.x).sum().backward()\n"
        "        for p in model.parameters():\n            p.data -= 0.1 * p.grad\n"
        "        return model, {'loss': 1.0}\n"
    )
    mine = OwnClient(f"{tmp_path}/mine.py:Mine")
    (up, told), *_ = trained(on("cpu", *MODELS[0], mine), mine, data(FACTS))
    assert np.abs(up).max() > 1e-3 and told.loss == 1.0
    with OneDevice():
        trained(on("meta", *MODELS[0], mine), mine, data(FACTS))


def test_sums_on_a_device_round_as_on_the_host():
    draw = rng(0, "sums")
    sizes = draw.choice([1e-6, 1.0, 1000.0], size=(7, 2, 1000))
    up = (draw.uniform(-1, 1, size=(7, 2, 1000)) * sizes).astype(np.float32)
    up[0, 0, :4] = [0.5, 1.5, 2.5, -2.5]  # halves of a unit at scale 0
    weights = draw.uniform(size=7)
    weights[0] = 1.0
    for scale in (0, 30, 49):
        wanted, total = FixedPointSum(2000, scale), FixedPointSum(2000, scale)
        there = DeviceSum(total, torch.device("cpu"))
        for part in (slice(0, 3), slice(3, 7)):
            wanted.add_all(up[part].reshape(-1, 2000), weights[part])
            there.add_all(torch.from_numpy(up[part]), weights[part])
        assert not total.total.any()
        there.bring()
        there.bring()
        assert total.total.any() and (total.total == wanted.total).all()


def trainer(learner, combine=None, federated=None):
    total = FixedPointSum(learner.spec.size, 40)
    folding = Folding(combine or Mean(), float(max(SIZES)), 40, 3, SGD())
    return Trainer(learner, federated or toy_data(), folding, total)


def train(it, clients=range(12)):
    sent = {0: {"model": it.learner.initial(5)}}
    tasks = rows(TASK, len(clients), client=np.array(clients), ticket=np.arange(len(clients)))
    return it.train(tasks, np.zeros(len(clients), np.int64), sent, {}, {}, np.zeros(1, np.int64))[0]


@pytest.mark.parametrize("combine", [Mean(), StaleMean()], ids=["folded there", "folded by the host"])
def test_a_trainer_comes_to_the_same_sum(combine):
    parts = MLP((5,)), Classification(), FACTS, SGD(), WORK
    here, there = trainer(make_learner("torch", *parts, PLAIN), combine), trainer(on("cpu", *parts), combine)
    reports, same = train(there), train(here)
    assert (there.total.total == here.total.total).all() and there.total.total.any()
    for name in reports.dtype.names:
        np.testing.assert_allclose(reports[name], same[name], rtol=1e-12, err_msg=name)


def test_what_the_gate_refuses_there_is_not_in_the_sum():
    class Broken(DeviceLearner):
        def train(self, sent, examples, rng, up, kept, steps=0):
            done = super().train(sent, examples, rng, up, kept, steps)
            up[0, 0] = {3: np.nan, 4: 2000.0}.get(len(examples), 0.25)
            return done

    it = trainer(Broken(MLP((5,)), Classification(), FACTS, SGD(), WORK, PLAIN))
    reports = train(it)
    wanted = {3: Refusal.NON_FINITE, 4: Refusal.TOO_LARGE}
    assert reports["refused"].tolist() == [wanted.get(n, Refusal.NONE) for n in SIZES]
    assert it.total.total[0] == sum(round(2**38 * n / max(SIZES)) for n in SIZES if n not in wanted)


def test_one_model_comes_back_for_all_clients():
    it = trainer(on("meta", MLP((50,)), Classification(), FACTS))
    size = it.learner.spec.size
    with OneDevice() as machine:
        train(it)
    assert [count for count in machine.back if count >= size] == [size]
    assert [count for count in machine.there if count >= size] == [size]
    examples = sum(SIZES)
    assert machine.there.count(examples * 4) == machine.there.count(examples) == 1, "the data set goes once"


def test_a_data_set_stays_there_if_it_fits(monkeypatch):
    learner, federated = on("cpu", *MODELS[0]), toy_data()
    near = learner.place(federated)
    assert isinstance(near, ResidentData) and near.num_clients == 12
    placed, plain = near.client(3), federated.client(3)
    assert isinstance(placed, Placed) and placed.y.tolist() == plain.y.tolist()
    inputs, targets = learner._drawing(placed)(np.array([2, 0]))
    wanted, labels = Classification().batch(FACTS, plain, np.array([2, 0]))
    assert inputs.numpy().tobytes() == wanted.tobytes() and targets.tolist() == labels.tolist()
    assert placed.slice(1, 3).start == placed.start + 1
    both = placed.joined([near.client(5).slice(1, 4)])
    whole = plain.joined([federated.client(5).slice(1, 4)])
    assert both.y.tolist() == whole.y.tolist() and len(both) == len(plain) + 3
    for found, of, part in (
        (placed, plain, slice(2, 9)),
        (both, whole, slice(0, 100)),
        (both.slice(1, len(both)), whole.slice(1, len(whole)), slice(0, 3)),
    ):
        wanted, labels = Classification().batch(FACTS, of, part)
        inputs, targets = learner._tensors(found, part)
        assert inputs.numpy().tobytes() == wanted.tobytes() and targets.tolist() == labels.tolist()
    with pytest.raises(IndexError, match="client 12 does not exist"):
        near.client(12)
    needs = sum(SIZES) * (4 * 4 + 8)
    for free, stays in ((2 * needs, True), (2 * needs - 1, False)):
        monkeypatch.setattr(resident_module, "free_bytes", lambda device, free=free: free)
        assert isinstance(learner.place(federated), ResidentData) == stays
    assert (train(trainer(learner))["loss"] > 0).all()  # each client's are copied then


def test_a_label_out_of_range_is_told_before_it_reaches_the_device():
    federated = toy_data()
    federated.train.y[7] = 3
    with pytest.raises(DataError, match=r"toy has the label 3, but must be 0\.\.2"):
        on("cpu", *MODELS[0]).place(federated)


def test_on_a_gpu_products_are_summed_in_one_order(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    on("cpu", *MODELS[0])
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    steady(torch.device("cuda:0"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    steady(torch.device("cuda:0"))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_that_weights_are_brought_together_for_cudnn_is_no_warning(monkeypatch):
    """As torch says it of an LSTM on a GPU, at each call."""
    learner, local, examples = on("cpu", *MODELS[0]), SGD(), data(FACTS)
    through = learner._flat.module.forward

    def forward(x):
        warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)
        return through(x)

    monkeypatch.setattr(learner._flat.module, "forward", forward)
    trained(learner, local, examples)
    with pytest.warns(UserWarning, match="RNN module weights"):
        learner._flat.module(torch.zeros(2, 4))


def test_tf32_is_of_gpus():
    with pytest.raises(UserError, match=r"engine.precision is tf32, which NVIDIA GPUs have, but engine"):
        make_learner("torch", *MODELS[0], SGD(), WORK, Numerics(precision="tf32"))
