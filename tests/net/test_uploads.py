"""Many transfers at once: few uploads are read from, and the others wait for their turn without a stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from muster.net import service
from muster.net.client import Client, Task
from muster.net.journal import JOURNAL, Entry, Journal
from muster.net.rpc import PIECE, pb
from muster.net.turns import Sending, Turns
from worlds.deployed import Rig, crowd, job_of, noise, simulated
from worlds.disk import written_down

Make = Callable[..., Rig]


@pytest.fixture
def one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client uploads at once."""
    monkeypatch.setattr(service, "Turns", partial(Turns, most=1))


def started(make: Make, num: int, **deploy: Any) -> tuple[Rig, list[Client], list[Task]]:
    """A rig whose clients have their tasks; an update has 580 kB, three messages."""
    job = job_of(rounds=1, num_clients=num, deploy=deploy)
    rig = make(replace(job, model=job_of(model={"name": "mlp", "hidden": [1000, 80]}).model))
    clients = [rig.client(number) for number in range(num)]
    for client in clients:
        client.join()
    tasks = [client.take() for client in clients]
    assert None not in tasks
    return rig, clients, tasks  # type: ignore[return-value]


def send(client: Client, task: Task, seed: int) -> str:
    said = pb.Report(num_examples=10, num_steps=1, loss=1.0, loss_sq_mean=1.0)
    return task.send({"delta": noise(seed, client.spec.size) / 100}, said)


def held(client: Client, task: Task) -> Any:
    """Asks where the upload of a task goes on."""
    raw = task._raw
    asked = pb.HeldRequest(caller=client._caller, ticket=task.ticket, nonce=raw.nonce)
    return client.link._stub.Held(asked, timeout=10, metadata=client.link._metadata)


def half_sent(client: Client, task: Task) -> Any:
    """An upload that has sent one message and then sends no more, in its turn; the call."""
    assert not held(client, task).queued
    over = threading.Event()

    def parts() -> Iterator[Any]:
        raw, total = task._raw, 2 * PIECE
        head = pb.UploadHead(
            caller=client._caller, ticket=task.ticket, nonce=raw.nonce, total_bytes=total, sha256="0" * 64
        )
        yield pb.UploadPart(head=head)
        yield pb.UploadPart(data=bytes(PIECE))
        over.wait(30)

    call = client.link._stub.Upload.future(parts(), metadata=client.link._metadata)
    call.add_done_callback(lambda _: over.set())
    return call


@pytest.mark.usefixtures("one_turn")
def test_one_upload_at_a_time_gives_the_same_bits(make: Make) -> None:
    rig = make(job_of(rounds=2))
    workers = crowd(rig)
    assert rig.wait() == simulated(rig.job)
    assert [worker.client.link.num_breaks for worker in workers] == [0] * 4


@pytest.mark.usefixtures("one_turn")
def test_who_waits_for_its_turn_is_not_stalled_however_long_it_takes(make: Make) -> None:
    rig, (first, second), tasks = started(make, 2, call_secs=1.0, stall_secs=0.2)
    turn, ticket = rig.service._turns, tasks[0].ticket
    assert not held(first, tasks[0]).queued
    rig._loop.call_soon_threadsafe(lambda: turn._held[ticket].cancel())  # it is read from
    said: list[str] = []
    other = threading.Thread(target=lambda: said.append(send(second, tasks[1], 1)))
    other.start()
    time.sleep(1.5)  # three times as long as a question for a turn is open, seven times stall_secs
    assert not said and rig.made.spool.held(tasks[1].ticket) == 0
    rig._loop.call_soon_threadsafe(turn.end, ticket)
    other.join(20)
    assert said == ["taken"] and second.link.num_breaks == 0


@pytest.mark.usefixtures("one_turn")
def test_an_upload_that_stops_keeps_its_turn_from_nobody(make: Make) -> None:
    rig, (first, second), tasks = started(make, 2, stall_secs=20.0)
    call = half_sent(first, tasks[0])
    rig.until(lambda: rig.made.spool.held(tasks[0].ticket) == PIECE)
    assert send(second, tasks[1], 1) == "taken"
    assert not call.done()  # it may go on, beside the others
    call.cancel()


@pytest.mark.usefixtures("one_turn")
def test_a_client_that_dies_in_its_turn_frees_it(make: Make) -> None:
    rig, (first, second), tasks = started(make, 2, call_secs=60.0)
    assert not held(first, tasks[0]).queued
    call = half_sent(first, tasks[0])
    rig.until(lambda: rig.made.spool.held(tasks[0].ticket) == PIECE)
    first.link.close()
    assert send(second, tasks[1], 1) == "taken"
    with pytest.raises((grpc.RpcError, grpc.FutureCancelledError)):
        call.result(5)


@pytest.mark.usefixtures("one_turn")
def test_a_client_that_knows_no_turns_sends_at_once(make: Make) -> None:
    """One of an older Muster does not see that it is queued."""
    rig, (first, second), tasks = started(make, 2, call_secs=0.2)
    assert not held(first, tasks[0]).queued
    rig._loop.call_soon_threadsafe(lambda: rig.service._turns._held[tasks[0].ticket].cancel())
    assert held(second, tasks[1]).queued
    once = second.link.once
    second.link.once = lambda method, request: (  # type: ignore[method-assign]
        pb.HeldReply(offset=once(method, request).offset) if method == "Held" else once(method, request)
    )
    assert send(second, tasks[1], 1) == "taken"


def test_an_upload_in_which_nothing_comes_is_told_with_the_time_out(make: Make) -> None:
    _, clients, tasks = started(make, 2, stall_secs=0.3)
    with pytest.raises(grpc.RpcError) as caught:
        half_sent(clients[0], tasks[0]).result(10)
    assert "nothing came for deploy.stall_secs = 0.3 s" in str(caught.value)


def test_a_client_that_takes_no_model_holds_up_no_other(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "Sending", partial(Sending, most=1))
    rig = make(
        replace(
            job_of(rounds=1, num_clients=2), model=job_of(model={"name": "mlp", "hidden": [6000, 256]}).model
        )
    )
    slow, fast = rig.client(0), rig.client(1)
    for client in (slow, fast):
        client.join()
    task = fast.take()
    assert task is not None
    request = pb.DownloadRequest(caller=slow._caller, ticket=1 - task.ticket)
    call = slow.link._stub.Download(request, metadata=slow.link._metadata)
    assert len(next(call).data) == PIECE  # and no more, so that its window fills
    fast.link.patience.stall_secs = 5.0
    fast.link.download(fast._caller, task._raw, Path(slow._folder.name) / "again")
    call.cancel()


def test_a_server_keeps_nothing_of_uploads_that_never_end(make: Make) -> None:
    rig, (first, second), tasks = started(make, 2)
    call = half_sent(first, tasks[0])
    rig.until(lambda: len(rig.service._locks) == 1)
    call.cancel()
    assert not held(first, tasks[0]).queued  # and then it is never heard of again
    assert send(second, tasks[1], 1) == "taken"
    rig.until(lambda: len(rig.service._locks) == 0)


@contextmanager
def kept(rig: Rig) -> Iterator[list[str]]:
    """What is brought to the disk in the block, with the journal's lines and notes, in order."""
    append = Journal.append
    with written_down(rig.folder) as told, pytest.MonkeyPatch.context() as patch:

        def noted(journal: Journal, body: Any) -> None:
            told.append("line" if isinstance(body, Entry) else "note")
            append(journal, body)

        patch.setattr(Journal, "append", noted)
        yield told


@pytest.mark.parametrize("zstd", [False, True])
def test_an_update_is_acknowledged_when_it_and_its_name_and_its_line_are_on_the_disk(
    zstd: bool, make: Make
) -> None:
    rig, clients, tasks = started(make, 2, zstd=zstd)
    with kept(rig) as told:
        assert send(clients[0], tasks[0], 1) == "taken"
        told.append("acknowledged")
    update = f"sync updates/{tasks[0].ticket:010d}.{'raw' if zstd else 'up'}"
    assert told == [update, "sync updates", "line", f"sync {JOURNAL}", "acknowledged"]


def test_a_checkpoint_comes_after_the_journal_that_it_refers_to(make: Make) -> None:
    """Or a journal that a power cut has made shorter would go on before the place that it is read from."""
    rig = make(job_of(rounds=2, num_clients=1, track={"checkpoint_every": 1}))
    with kept(rig) as told:
        crowd(rig)
        rig.wait()
    begun = next(i for i, what in enumerate(told) if what.endswith("aside-00000001/tensors.safetensors"))
    last = max(i for i, what in enumerate(told[:begun]) if what in ("line", "note"))
    assert told[last] == "note" and f"sync {JOURNAL}" in told[last:begun]
