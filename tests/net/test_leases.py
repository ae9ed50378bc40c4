"""Tasks on a lease: clients that are told step by step how many more to make, and all of it made again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.core.randomness import rng
from muster.core.tables import Kind
from muster.deploy.assembly import assemble, deliver_all
from muster.net.client import Task
from muster.net.journal import JOURNAL, Entry, read
from muster.net.rpc import pb
from worlds.deployed import Rig, crowd, job_of, start_of, vanish


def leased_job(
    rounds: int = 3, num_clients: int = 2, deploy: dict[str, Any] | None = None, **pace: Any
) -> Any:
    pace = {"cohort": num_clients, **pace}
    return job_of(
        rounds=rounds,
        num_clients=num_clients,
        algorithm={"name": "esync", "pace": pace},
        deploy={"keep_updates": True, **(deploy or {})},
    )


def slow(**secs: float) -> Callable[[Task], None]:
    def set_pace(task: Task) -> None:
        task._client.step_secs = secs["step"]

    return set_pace


def steps_by_version(rig: Rig) -> list[dict[int, int]]:
    """Client -> steps, of each round, as the journal has them."""
    rounds: list[dict[int, int]] = [{}]
    for _, body in read(rig.folder / JOURNAL):
        if isinstance(body, Entry) and body.kind == Kind.ARRIVED:
            rounds[-1][body.client] = body.steps
        elif not isinstance(body, Entry) and "made" in body:
            rounds.append({})
    return rounds[:-1]


def again(rig: Rig) -> str:
    made = assemble(rig.job, rig.folder, start_of(rig.job), lambda p: {}, store=None, evaluates=False)
    deliver_all(made, rig.folder / JOURNAL, 0)
    sha256 = made.spec.sha256(made.plane.result)
    made.plane.close()
    return sha256


@pytest.mark.parametrize("leases", [False, True])
def test_the_fast_make_as_many_steps_as_fit_and_the_run_is_made_again_to_the_bit(
    leases: bool, make: Callable[..., Rig]
) -> None:
    rig = make(leased_job(leases=leases))
    crowd(rig, {0: slow(step=0.05), 1: slow(step=0.5)})
    sha256 = rig.wait()
    rounds = steps_by_version(rig)
    assert [steps[1] for steps in rounds] == [1, 1, 1]
    assert all(3 <= steps[0] <= 11 for steps in rounds), rounds  # 10, less what a busy machine takes
    asked = sum(
        isinstance(body, Entry) and body.kind == Kind.PROGRESSED for _, body in read(rig.folder / JOURNAL)
    )
    total = sum(sum(steps.values()) for steps in rounds)
    assert asked < total if leases else asked == total  # a lease saves questions
    assert again(rig) == sha256


def test_an_update_of_a_lease_is_to_the_bit_that_of_as_many_steps_at_once(make: Callable[..., Rig]) -> None:
    from muster.data.store import prepare
    from muster.deploy import errand as errands
    from muster.learn.learners import make_learner

    rig = make(leased_job(rounds=1))
    workers = crowd(rig, {0: slow(step=0.02), 1: slow(step=0.1)})
    rig.wait()
    errand, row = errands.read(workers[0].client.recipe, False), workers[0].client.row
    start = start_of(rig.job)
    learner = make_learner("numpy", errand.model, errand.task, errand.facts, errand.local, errand.work)
    examples = prepare(rig.job.data, rig.job.seed_of("data")).client(row)
    up = np.zeros((1, learner.spec.size), np.float32)
    steps = steps_by_version(rig)[0][row]
    assert steps > 1
    learner.train(
        {"model": start.initial}, examples, rng(errand.seeds["training"], "train", row, 0), up, None, steps
    )
    ticket = next(
        b.ticket
        for _, b in read(rig.folder / JOURNAL)
        if isinstance(b, Entry) and b.kind == Kind.ARRIVED and b.client == row
    )
    assert np.array_equal(rig.made.spool.vectors(ticket)["delta"], up[0])


def test_who_is_lost_in_a_lease_is_no_longer_waited_for(make: Callable[..., Rig]) -> None:
    rig = make(leased_job(rounds=2, num_clients=3, min_start=2, deploy={"lease_secs": 1.0}))

    def die(task: Task) -> str:
        assert task.another(0)
        vanish(workers[2].client)
        raise SystemExit

    workers = crowd(rig, {0: slow(step=0.02), 1: slow(step=0.1), 2: die})
    rig.wait()
    assert [record.num_accepted for record in rig.told[1:]] == [2, 2]
    assert rig.told[1].num_lost == 1
    assert list(rig.told[1].wasted_by_reason) == ["offline"]


def test_a_server_that_is_killed_in_a_round_of_leases_goes_on_with_it(
    make: Callable[..., Rig], tmp_path: Path
) -> None:
    job = leased_job(rounds=2)
    rig = make(job)
    workers = crowd(rig, {0: slow(step=0.03), 1: slow(step=0.5)})

    def asked() -> int:
        return sum(isinstance(b, Entry) and b.kind == Kind.PROGRESSED for _, b in read(rig.folder / JOURNAL))

    rig.until(lambda: (rig.folder / JOURNAL).exists() and asked() >= 4)
    port = rig.port
    rig.kill()
    second = make(job, port=port)
    sha256 = second.wait()
    assert [worker.error for worker in workers] == [None, None]
    rounds = steps_by_version(second)
    assert [sorted(steps) for steps in rounds] == [[0, 1], [0, 1]]
    assert rounds[0][0] > 4
    assert again(second) == sha256


def test_an_answer_that_was_lost_is_given_again(make: Callable[..., Rig]) -> None:
    rig = make(leased_job(rounds=1, max_steps=3))
    clients = [rig.client(number) for number in range(2)]
    for client in clients:
        client.join()
    tasks = [client.take() for client in clients]
    assert all(task is not None and task.leased and task.steps == 1 for task in tasks)
    caller, ticket = clients[0]._caller, tasks[0].ticket  # type: ignore[union-attr]

    def ask(steps: int, secs: float = 0.001) -> Any:
        request = pb.ProgressRequest(caller=caller, ticket=ticket, steps=steps, step_secs=secs, send_secs=0.0)
        return clients[0].link.once("Progress", request)

    assert [ask(1).steps, ask(1).steps] == [1, 1]  # the other one is not known to be faster
    assert ask(2).steps == 1
    assert (ask(3).finish, ask(3).finish) == (True, True)
    assert clients[0].link.once("Progress", pb.ProgressRequest(caller=caller, ticket=99, steps=1)).stop
