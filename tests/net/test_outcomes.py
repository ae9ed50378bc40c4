"""When clients hear what became of their updates, which is what they begin their next tasks with."""

import threading
import time

from muster.core.tables import Kind
from muster.net import hub as hubs
from muster.net.rpc import pb
from worlds.deployed import job_of, noise

PACE = {"size": 2, "concurrency": 2}


def send(task, seed):
    said = {"num_examples": 10, "num_steps": 1, "loss": 1.0, "loss_sq_mean": 1.0}
    delta = 0.01 * noise(seed, task.sent["model"].size)
    assert task.send({"delta": delta}, pb.Report(**said)) == "taken"
    return task.ticket


def test_a_task_comes_with_what_was_known_when_it_was_handed_out_however_late_its_client_asks(make):
    """FedBuff: client 0 has a new task before its first update is folded, and asks after."""
    algorithm = {"name": "fedbuff", "pace": PACE}
    rig = make(job_of(rounds=2, num_clients=2, algorithm=algorithm, deploy={"start_with": 1}))
    heard = {0: [], 1: []}
    one, two = (rig.client(number) for number in heard)
    one.outcome, two.outcome = (lambda ticket, what, n=n: heard[n].append((ticket, what)) for n in heard)
    early, late = one.take(), two.take()
    first = send(early, 1)
    second = send(late, 2)  # the buffer is full: both are folded, and client 1 gets its next task after
    again, after = one.take(), two.take()
    assert (again.version, after.version) == (0, 1)
    assert heard == {0: [], 1: [(second, "accepted")]}
    third = send(again, 3)
    send(after, 4)
    assert one.take() is None and two.take() is None
    rig.wait()
    assert heard[0] == [(first, "accepted"), (third, "accepted")]


def test_updates_that_wait_for_their_turn_when_the_run_ends_are_answered_and_their_clients_told(
    make, monkeypatch
):
    """ASGD, one version: the first of four updates ends the run while the others are in the queue."""
    monkeypatch.setattr(hubs, "MAX_BATCH", 1)
    algorithm = {"name": "asgd", "pace": {"concurrency": 4}}
    rig = make(job_of(rounds=1, num_clients=4, algorithm=algorithm))
    clients = [rig.client(number, num_examples=10) for number in range(4)]
    for client in clients:
        client.join()
    tasks = [client.take() for client in clients]
    deliver = rig.made.conductor.deliver

    def when_all_wait(entry):
        until = time.monotonic() + 20
        while entry.kind == Kind.ARRIVED and rig.hub.num_queued < 3 and time.monotonic() < until:
            time.sleep(0.005)
        deliver(entry)

    rig.made.conductor.deliver = when_all_wait
    said, ended = [], []

    def live(client, task):
        said.append(task.submit(task.model, loss=0.0))
        ended.append((client.take(), client.ended.status))

    lives = [threading.Thread(target=live, args=pair) for pair in zip(clients, tasks, strict=True)]
    for each in lives:
        each.start()
    for each in lives:
        each.join(30)
    rig.wait()
    assert sorted(said) == ["taken", "unwanted", "unwanted", "unwanted"]
    assert ended == [(None, "rounds")] * 4
