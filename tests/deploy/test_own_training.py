"""Clients with training of their own: three lines around a loop in NumPy or torch, and `--train`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muster
from muster.compose import compose
from muster.core.errors import UserError
from muster.data.store import prepare
from muster.deploy.door import Door
from muster.deploy.worker import join
from muster.job import Job, load_job
from muster.net.client import Task
from worlds.deployed import QUICK, Rig, Worker, job_of
from worlds.scripts import ROOT, loaded

CLIENTS = ROOT / "examples" / "clients"


@pytest.fixture
def rig_of(tmp_path: Path) -> Iterator[Callable[[Job], Rig]]:
    """Makes a server that ends with the test."""
    rigs: list[Rig] = []

    def make(job: Job) -> Rig:
        rigs.append(Rig(job, tmp_path / "run"))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.part()
        rig.kill()


def beside(work: Callable[..., Any], *args: Any, **more: Any) -> threading.Thread:
    """A client in a thread of its own."""
    thread = threading.Thread(target=lambda: work(*args, **more), daemon=True)
    thread.start()
    return thread


def accuracy(job: Job, params: Any) -> float:
    """Of a model on the job's test examples."""
    session = compose(job)
    assert session.plane is not None
    found = session.plane._crew.evaluate(0, params)
    session.close()
    return float(found["accuracy"])


def test_a_loop_in_numpy_one_in_torch_and_a_function_learn_together(
    rig_of: Callable[[Job], Rig], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="one of the clients needs the extra [torch]")
    job = load_job(
        CLIENTS / "job.yml", ["deploy.start_with=3", *(f"deploy.{k}={v}" for k, v in QUICK.items())]
    )
    rig, data = rig_of(job), prepare(job.data, job.seed_of("data"))
    address = f"127.0.0.1:{rig.port}"
    for row in range(3):
        mine = data.client(row)
        np.savez(tmp_path / f"{row}.npz", x=mine.x, y=mine.y)
    for row, name in enumerate(("numpy_loop", "torch_loop")):
        beside(loaded(name, "examples/clients").main, address, f"client-{row}", tmp_path / f"{row}.npz")
    door = Door(address, "client-2", insecure=True)
    beside(join, door, data=tmp_path / "2.npz", train=f"{CLIENTS / 'train_function.py'}:train")
    rig.wait()
    assert [record.num_accepted for record in rig.told] == [0, 3, 3, 3, 3, 3]
    assert accuracy(job, rig.made.plane.result) > 0.85
    losses = [record.loss for record in rig.told[1:]]
    assert losses[-1] < losses[0] / 2  # torch and the function say theirs


def test_what_is_submitted_moves_the_model_by_hand(rig_of: Callable[[Job], Rig]) -> None:
    """Two clients of 10 and 30 examples add 1 and 2 to each number: 1.75 a round."""
    rig = rig_of(job_of(rounds=2, num_clients=2))
    initial = rig.made.plane.params.copy()

    def live(number: int) -> None:
        name, num = f"client-{number}", (10, 30)[number]
        for task in muster.client(f"127.0.0.1:{rig.port}", name, num_examples=num, insecure=True):
            task.submit({key: value + (1 + number) for key, value in task.model.items()})

    for number in range(2):
        beside(live, number)
    rig.wait()
    moved = rig.made.spec.views(rig.made.plane.result - initial)
    for name, view in moved.items():
        np.testing.assert_allclose(view, 3.5, atol=1e-5, err_msg=name)


def test_a_loop_that_does_not_say_how_many_examples_it_has_weighs_by_its_row_of_the_data(
    rig_of: Callable[[Job], Rig],
) -> None:
    rig = rig_of(job_of(rounds=1, num_clients=2))
    initial, said = rig.made.plane.params.copy(), list[str]()

    def live(number: int) -> None:
        name, num = f"client-{number}", (-1, 10)[number]
        for task in muster.client(f"127.0.0.1:{rig.port}", name, num_examples=num, insecure=True):
            said.append(task.submit({key: value + (1 + number) for key, value in task.model.items()}))

    for number in range(2):
        beside(live, number)
    rig.wait()
    (num, other) = (rig.made.conductor.roster.members[number].num_examples for number in range(2))
    assert said == ["taken", "taken"] and num > 100 and other == 10
    moved = rig.made.plane.result - initial
    for name, view in rig.made.spec.views(moved).items():
        np.testing.assert_allclose(view, (num + 2 * other) / (num + other), atol=1e-5, err_msg=name)


def test_a_loop_that_answers_without_a_number_speaks_for_its_row(rig_of: Callable[[Job], Rig]) -> None:
    rig = rig_of(job_of(rounds=1, algorithm=ASKING))
    for number in range(3):
        Worker(rig, number)
    for task in muster.client(f"127.0.0.1:{rig.port}", "client-3", num_examples=-1, insecure=True):
        if task.measure:
            task.answer(9.9)
        else:
            task.submit(task.model)
    rig.wait()
    mine = [said["num_examples"] for said in answers(rig) if said["loss"] == 9.9]
    assert set(mine) <= {rig.made.conductor.roster.members[3].num_examples} and 0 not in mine


def test_a_loop_sends_what_the_jobs_compression_makes_of_it(rig_of: Callable[[Job], Rig]) -> None:
    """Half of the coordinates at a time: what is left out of the first update comes with the second."""
    rig = rig_of(job_of(rounds=2, num_clients=1, compress={"name": "top_k", "share": 0.5}))
    initial, size = rig.made.plane.params.copy(), rig.made.spec.size
    wanted = np.arange(1, size + 1, dtype=np.float32) / size
    sent = iter([wanted, np.zeros(size, np.float32)])
    for task in muster.client(f"127.0.0.1:{rig.port}", "client-0", num_examples=9, insecure=True):
        delta = rig.made.spec.views(next(sent))
        assert task.submit({key: value + delta[key] for key, value in task.model.items()}) == "taken"
    rig.wait()
    for name, view in rig.made.spec.views(rig.made.plane.result - initial).items():
        np.testing.assert_allclose(view, rig.made.spec.views(wanted)[name], atol=1e-6, err_msg=name)
    assert [record.up_bytes for record in rig.told] == [0, 8 * size // 2 + 128, 8 * size // 2 + 128]


ASKING = {"name": "power_of_choice", "pace": {"cohort": 2}, "select": {"candidates": 1.5}}


def write_train(folder: Path) -> str:
    """A function that trains nothing."""
    (folder / "mine.py").write_text("def train(params, data, task):\n    return params\n")
    return f"{folder / 'mine.py'}:train"


def test_a_function_is_asked_how_good_the_model_is_as_others_are(
    rig_of: Callable[[Job], Rig], tmp_path: Path
) -> None:
    rig = rig_of(job_of(rounds=2, algorithm=ASKING))
    for number in range(3):
        Worker(rig, number)
    door = Door(f"127.0.0.1:{rig.port}", "client-3", insecure=True)
    beside(join, door, train=write_train(tmp_path))
    rig.wait()
    assert [record.num_measured for record in rig.told] == [0, 3, 3]
    assert [record.num_accepted for record in rig.told] == [0, 2, 2]
    losses = {entry["loss"] for entry in answers(rig)}
    assert len(losses) > 1 and all(0 < loss < 10 for loss in losses)


def answers(rig: Rig) -> list[dict[str, Any]]:
    """What clients have said that were asked."""
    from muster.net.journal import JOURNAL, Entry, read

    entries = [body for _, body in read(rig.folder / JOURNAL) if isinstance(body, Entry)]
    return [entry.more["measured"] for entry in entries if "measured" in entry.more]


def test_a_loop_that_does_not_answer_is_told_how_to(rig_of: Callable[[Job], Rig]) -> None:
    rig = rig_of(job_of(rounds=1, algorithm=ASKING))
    for number in range(3):
        Worker(rig, number)
    told: list[str] = []
    for task in muster.client(f"127.0.0.1:{rig.port}", "client-3", num_examples=9, insecure=True):
        if not task.measure:
            task.submit(task.model)
            continue
        told.append(refusal(task))
        task.answer(9.9)
    rig.wait()
    assert [entry["loss"] for entry in answers(rig)].count(9.9) == len(told)
    assert all("where task.measure is true, evaluate task.model" in text for text in told)


def refusal(task: Task) -> str:
    """What a task says that is not to be trained."""
    with pytest.raises(UserError, match="asks how good the model is, and wants no other") as caught:
        task.submit(task.model)
    return str(caught.value)


DEMANDING: dict[str, tuple[dict[str, Any], str]] = {
    "scaffold": (
        {"algorithm": {"name": "scaffold", "pace": {"cohort": 2}}},
        "controlled, send delta, control, are sent model, control: ",
    ),
    "fedper": (
        {"algorithm": {"name": "fedper", "pace": {"cohort": 2}}, "model": "mlp"},
        "own_head, keep a part of the model: ",
    ),
    "qfedavg": (
        {"algorithm": {"name": "qfedavg", "pace": {"cohort": 2}}},
        "measure the loss before they train: ",
    ),
}


@pytest.mark.parametrize("name", DEMANDING)
def test_where_clients_do_more_than_send_a_model_a_training_of_ones_own_is_refused(
    name: str, rig_of: Callable[[Job], Rig], tmp_path: Path
) -> None:
    body, said = DEMANDING[name]
    rig = rig_of(job_of(num_clients=2, **body))
    door = Door(f"127.0.0.1:{rig.port}", "client-0", insecure=True)
    with pytest.raises(UserError, match=r"can only send a trained model; take another algorithm") as caught:
        join(door, train=write_train(tmp_path))
    assert said in str(caught.value)
    with pytest.raises(UserError, match=r"can only send a trained model; take another algorithm"):
        list(muster.client(door.address, "client-1", num_examples=9, insecure=True))
