"""The state server of a job that is served: one table, whoever asks and however."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from muster.core.errors import AccessError, UserError
from muster.core.tables import Kind
from muster.deploy.door import Door, open_link
from muster.deploy.listen import Listen
from muster.net import certs
from muster.net.client import Client
from muster.net.journal import JOURNAL, Entry, read
from muster.net.state_client import StateClient
from muster.net.state_messages import Action
from muster.net.state_table import StaleError
from worlds.deployed import Clock, Rig, Worker, ask, crowd, job_of, vanish


def job(rounds: int = 2, num_clients: int = 2, deploy: Any = None, **pace: Any) -> Any:
    pace = {"cohort": num_clients, **pace}
    algorithm = {"name": "esync", "pace": pace}
    return job_of(rounds=rounds, num_clients=num_clients, algorithm=algorithm, deploy=deploy or {})


@pytest.fixture
def states_of() -> Iterator[Callable[..., StateClient]]:
    """Makes clients of the state server, and closes them."""
    made: list[StateClient] = []

    def one(rig: Rig, rank: int, **more: Any) -> StateClient:
        made.append(StateClient("localhost" if more else "127.0.0.1", rig.state_port, rank, **more))
        return made[-1]

    yield one
    for each in made:
        each.close()


def test_workers_of_the_original_kind_and_our_own_take_part_in_one_round(
    make: Callable[..., Rig], states_of: Callable[..., StateClient]
) -> None:
    """Worker 0 is as the paper's algorithm 3 has it, eight times as fast as 1, which asks as ours do."""
    clock = Clock()
    rig = make(job(rounds=2, margin_secs=-0.01), clock=clock)
    clients, states = [rig.client(number, num_examples=10) for number in range(2)], states_of(rig, 0)
    for client in clients:
        client.join()
    for version in range(2):
        begun, (original, ours) = clock.secs, (client.take() for client in clients)
        assert original is not None and ours is not None
        assert states.report(version) is Action.TRAIN
        assert states.query(version, 0, 0.0, 0.0) == (Action.TRAIN, 1)
        told = []
        for made in range(1, 9):
            clock.secs = begun + made
            if made == 8:
                assert ask(clients[1], ours.ticket, 1, 8.0) == 0
            told.append(states.query(version, made, 1.0, 0.0)[0])
            if (version, made) == (1, 3):
                seen = httpx.get(f"http://127.0.0.1:{rig.state_port}/table").json()
        assert told == [Action.TRAIN] * 7 + [Action.SYNC]
        for task, steps in ((ours, 1), (original, 8)):
            assert task.submit(task.model, num_steps=steps, loss=0.0) == "taken"
    rig.wait()
    journal = [body for _, body in read(rig.folder / JOURNAL) if isinstance(body, Entry)]
    asked = [body.client for body in journal if body.kind == Kind.PROGRESSED]
    assert sorted(asked) == [0] * 16 + [1] * 2  # each QUERY after a step is one line, as each Progress is
    fast, slow = seen["workers"]
    assert (seen["round"], seen["num_rounds"]) == (1, 2)
    assert (fast["round"], fast["iteration"], fast["entered"], fast["alive"]) == (1, 3, True, True)
    assert (fast["compute_secs"], slow["compute_secs"]) == pytest.approx((1.0, 8.0), abs=1e-6)
    assert slow["answered"] == {"action": "TRAIN", "steps": 1}
    assert slow["stamp_secs_ago"] == pytest.approx(3.0, abs=1e-3)


def two(rig: Rig) -> list[Client]:
    clients = [rig.client(number, num_examples=10) for number in range(2)]
    for client in clients:
        client.join()
    tasks = [client.take() for client in clients]
    assert [task.version for task in tasks if task is not None] == [0, 0]
    return clients


def test_what_is_late_or_of_nobody_changes_nothing(
    make: Callable[..., Rig], states_of: Callable[..., StateClient]
) -> None:
    rig = make(job(max_steps=2))
    with pytest.raises(StaleError, match="worker 0 has not joined"):
        states_of(rig, 0).query(0, 0, 0.0, 0.0)
    clients, states = two(rig), [states_of(rig, number) for number in range(2)]
    states[0].reset(2)  # a parameter server of the original kind agrees with the job
    with pytest.raises(UserError, match=r"RESET is for 3 workers, but .* algorithm.pace.cohort = 2"):
        states[0].reset(3)
    with pytest.raises(StaleError, match="is in round 0; its message is of 1"):
        states[0].report(1)
    assert states[0].query(0, 0, 0.0, 0.0) == (Action.TRAIN, 1)
    asked = [states[0].query(0, 1, 0.01, 0.0) for _ in range(2)]  # asked twice: the same answer
    assert asked == [(Action.TRAIN, 1)] * 2
    assert [states[0].query(0, 2, 0.01, 0.0)[0] for _ in range(2)] == [Action.SYNC] * 2
    vanish(clients[1])
    metrics = httpx.get(f"http://127.0.0.1:{rig.state_port}/metrics").text
    assert 'muster_state_messages_total{type="QUERY"} 5.0' in metrics
    assert 'muster_state_messages_total{type="refused"} 3.0' in metrics
    assert 'muster_state_workers{state="alive"} 2.0' in metrics


def test_who_is_dead_is_not_waited_for_and_who_comes_anew_is_in_the_next_round(
    make: Callable[..., Rig],
    states_of: Callable[..., StateClient],
) -> None:
    rig = make(job(rounds=2, min_start=1, deploy={"lease_secs": 0.6}))
    clients, states = two(rig), [states_of(rig, number) for number in range(2)]
    vanish(clients[1])
    states[0].query(0, 1, 0.01, 0.0)

    def dead() -> bool:
        states[0].report(0)  # said again, it shows that the worker is alive
        rows = httpx.get(f"http://127.0.0.1:{rig.state_port}/table").json()["workers"]
        return [row["alive"] for row in rows] == [True, False]

    rig.until(dead)
    with pytest.raises(StaleError, match="worker 1 has not joined this run, or was lost"):
        states[1].report(0)
    assert states[0].query(0, 2, 0.01, 0.0)[0] is Action.SYNC  # alone, it is the slowest itself
    again = Worker(rig, 1)
    rig.until(lambda: rig.made.conductor.roster.members[1].present)
    with pytest.raises(StaleError, match="no task is out for client-1"):
        states[1].report(0)
    task = clients[0].take()
    assert task is not None
    task.submit(task.model, num_steps=2, loss=0.0)
    rig.until(lambda: rig.hub.conductor.state.version == 1)
    assert states[0].report(1) is Action.TRAIN
    rig.until(lambda: again.num == 1)


def test_the_words_of_2019_say_the_same(make: Callable[..., Rig]) -> None:
    rig = make(job(max_steps=2))
    two(rig)
    with httpx.Client(base_url=f"http://127.0.0.1:{rig.state_port}") as http:

        def post(path: str, **form: float) -> httpx.Response:
            return http.post(path, data=form)  # type: ignore[arg-type]

        assert post("/init/", num_workers=2, epsilon=0.5).status_code == 200
        assert post("/init/").status_code == 400  # 6 workers, as in 2019
        assert post("/reset/", r=0, t=1, te=0).content == b""
        assert post("/reset/", r=0, t=2, te=0).status_code == 400
        ready = [post("/apply/", r=0, k=k, c=0.01, te=0).json()["ready"] for k in (0, 1, 2)]
        assert ready == [0, 0, 1]
        body = http.get("/").json()
    assert (body["num_workers"], body["t"]) == (2, 1)
    rank, k, c, _, is_ready, round_ = body["records"][0]
    assert (rank, k, is_ready, round_) == (0, 2, True, 1) and 0 < c <= 0.01


def test_it_is_as_closed_as_the_run(
    make: Callable[..., Rig], states_of: Callable[..., StateClient], tmp_path: Path
) -> None:
    folder = tmp_path / "certs"
    certs.init(folder)
    for number in range(2):
        certs.issue(folder, f"client-{number}")
    rig = make(job(rounds=1), listen=Listen(port=0, certs=folder))
    links = [
        open_link(Door(f"localhost:{rig.port}", f"client-{number}", folder), rig.said.append)
        for number in range(2)
    ]
    clients = [Client(link, f"client-{number}", -1, rig.said.append) for number, link in enumerate(links)]
    rig.clients += clients
    for client in clients:
        client.join()
    assert clients[0].take() is not None
    roots = (folder / "ca.crt").read_bytes()

    def states(rank: int, name: str = "") -> StateClient:
        pair = (folder / f"{name}.crt", folder / f"{name}.key") if name else None
        return states_of(rig, rank, roots=roots, identity=pair)

    assert states(0, "client-0").report(0) is Action.TRAIN
    with pytest.raises(AccessError, match="client-1 speaks for worker 0, which is another client"):
        states(0, "client-1").report(0)
    with pytest.raises(AccessError, match="no certificate and no token"):
        states(0).report(0)
    assert "no certificate and no token" in (rig.folder / "audit.jsonl").read_text()


def test_a_pace_without_leases_has_none(make: Callable[..., Rig]) -> None:
    rig = make(job_of(rounds=1, num_clients=1))
    crowd(rig)
    rig.wait()
    assert not any("state server" in line for line in rig.said)
    assert np.isfinite(rig.told[-1].loss or 0.0)


def test_a_killed_server_answers_in_the_middle_of_a_round_as_if_nothing_had_been(
    make: Callable[..., Rig], states_of: Callable[..., StateClient]
) -> None:
    rig = make(job())
    two(rig)
    before = states_of(rig, 0)
    assert before.query(0, 1, 0.01, 0.0) == (Action.TRAIN, 1)
    listen = Listen(port=rig.port, insecure=True, state_port=rig.state_port)
    rig.kill()
    second = make(job(), listen=listen)
    assert before.query(0, 1, 0.01, 0.0) == (Action.TRAIN, 1)  # over a new connection, the same answer
    assert before.query(0, 2, 0.01, 0.0) == (Action.TRAIN, 1)
    fast, slow = httpx.get(f"http://127.0.0.1:{second.state_port}/table").json()["workers"]
    assert (fast["iteration"], slow["iteration"]) == (2, 0) and 0 < fast["compute_secs"] <= 0.01
