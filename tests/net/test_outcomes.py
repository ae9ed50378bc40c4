"""When clients hear what became of their updates, which is what they begin their next tasks with."""

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
