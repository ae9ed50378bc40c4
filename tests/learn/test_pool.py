"""Workers that die, that are replaced, and what they leave behind. The bits of a pool: test_crew.py."""

import os
import signal
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import pytest

import muster.learn.pool as pools
import muster.learn.worker as processes
from muster.algorithms.fedavg import SGD, Mean
from muster.core.errors import TrainingError
from muster.core.tables import TASK, rows
from muster.core.work import Work
from muster.learn.accumulator import Folding
from muster.learn.client import OwnClient
from muster.learn.crew import Inline, Recipe
from muster.learn.pool import Lifetime, Pool
from muster.models.dense import MLP, Logistic
from muster.tasks.classification import Classification
from worlds.toy import FACTS, SIZES

SPEC = Logistic().spec(FACTS)
FOLDING = Folding(Mean(), max(SIZES), 44, 1, SGD())
SENT = {0: {"model": SPEC.zeros()}}

CLIENT = '''
import os, signal
from pathlib import Path
from muster.learn.client import Client

HELD = []


class Mine(Client):
    """Killed by the system at one client, as often as the job says; or takes memory and keeps it."""

    def train(self, data, model, conf):
        client = round(float(data.x[0, 0]) * 16)
        deaths = Path(conf.deaths)
        if client == conf.client and len(deaths.read_text()) < conf.times:
            with deaths.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        HELD.append(bytearray(b"x" * conf.leak))
        seen = self.state.get("seen", 0)
        self.state["seen"] = seen + 1
        model.parameters["dense0.bias"] += client / 16 + seen + self.rng.random()
        return model, {"loss": float(os.getpid() if conf.leak else seen)}
'''


@pytest.fixture
def recipe(stored, tmp_path):
    def make(times=0, client=5, leak=0, local=None):
        file, deaths = tmp_path / "mine.py", tmp_path / "deaths"
        file.write_text(CLIENT)
        deaths.write_text("")
        conf = {"deaths": str(deaths), "times": times, "client": client, "leak": leak}
        parts = (Logistic(), Classification(), local or OwnClient(f"{file}:Mine", conf), Work(batch_size=2))
        return Recipe("numpy", *parts, FOLDING, str(stored.path))

    return make


def train(crew, clients, kept=None, attempts=0):
    tasks = rows(TASK, len(clients), ticket=range(len(clients)), client=clients, version=0, attempt=attempts)
    return crew.train(tasks, [0] * len(clients), SENT, kept or {}, {})


def told(crew, clients, kept=None, attempts=0):
    """Everything that training gives."""
    reports, states = train(crew, clients, kept, attempts)
    return reports.tobytes(), states, crew.total().total.tobytes()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_that_is_killed_in_a_chunk_costs_only_time(recipe, pool, num_workers):
    """It had summed up chunks before; what it was at is named, and the result is that of no death."""
    clients = [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]
    expected = told(Inline(recipe().trainer()), clients)
    said = []
    crew = pool(recipe(times=1), num_workers, say=said.append)
    crew._pieces = lambda count, chunk: [slice(0, 3), slice(3, 6), slice(6, 12)]
    assert told(crew, clients) == expected
    assert len(said) == 1
    assert said[0].endswith("died (exit code -9) training client 5; a new one takes its place")


def test_a_death_in_the_second_call_of_a_version(recipe, pool, tmp_path):
    """What the first call summed up is safe, and states go on from those that it returned."""
    alone, crew = Inline(recipe().trainer()), pool(recipe(times=1), 1)
    kept = {}
    for attempt, clients in enumerate(([5, 1, 2], [5, 2, 7])):
        (tmp_path / "deaths").write_text("")
        expected = told(alone, clients, kept, attempt)
        assert told(crew, clients, kept, attempt) == expected
        kept = expected[1]
        assert (tmp_path / "deaths").read_text() == "x"


def test_what_was_taken_over_is_not_trained_again(recipe, pool, monkeypatch):
    """A worker's sum is taken over from time to time: then less is lost."""
    clients = list(range(12))
    expected = told(Inline(recipe().trainer()), clients)
    send, sent = pools.Process.send, []
    monkeypatch.setattr(pools.Process, "send", lambda it, message: sent.append(message) or send(it, message))
    for secs, lost in ((1e9, 6), (0.0, 1)):
        monkeypatch.setattr(pools, "COMMIT_SECS", secs)
        crew = pool(recipe(times=1), 1)
        crew._pieces = lambda count, chunk: [slice(i, i + 1) for i in range(count)]
        sent.clear()
        assert told(crew, clients) == expected
        assert len(sent) == 12 + lost


def test_a_chunk_that_ends_two_workers_ends_the_run_and_names_the_client(recipe, pool):
    dies = r"worker \d died \(exit code -9\) training client 5"
    with pytest.raises(TrainingError, match=f"^{dies}; then {dies}$"):
        train(pool(recipe(times=9), 2), list(range(12)))


def test_a_worker_that_died_between_two_chunks_is_replaced(recipe, pool):
    said = []
    crew = pool(recipe(), 1, say=said.append)
    expected = told(Inline(recipe().trainer()), [0, 3])
    _, first = train(crew, [0])
    pid = crew._slots[0].process.pid
    os.kill(pid, signal.SIGKILL)
    crew._slots[0].process.exit_code()
    tasks = rows(TASK, 1, ticket=1, client=3, version=0)
    _, second = crew.train(tasks, [0], SENT, {}, {})
    assert (first | second, crew.total().total.tobytes()) == expected[1:]
    assert said[0].startswith("worker 0 died (exit code -9) ") and crew._slots[0].process.pid != pid
    evaluated = crew.evaluate(0, SPEC.zeros())
    assert evaluated["loss"] == pytest.approx(np.log(3))


def test_a_worker_that_dies_evaluating_is_replaced_and_its_sum_kept(recipe, pool):
    crew = pool(recipe(local=SGD()), 1)
    expected = told(Inline(recipe(local=SGD()).trainer()), [0, 3])
    before = told(crew, [0, 3])
    send, kills = pools.Process.send, [1]

    def killed(process, message):
        if kills and "span" in message:
            os.kill(process.pid, signal.SIGKILL)
            kills.pop()
        return send(process, message)

    pools.Process.send = killed
    try:
        assert crew.evaluate(0, SPEC.zeros())["loss"] == pytest.approx(np.log(3))
    finally:
        pools.Process.send = send
    assert not kills and before == expected
    assert crew.total().total.tobytes() == expected[2]


@pytest.mark.parametrize(
    ("lifetime", "why"),
    [
        (Lifetime(max_bytes=1 << 20), "MB, more than 1"),
        (Lifetime(max_chunks=2), "it has done 2 chunks"),
    ],
)
def test_workers_are_replaced_and_nothing_is_lost(recipe, pool, lifetime, why):
    clients, said = list(range(12)), []
    crew = pool(recipe(), 2, lifetime=lifetime, say=said.append)
    crew._pieces = lambda count, chunk: [slice(i, i + 3) for i in range(0, count, 3)]
    assert told(crew, clients) == told(Inline(recipe().trainer()), clients)
    assert said and all(line.endswith(why) for line in said)


def test_a_worker_that_leaks_is_replaced_when_it_holds_twice_what_it_did(recipe, pool, monkeypatch):
    """The bound that holds if the job says nothing."""
    monkeypatch.setattr(pools, "ROOM", 16 << 20)
    said = []
    crew = pool(recipe(leak=32 << 20), 1, say=said.append)
    crew._pieces = lambda count, chunk: [slice(i, i + 1) for i in range(count)]
    reports, _ = train(crew, list(range(10)))
    assert said and "MB, more than" in said[0]
    assert len(set(reports["loss"])) == len(said) + 1  # the process of each


def test_a_closed_pool_leaves_nothing_behind(recipe, pool):
    crew = pool(recipe(local=SGD()), 2)
    train(crew, [0, 1])
    memories = [slot.sum.memory for slot in crew._slots] + [m for m, _ in crew._shelf._up.values()]
    names, pids = [memory.name for memory in memories], [slot.process.pid for slot in crew._slots]
    assert len(names) == 3
    crew.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    for name in names:
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)


def test_models_that_are_no_longer_sent_are_taken_down(recipe, pool):
    crew = pool(recipe(local=SGD()), 1)
    for _ in range(3):
        crew.clear()
        train(crew, [0, 1])
        crew.evaluate(0, SPEC.zeros())
        assert list(crew._shelf._up) == ["0/model"]


def test_nothing_as_large_as_the_model_goes_through_a_pipe(stored, recipe, monkeypatch):
    """The model goes out once a version, through shared memory, however many clients train it."""
    wide = MLP(hidden=(4096,))
    size = wide.spec(FACTS).size
    crew = Pool(replace(recipe(local=SGD()), model=wide), 2, size, len(stored.test))
    put, traffic = [], []
    encode, decode, put_up = processes.encode, processes.decode, pools.Shelf.put
    monkeypatch.setattr(processes, "encode", lambda m: traffic.append(b := encode(m)) or b)
    monkeypatch.setattr(processes, "decode", lambda b: traffic.append(b) or decode(b))
    monkeypatch.setattr(pools.Shelf, "put", lambda it, name, x: put.append(name) or put_up(it, name, x))
    tasks = rows(TASK, 12, ticket=range(12), client=range(12), version=0)
    reports, _ = crew.train(tasks, [0] * 12, {0: {"model": wide.spec(FACTS).zeros()}}, {}, {})
    crew.close()
    assert reports["norm"].all() and put == ["0/model"]
    assert len(traffic) > 12 and sum(map(len, traffic)) < 4 * size / 2
