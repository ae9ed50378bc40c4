"""Recorded steps: on the CPU as a tape that is played again, where there are shapes only, and on a GPU."""

from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from muster.algorithms.fedavg import SGD
from muster.core.errors import UserError
from muster.core.work import Work
from muster.learn.cohort import few
from muster.learn.learners import choose_engine, make_learner
from muster.learn.numerics import Numerics
from worlds.toy import FACTS

torch = pytest.importorskip("torch")
import muster.learn.graphs as graphs  # noqa: E402
from muster.learn.device_cohort import DeviceCohort  # noqa: E402
from muster.learn.resident import Resident  # noqa: E402
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
from worlds.tape import Tape, taped  # noqa: E402

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use on this machine")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
BOUND = {"cpu": 1e-6, "cuda": 1e-4}
CPU = torch.device("cpu")


@pytest.fixture
def tapes(monkeypatch):
    """Steps are recorded on tapes on the CPU; the number of rows of each, as they are made."""
    made, real = [], graphs.recorder

    def recorder(device):
        def record(step):
            made.append(step.args[0])
            return taped(step)

        return record if device.type == "cpu" else real(device)

    monkeypatch.setattr(graphs, "recorder", recorder)
    return made


@DEVICES
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_by_recorded_steps_what_it_gives_step_by_step(rule, device, tapes):
    """Three rounds, each of a chunk of four and one of two, in which a client has nothing."""
    local, data = RULES[rule], federated(FACTS)
    _, wanted = run(made(device, "mlp", local), local, data, chunk=4, rounds=3)
    it, found = run(made(device, "mlp", local, graphs=True), local, data, chunk=4, rounds=3)
    assert it.learner.numerics.graphs
    assert_alike(found, wanted, BOUND[device])
    assert len(set(tapes)) == len(tapes) and set(tapes) <= {1, 2, 3, 4}


@DEVICES
@EACH_MODEL
def test_models_give_by_recorded_steps_what_they_give_step_by_step(which, numerics, device, tapes):
    local, data = SGD(lr=0.1), federated(MODELS[which][2])
    _, wanted = run(made(device, which, **numerics), local, data, chunk=6)
    _, found = run(made(device, which, graphs=True, **numerics), local, data, chunk=6)
    assert_alike(found, wanted, BOUND[device])


@pytest.mark.parametrize(
    ("rule", "which"), [*((rule, "mlp") for rule in RULES), ("SGD", "leaf"), ("SGD", "lstm")]
)
def test_recorded_steps_stay_on_their_device(rule, which):
    local = RULES[rule]
    with OneDevice() as machine:
        learner = made("meta", which, local, graphs=True)
        machine.back.clear()  # gradients, by which the model was tried
        run(learner, local, federated(MODELS[which][2]), chunk=6, rounds=1)
    if not local.keeps:
        size = learner.spec.size * len(local.up)
        assert [n for n in machine.back if n >= size] == [size], "the sum, once for all clients"


@pytest.mark.parametrize("gradients", ["plain", "fused"])
def test_rows_of_which_no_example_counts_are_left_alone(gradients):
    learner = made("cpu", "leaf", gradients=gradients)
    params = torch.from_numpy(np.stack([learner.initial(seed) for seed in range(3)]))
    before, gradient = params.clone(), torch.full((3, learner._slopes_kept), 9.0)
    inputs, targets = torch.ones(3, 4, 2, 8, 8), torch.zeros((3, 4), dtype=torch.int64)
    losses = learner._taught(params, inputs, targets, torch.tensor([4, 0, 1]), gradient)
    assert losses.shape == (3, 4) and losses.isfinite().all()
    moved = params != before if gradients == "fused" else gradient != 0
    assert moved.any(dim=1).tolist() == [True, False, True]


def counting(params, inputs, targets, real, gradient):
    """A step by which it can be seen which examples counted: each model grows by their sum."""
    each = torch.where(torch.arange(inputs.shape[1]) < real[:, None], inputs, 0.0)
    params += each.sum(1, keepdim=True)
    return inputs + targets


def fixed(rows, record=taped, count=10):
    there = Resident(torch.arange(float(count)), torch.arange(count) * 100)
    return graphs.FixedSteps(counting, rows, 3, 1, 2, there, record)


def test_programs_are_made_once_before_the_models_come_and_the_largest_first():
    made = []

    def record(step):
        made.append(step.args[0])
        return taped(step)

    steps = fixed(6, record)
    first = torch.full((5, 3), 0.5)
    params, slopes = steps.begin(first, [5, 5, 3, 1])
    assert made == [6, 3, 1] and (params == first).all() and slopes.shape == (5, 1)
    steps.begin(first, [4, 3])
    assert made == [6, 3, 1, 4]
    assert params.data_ptr() == steps.begin(first[:2], [2])[0].data_ptr()


def test_nothing_of_the_clients_before_reaches_the_next():
    steps = fixed(6)
    steps.begin(torch.zeros(6, 3), [6])
    steps(torch.full((6, 2), 9), torch.full((6,), 2), 6)
    params, _ = steps.begin(torch.zeros(5, 3), [5, 4])
    places = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8], [2, 2]])
    losses = steps(places, torch.tensor([2, 2, 1, 1, 2]), 5)
    assert losses.tolist() == [[101, 202], [303, 404], [505, 606], [707, 808], [202, 202]]
    assert params.tolist() == [[n] * 3 for n in (3, 7, 5, 7, 4)]
    again = steps(places.flip(0), torch.tensor([1, 0, 2, 2, 0]), 4)
    assert losses[0].tolist() == [101, 202], "told of a step is not what the next writes to"
    assert again.tolist() == [[202, 202], [707, 808], [505, 606], [303, 404]]
    assert params.tolist() == [[n] * 3 for n in (5, 7, 16, 14, 4)]
    assert steps._params[5].tolist() == [18] * 3, "a row that no client has is left alone"
    steps.begin(torch.zeros(6, 3), [6, 5])
    steps(torch.full((6, 2), 1), torch.full((6,), 2), 6)
    steps(torch.full((6, 2), 1), torch.tensor([2, 1, 1, 1, 1, 0]), 5)
    assert steps._params[:, 0].tolist() == [4, 3, 3, 3, 3, 2], "a client that has ended is left alone"


def test_more_clients_or_other_data_get_tensors_of_their_own():
    local, data, learner = SGD(lr=0.1), federated(FACTS), made("cpu", "mlp", graphs=True)
    run(learner, local, data, chunk=2)
    small = learner._steps
    it, found = run(learner, local, data, chunk=6)
    assert small.rows == 2 and learner._steps.rows == few(5) == 6 and learner._steps.there is not small.there
    now = learner._steps
    for _ in range(2):
        it.learner.place = lambda data: data
        run(it.learner, local, it.near, chunk=6)
        assert learner._steps is now, "the data set is where it was"
    assert_alike(found, run(made("cpu", "mlp"), local, data, chunk=6)[1], 1e-6)


def test_the_numbers_of_clients_are_few():
    assert [few(n) for n in range(1, 18)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]
    assert len({few(n) for n in range(1, 4097)}) == 24


def test_where_steps_cannot_be_recorded_it_is_said():
    parts, asked = MODELS["mlp"], Numerics(graphs=True)
    cpu = r"engine.graphs is for cohorts on a GPU, but engine.device is cpu; use engine.device=cuda with"
    for chunk in (0, 4):
        with pytest.raises(UserError, match=cpu):
            make_learner("torch", *parts, SGD(), WORK, asked, chunk)
    with pytest.raises(
        UserError, match=r"but clients train one after another; use .* or engine.graphs=false"
    ):
        make_learner("torch", *parts, SGD(), WORK, Numerics(graphs=True, device="meta"))
    with pytest.raises(UserError, match=r"engine.graphs and .* are for backend torch, but this is numpy"):
        make_learner("numpy", *parts, SGD(), WORK, asked)
    with pytest.raises(UserError, match=r"needs batches of one size, but each client's is all that it has"):
        DeviceCohort(*parts, SGD(), Work(batch_size=0), asked)
    learner, data = made("cpu", "mlp", graphs=True), federated(FACTS)
    learner.place = lambda data: data
    with pytest.raises(UserError, match=r"engine.graphs needs the training examples on the GPU, but they"):
        run(learner, SGD(lr=0.1), data, chunk=4)


def test_a_job_that_asks_for_them_trains_in_torch():
    model, task, facts = MODELS["mlp"]
    told = choose_engine("auto", "auto", "auto", model, facts, SGD(), Numerics(graphs=True), task)
    assert (told.backend, told.mode) == ("torch", "sequential"), "where they are refused, not in NumPy"
    assert Numerics(graphs=True).said()[-1] == "graphs: each step is recorded, and started whole"


def test_what_waits_cannot_be_recorded():
    total = torch.ones(2)
    with pytest.raises(RuntimeError, match=r"_local_scalar_dense.* cannot be recorded"), Tape():
        total += float(total.sum())


class Card:
    """Torch's side of a GPU, as far as recording goes: what is asked of it, in order."""

    def __init__(self, monkeypatch, fails=""):
        self.told, self.streams, self.fails = [], ["default"], fails
        names = "Stream", "graph_pool_handle", "CUDAGraph", "device", "current_stream", "stream", "graph"
        for name in names:
            monkeypatch.setattr(torch.cuda, name, partial(self._ask, name))

    def _ask(self, what, *args):
        return getattr(self, "_" + what)(*args)

    def _Stream(self, device):
        return Named("side", self.told)

    def _graph_pool_handle(self):
        return "pool"

    def _CUDAGraph(self):
        return Named("graph", self.told)

    def _current_stream(self):
        return Named(self.streams[-1], self.told)

    @contextmanager
    def _device(self, device):
        self.told.append(f"on {device}")
        yield

    @contextmanager
    def _stream(self, stream):
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    @contextmanager
    def _graph(self, graph, pool, stream, errors):
        self.told.append(f"records in {pool} on {stream.name}, {errors}")
        with self._stream(stream):
            yield
        if self.fails:
            raise RuntimeError(self.fails)


class Named:
    def __init__(self, name, told):
        self.name, self.told = name, told

    def wait_stream(self, other):
        self.told.append(f"{self.name} waits for {other.name}")

    def replay(self):
        self.told.append("replays")


def test_a_step_is_tried_out_and_recorded_on_one_stream_beside(monkeypatch):
    card = Card(monkeypatch)
    record = graphs.recorder(torch.device("cuda:1"))
    play = record(lambda: card.told.append(f"step on {card.streams[-1]}"))
    play()
    assert card.told == [
        *("on cuda:1", "side waits for default", *["step on side"] * 3, "default waits for side"),
        *("records in pool on side, thread_local", "step on side", "replays"),
    ]
    assert graphs.recorder(CPU)(play) is play


def test_a_model_whose_step_cannot_be_recorded_is_told(monkeypatch):
    Card(monkeypatch, fails="CUDA error: operation not permitted when stream is capturing\nFor debugging ...")
    record = graphs.recorder(torch.device("cuda:0"))
    with pytest.raises(
        UserError, match=r"cannot be recorded \(CUDA error: .* capturing\): .*engine.graphs=false"
    ):
        record(lambda: None)
