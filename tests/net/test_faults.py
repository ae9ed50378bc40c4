"""The faults of a deployment, one test each: what is done to it, and what must be seen."""

from __future__ import annotations

import ast
import errno
import json
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from muster.core.errors import RunFolderError, UserError
from muster.deploy.door import Door, open_link
from muster.net import certs, service
from muster.net.client import Client, Task
from muster.net.link import GoneError, Patience
from muster.net.models import Published
from muster.net.rpc import CHUNK, LEAST_PIECE, OPTIONS, PIECE, Stub, pb
from muster.net.settings import Deploy
from muster.net.wire import Layout, encode, write_file
from worlds.deployed import Rig, Worker, crowd, job_of, noise, simulated, vanish
from worlds.proxy import Proxy

Make = Callable[..., Rig]
SOURCES = Path(service.__file__).parent.parent


def two(**deploy: Any) -> Any:
    """A job of two clients and one round, which waits."""
    return job_of(rounds=1, num_clients=2, deploy=deploy)


def task_of(client: Client) -> Task:
    """A client's first task; the client beats on."""
    task = client.take()
    assert task is not None
    return task


def send(client: Client, task: Task, vector: Any, **report: Any) -> str:
    """Sends an update as its own code would not."""
    said = {"num_examples": 10, "num_steps": 1, "loss": 1.0, "loss_sq_mean": 1.0, **report}
    return task.send({"delta": np.asarray(vector, np.float32)}, pb.Report(**said))


def test_1_a_client_that_dies_in_its_task_is_lost_with_its_lease_and_the_round_closes(
    make: Make, tmp_path: Path
) -> None:
    rig = make(job_of(rounds=2, deploy={"lease_secs": 1.0}))
    dead: list[float] = []

    def die(task: Task) -> str:
        dead.append(time.monotonic())
        vanish(workers[2].client)
        raise SystemExit

    workers = crowd(rig, {2: die})
    rig.until(lambda: any("client-2 was not heard of" in line for line in rig.said))
    assert time.monotonic() - dead[0] <= 2 * rig.job.deploy.lease_secs
    rig.until(lambda: len(rig.told) > 1)
    assert (rig.told[1].num_accepted, rig.told[1].num_lost) == (3, 1)
    assert list(rig.told[1].wasted_by_reason) == ["offline"]


def test_1b_a_client_that_takes_longer_than_a_lease_to_load_is_not_lost(make: Make) -> None:
    """Tasks wait for it from the moment it has joined, while its data and its framework come first."""
    rig = make(job_of(rounds=1, num_clients=2, deploy={"lease_secs": 0.5, "start_with": 2}))
    worker, other = Worker(rig, 0, start=False), Worker(rig, 1)
    worker.client.joined = lambda: time.sleep(1.2)
    worker.thread.start()
    assert rig.wait() == simulated(rig.job) and not other.error
    assert rig.told[1].num_lost == 0


def test_1c_a_client_that_was_silent_while_it_waited_is_back_at_once_and_not_after_its_poll(
    make: Make,
) -> None:
    rig = make(two(lease_secs=0.5, poll_secs=600.0))
    idle, joins = rig.client(0), []
    join, idle._beats = idle.join, threading.Thread()  # no heartbeats
    idle.join = lambda: (joins.append(time.monotonic()), join())  # type: ignore[method-assign,assignment]
    waits = threading.Thread(target=idle.take, daemon=True)
    waits.start()  # for work that does not come before client-1 does
    rig.until(lambda: len(joins) > 1)
    assert any("client-0 was not heard of" in line for line in rig.said)
    Worker(rig, 1)
    waits.join(20)
    assert not waits.is_alive(), "it has no work"


def test_2_a_slow_client_is_late_and_never_holds_a_round_beyond_its_deadline(make: Make) -> None:
    pace = {"cohort": 4, "deadline_secs": 0.5}
    rig = make(job_of(rounds=2, algorithm={"name": "fedavg", "pace": pace}))
    crowd(rig, {1: lambda task: time.sleep(0.8) if task.version == 0 else None})
    rig.wait()
    record = rig.told[1]
    assert (record.num_accepted, record.num_late) == (3, 1)
    assert list(record.wasted_by_reason) == ["late"]
    assert record.now_secs - rig.told[0].now_secs < 1.5


def test_3_hung_clients_cost_no_thread_and_hold_nobody(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=2, num_clients=3, deploy={"start_with": 3}))
    hung = []
    for _ in range(100):  # connections that open an upload, and never say more
        channel = grpc.insecure_channel(f"127.0.0.1:{rig.port}", OPTIONS)
        stop = threading.Event()
        call = Stub(channel).Upload.future(iter(lambda stop=stop: stop.wait(30), True))
        hung.append((channel, call, stop))
    in_server = sum(thread.name.startswith("asyncio") for thread in threading.enumerate())
    crowd(rig)
    assert rig.wait() == simulated(rig.job)
    assert sum(t.name.startswith("asyncio") for t in threading.enumerate()) <= in_server + 4
    for channel, call, stop in hung:
        stop.set()
        call.cancel()
        channel.close()


def test_4_an_update_that_is_sent_again_is_acknowledged_again_and_counted_once(
    make: Make, tmp_path: Path
) -> None:
    rig = make(job_of(rounds=2))
    answers: dict[int, list[str]] = {0: [], 1: []}

    def twice(task: Task) -> None:
        first = task._client.send

        def send_again(task: Task, *parts: Any) -> str:
            times, mine = random.Random(task.ticket).randint(2, 4), answers[task.version]
            mine.extend(first(task, *parts) for _ in range(times))
            return mine[-1]

        task._client.send = send_again  # type: ignore[method-assign]

    crowd(rig, dict.fromkeys(range(4), twice))
    assert rig.wait() == simulated(rig.job)
    assert (
        set(answers[0]) <= {"taken", "unwanted"} and len(answers[0]) >= 8
    )  # of the last, some come too late
    assert [record.num_accepted for record in rig.told] == [0, 4, 4]


def test_5_a_nonce_is_good_for_one_update_of_one_client(make: Make, tmp_path: Path) -> None:
    rig = make(two())
    first, second = rig.client(0), rig.client(1)
    first.join()
    theirs, mine = task_of(second), task_of(first)
    size = first.spec.size
    stolen = replace(mine, _raw=with_nonce(mine._raw, theirs._raw.nonce))
    with pytest.raises(UserError, match=f"the nonce is not that of task {mine.ticket}"):
        send(first, stolen, noise(0, size))
    assert send(first, mine, np.zeros(size)) == "taken"
    with pytest.raises(UserError, match="ALREADY_CONSUMED"):
        send(first, mine, np.ones(size))
    other = rig.client(1)
    other._caller = pb.Caller(client=0, session=b"x" * 16)
    with pytest.raises(grpc.RpcError, match="this session is not known"):
        other.link.once("Beat", pb.BeatRequest(caller=other._caller, ticket=-1))
    assert len(rig.made.conductor.arrived) == 1


def with_nonce(raw: Any, nonce: bytes) -> Any:
    copy = pb.Task()
    copy.CopyFrom(raw)
    copy.nonce = nonce
    return copy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_6_an_update_that_is_not_finite_is_refused_and_its_client_told(
    bad: float, make: Make, tmp_path: Path
) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    Worker(rig, 1)
    task = task_of(mine)
    vector = np.zeros(mine.spec.size, np.float32)
    vector[7] = bad
    assert send(mine, task, vector) == "refused"
    rig.wait()
    assert (rig.told[1].num_accepted, rig.told[1].num_refused) == (1, 1)
    assert "an update of client-0 was refused: it holds NaN or infinity" in rig.said


def test_6b_who_is_refused_three_times_in_a_row_is_put_into_quarantine(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=6, algorithm={"pace": {"cohort": 2}}, num_clients=2))
    Worker(rig, 1)
    bad = rig.client(0)
    told = (
        "client-0 is in quarantine: 3 of its tasks in a row went wrong (deploy.quarantine_after), the last: "
        "its update was refused: it holds NaN or infinity"
    )

    def live() -> None:
        for task in bad:
            send(bad, task, np.full(bad.spec.size, np.nan))

    with pytest.raises(UserError) as caught:
        live()
    assert str(caught.value) == f"{told}; it gets no more work in this run"
    rig.until(lambda: f"{told}; 1 of 2 clients is left" in rig.said)


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"delta": -1}, "must be F32 of shape"),
        ({"delta": 1}, "must be F32 of shape"),
        ({"other": 0}, "the header is not that of delta"),
        ({"delta": 0, "more": 0}, "the header is not that of delta"),
        ({}, "there is nothing, not delta"),
    ],
)
def test_7_an_update_of_another_shape_is_refused(vectors: Any, said: str, make: Make, tmp_path: Path) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    Worker(rig, 1)
    task = task_of(mine)
    size, path = mine.spec.size, tmp_path / "update"
    layout = Layout(tuple((name, size + more) for name, more in vectors.items()))
    write_file(path, encode(layout, {name: noise(0, size + more) for name, more in vectors.items()}))
    reply = mine.link.upload(mine._caller, task._raw, path, pb.Report(num_examples=1))
    assert (reply.status, said in reply.why) == ("refused", True), reply.why
    rig.wait()
    assert rig.told[1].num_refused == 1


@pytest.mark.parametrize("num", [-5, 10**12])
def test_7b_a_weight_that_its_client_does_not_have_is_refused(num: int, make: Make, tmp_path: Path) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    Worker(rig, 1)
    assert send(mine, task_of(mine), np.zeros(mine.spec.size), num_examples=num) == "refused"
    rig.wait()
    assert (rig.told[1].num_accepted, rig.told[1].num_refused) == (1, 1)


def test_8_too_many_bytes_are_refused_before_they_are_read(make: Make, tmp_path: Path) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    Worker(rig, 1)
    task = task_of(mine)
    path = tmp_path / "large"
    path.write_bytes(bytes(3_000_000))
    reply = mine.link.upload(mine._caller, task._raw, path, pb.Report())
    limit = f"{rig.made.spool.max_bytes:,}"
    assert reply.why == f"the update has 3,000,000 bytes, but {limit} are allowed"
    rig.wait()
    assert not list((tmp_path / "run" / "updates").glob(f"{task.ticket:010d}*"))
    # Of the other's alone: 656 numbers and a header.
    assert (rig.told[1].num_refused, rig.told[1].up_bytes) == (1, 4 * 656 + 128)


def test_8b_bytes_beyond_what_was_announced_are_cut_off(make: Make, tmp_path: Path) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    head = pb.UploadHead(
        caller=mine._caller, ticket=task.ticket, nonce=task._raw.nonce, total_bytes=100, sha256="0" * 64
    )
    parts = [pb.UploadPart(head=head), *(pb.UploadPart(data=bytes(CHUNK)) for _ in range(8))]
    reply = mine.link._stub.Upload(iter(parts), timeout=5)
    assert reply.status == "damaged"
    assert rig.made.spool.held(task.ticket) == 0


def test_11_who_shows_nothing_is_refused_at_once_and_it_is_written_down(make: Make, tmp_path: Path) -> None:
    from muster.deploy.listen import Listen
    from muster.net import access, certs
    from muster.net.credentials import client_credentials

    certs.init(tmp_path / "certs")
    listen = Listen(port=0, certs=tmp_path / "certs", tokens=True)
    rig = make(two(), listen=listen)
    roots = (tmp_path / "certs" / "ca.crt").read_bytes()
    request = pb.JoinRequest(name="client-0", instance=bytes(16), protocol_max=1, num_examples=-1)
    for token in (None, "not-a-token"):
        channel = grpc.secure_channel(
            f"localhost:{rig.port}", client_credentials(roots, token=token), OPTIONS
        )
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).Join(request, timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        assert time.monotonic() - began < 1.0
        channel.close()
    token = access.add_token(tmp_path / "certs", "client-1")
    channel = grpc.secure_channel(f"localhost:{rig.port}", client_credentials(roots, token=token), OPTIONS)
    with pytest.raises(grpc.RpcError, match="the certificate or token is of client-1, not of client-0"):
        Stub(channel).Join(request, timeout=5)
    channel.close()
    # gRPC takes a closed channel down in a thread of its own, which needs Python, and holds
    # what a server that is stopped in this very process waits for: once, both waited for ever.
    time.sleep(0.3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "audit.jsonl").read_text().splitlines()]
    assert [line["allowed"] for line in lines] == [False, False]


@pytest.mark.parametrize("moment", [0.02, 0.15, 0.4])
def test_13_a_killed_server_goes_on_and_ends_in_the_same_bits(
    moment: float, make: Make, tmp_path: Path
) -> None:
    job = job_of(rounds=12, track={"checkpoint_every": 3, "evaluate_every": 1000})
    rig = make(job)
    proxy = Proxy(rig.port)
    workers = [Worker(rig, n, lambda t: time.sleep(0.02), f"127.0.0.1:{proxy.port}") for n in range(4)]
    rig.until(lambda: rig.made.conductor.begun)
    time.sleep(moment)
    rig.kill()
    again = make(job)
    began = time.monotonic()
    proxy.target = again.port
    assert again.wait() == simulated(job)
    assert time.monotonic() - began < 10
    told = [record.version for record in [*rig.told, *again.told]]
    assert sorted(set(told)) == list(range(13))
    assert sum(worker.num for worker in workers) == 48
    proxy.close()


def test_14_while_the_disk_is_full_the_run_waits_and_then_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(job_of(rounds=2))
    full, write = threading.Event(), os.pwrite

    def pwrite(handle: int, data: Any, at: int) -> int:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    full.set()
    crowd(rig)
    rig.until(lambda: any("the disk is full: the run waits" in line for line in rig.said))
    assert rig.hub.status()["paused"]  # whatever found room beside it
    full.clear()
    assert rig.wait() == simulated(rig.job)
    assert "there is room on the disk again: the run goes on" in rig.said


def damaged(folder: Path, count: int, byte: int = 1) -> None:
    """Flips a bit in the tensors of the newest checkpoints, in the last byte but so many."""
    for place in sorted((folder / "checkpoints").iterdir(), reverse=True)[:count]:
        data = bytearray((place / "tensors.safetensors").read_bytes())
        data[-byte] ^= 1
        (place / "tensors.safetensors").write_bytes(bytes(data))


def test_15_a_damaged_checkpoint_is_passed_over_and_none_is_refused(make: Make, tmp_path: Path) -> None:
    job = job_of(rounds=8, track={"checkpoint_every": 2, "evaluate_every": 1000})
    rig = make(job)
    proxy = Proxy(rig.port)
    for number in range(4):
        Worker(rig, number, lambda t: time.sleep(0.2 * (t.version == 7)), f"127.0.0.1:{proxy.port}")
    rig.until(lambda: rig.made.conductor.state.version == 7)
    rig.kill()
    damaged(tmp_path / "run", 1)
    shutil.copytree(tmp_path / "run", tmp_path / "lost")
    again = make(job)
    proxy.target = again.port
    assert any("is damaged" in line and "going back" in line for line in again.said)
    assert again.wait() == simulated(job)
    damaged(tmp_path / "lost", 9, byte=2)
    with pytest.raises(RunFolderError, match="no checkpoint can be used"):
        make(job, tmp_path / "lost")
    proxy.close()


def test_16_a_port_in_use_is_told_with_the_process_that_has_it(make: Make, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use by process {os.getpid()} "):
            make(two(), port=port)


@pytest.mark.parametrize("hours", [-24, 24])
def test_17_a_clock_that_is_a_day_off_changes_nothing(hours: int, make: Make) -> None:
    rig = make(job_of(rounds=2))
    for number in range(4):
        worker = Worker(rig, number, start=False)
        call = worker.client.link.call

        def skewed(method: str, request: Any, *, waits: bool = False, call: Any = call) -> Any:
            if method == "Join":
                request.time_of_day += 3600 * hours
            return call(method, request, waits=waits)

        worker.client.link.call = skewed  # type: ignore[method-assign]
        worker.thread.start()
    assert rig.wait() == simulated(rig.job)
    off = f"{3600 * hours:+.0f}"[:-2]  # to the hundred seconds
    assert any(f"this clock is {off}" in line for line in rig.said)


BIG = {"model": {"name": "mlp", "hidden": [6000, 256]}}
"""8 MB of parameters: eight chunks."""


@pytest.mark.parametrize("how", ["cut", "cut late", "cut twice", "stall"])
def test_18_a_transfer_goes_on_where_it_broke(how: str, make: Make, tmp_path: Path) -> None:
    job = replace(two(), model=job_of(**BIG).model)
    rig = make(job)
    proxy = Proxy(rig.port)
    mine = rig.client(0, address=f"127.0.0.1:{proxy.port}")
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    sent = proxy.num_up
    if how != "stall":
        proxy.cut_after = 5 * CHUNK + CHUNK // 2 if how == "cut late" else 3 * CHUNK + 1000
        proxy.cuts_again = [2 * CHUNK] if how == "cut twice" else []
        status = send(mine, task, noise(1, mine.spec.size) / 100)
    else:
        proxy.delay_secs = 0.001
        timer = threading.Timer(0.05, proxy.stalled.set)
        timer.start()
        threading.Timer(1.6, proxy.stalled.clear).start()
        status = send(mine, task, noise(1, mine.spec.size) / 100)
    assert status == "taken"
    total = rig.made.spool.held(task.ticket)
    breaks = max(1, mine.link.num_breaks)  # a busy machine may break more calls than the proxy does
    assert how != "cut twice" or breaks >= 2
    assert proxy.num_up - sent - total <= breaks * CHUNK + total // 100 + 20_000
    assert mine.link.num_resent <= breaks * CHUNK
    proxy.close()


def test_18b_a_partition_shorter_than_the_lease_costs_nothing(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=4))
    proxy = Proxy(rig.port)
    workers = [Worker(rig, number, address=f"127.0.0.1:{proxy.port}") for number in range(4)]
    rig.until(lambda: rig.made.conductor.state.version >= 1)
    proxy.closed.set()
    time.sleep(0.5)
    proxy.closed.clear()
    assert rig.wait() == simulated(rig.job)
    assert sum(record.num_lost for record in rig.told) == 0
    assert [worker.error for worker in workers] == [None] * 4
    proxy.close()


def test_18c_a_connection_that_breaks_before_a_message_is_through_gets_smaller_ones(make: Make) -> None:
    """100 kB at a time, where a message has 256 KiB: 580 kB would never get through."""
    rig = make(replace(two(), model=job_of(model={"name": "mlp", "hidden": [1000, 80]}).model))
    proxy = Proxy(rig.port)
    mine = rig.client(0, address=f"127.0.0.1:{proxy.port}")
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    proxy.grain, proxy.delay_secs = 8192, 0.002  # a line of 4 MB/s
    proxy.cut_after, proxy.cuts_again = 100_000, [100_000] * 60
    assert send(mine, task, noise(1, mine.spec.size) / 100) == "taken"
    assert 5 < proxy.num_cuts < 30
    mine.link.close()
    proxy.close()


@pytest.mark.parametrize(
    ("piece", "most"), [(0, PIECE), (50_000, 50_000), (1, LEAST_PIECE), (1 << 40, PIECE)]
)
def test_18d_a_model_comes_in_messages_as_small_as_the_client_asks(piece: int, most: int, make: Make) -> None:
    rig = make(replace(two(), model=job_of(model={"name": "mlp", "hidden": [1000, 80]}).model))
    mine = rig.client(0)
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    request = pb.DownloadRequest(caller=mine._caller, ticket=task.ticket, piece=piece)
    chunks = [len(chunk.data) for chunk in mine.link._stub.Download(request, timeout=5)]
    assert sum(chunks) == task._raw.model_bytes and set(chunks[:-1]) == {most}


def test_18e_a_model_that_is_let_go_as_it_is_asked_for_is_a_task_that_is_over(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make(two())
    mine = rig.client(0)
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    gone = Published(tmp_path / "gone", task._raw.model_sha256, task._raw.model_bytes)
    monkeypatch.setattr(rig.hub.models, "of", lambda version: gone)
    with pytest.raises(GoneError):
        mine.link.download(mine._caller, task._raw, tmp_path / "model")


def test_19_a_storm_of_joins_is_told_when_to_come_back(make: Make, tmp_path: Path) -> None:
    job = job_of(num_clients=120, deploy={"joins_per_sec": 50, "start_with": 121, "lease_secs": 60})
    rig = make(job)
    stub = Stub(grpc.insecure_channel(f"127.0.0.1:{rig.port}", OPTIONS))
    asked, waits = 0, []
    waiting = [(0.0, number) for number in range(120)]
    began = time.monotonic()
    while waiting:
        waiting.sort()
        due, number = waiting.pop(0)
        time.sleep(max(0.0, began + due - time.monotonic()))
        request = pb.JoinRequest(name=f"client-{number}", instance=bytes(16), protocol_max=1, num_examples=-1)
        reply, asked = stub.Join(request, timeout=5), asked + 1
        if reply.come_back_in_secs > 0:
            waits.append(reply.come_back_in_secs)
            waiting.append((time.monotonic() - began + reply.come_back_in_secs, number))
    assert rig.made.conductor.roster.present().tolist() == list(range(120))
    assert waits and 1.0 < time.monotonic() - began < 10.0


def test_20_a_server_does_not_grow(make: Make, tmp_path: Path) -> None:
    import tracemalloc

    rig = make(job_of(rounds=30, num_clients=2, track={"checkpoint_every": 5}))
    crowd(rig)
    rig.until(lambda: rig.made.conductor.state.version >= 10, 30)
    tracemalloc.start()
    first = tracemalloc.get_traced_memory()[0]
    rig.until(lambda: rig.made.conductor.state.version >= 29, 60)
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert grown < 300_000, f"{grown:,} bytes in 19 rounds"


def test_21_what_a_clients_code_raises_is_in_the_servers_log(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=2))

    def crash(task: Task) -> str:
        task.fail(ZeroDivisionError("no examples"))
        return "leave out"

    crowd(rig, {3: crash})
    rig.wait()
    assert any("client-3 could not train task" in line and "ZeroDivisionError" in line for line in rig.said)
    assert [record.num_lost for record in rig.told] == [0, 1, 1]
    assert [record.num_accepted for record in rig.told] == [0, 3, 3]


def test_21b_whose_training_fails_again_and_again_is_put_into_quarantine(make: Make, tmp_path: Path) -> None:
    """Also by a server that is killed in between: what failed is in the journal."""
    pace = {"cohort": 4, "min_start": 3}
    deploy = {"quarantine_after": 4}
    job = job_of(rounds=60, algorithm={"pace": pace}, deploy=deploy, track={"checkpoint_every": 1})
    rig, failed = make(job), 0

    def crash(task: Task) -> str:
        nonlocal failed
        failed += 1
        if failed != 2:  # four in a row are too many; one that trains in between begins the count anew
            task.fail(ZeroDivisionError(f"no examples, {failed}"))
            return "leave out"
        return "train"

    workers = crowd(rig, {3: crash})
    rig.until(lambda: failed >= 4)
    rig.kill()
    rig = make(job, port=rig.port)
    rig.wait()
    workers[3].thread.join(10)
    assert failed == 6
    assert str(workers[3].error).startswith(
        "client-3 is in quarantine: 4 of its tasks in a row went wrong (deploy.quarantine_after), the last: "
        "ZeroDivisionError: no examples, 6;"
    )
    assert {record.num_accepted for record in rig.told[-10:]} == {3}


def test_22_an_old_client_is_told_how_to_upgrade(make: Make, tmp_path: Path) -> None:
    rig = make(two())
    stub = Stub(grpc.insecure_channel(f"127.0.0.1:{rig.port}", OPTIONS))
    request = pb.JoinRequest(name="client-0", instance=bytes(16), software="muster 0.0.1")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Join(request, timeout=5)
    assert caught.value.details() == (  # type: ignore[attr-defined]
        "this client (muster 0.0.1) speaks protocol 0, the server needs 1 or newer: upgrade the client with "
        "pip install --upgrade 'muster-fl[net]'"
    )


def test_22b_the_first_version_of_the_protocol_stays_readable() -> None:
    wire = bytes.fromhex("0a0161121000000000000000000000000000000000180120012a016d3005")
    request = pb.JoinRequest.FromString(wire)
    assert (request.name, request.instance, request.software) == ("a", bytes(16), "m")
    assert (request.protocol_min, request.protocol_max, request.num_examples) == (1, 1, 5)
    assert request.SerializeToString() == wire


def test_22c_a_client_that_does_not_know_the_jobs_compression_is_told(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=1, num_clients=2, compress="half"))
    stub = Stub(grpc.insecure_channel(f"127.0.0.1:{rig.port}", OPTIONS))
    request = pb.JoinRequest(
        name="a", instance=bytes(16), protocol_max=1, software="muster 0.1", codecs=["top_k"]
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.Join(request, timeout=5)
    assert caught.value.details() == (  # type: ignore[attr-defined]
        "the updates of this run are compressed by half, which a (muster 0.1) does not know: "
        "pip install --upgrade 'muster-fl[net]'"
    )


def test_24_an_update_far_larger_than_the_others_is_told(make: Make, tmp_path: Path) -> None:
    rig = make(job_of(rounds=1))
    mine = rig.client(0)
    mine.join()
    for number in (1, 2, 3):
        Worker(rig, number)
    task = task_of(mine)
    assert send(mine, task, noise(3, mine.spec.size)) == "taken"
    rig.wait()
    assert any("the update of client-0 in version 1 has norm" in line for line in rig.said)
    assert rig.told[1].num_accepted == 4


def test_13b_a_client_with_a_certificate_waits_for_a_server_that_is_away(tmp_path: Path) -> None:
    certs.init(tmp_path)
    certs.issue(tmp_path, "client-0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said: list[str] = []
    link = open_link(Door(f"127.0.0.1:{port}", "client-0", certs=tmp_path), said.append)
    link.patience.give_up_secs = 0.5
    with pytest.raises(UserError, match=r"could not be reached for deploy\.give_up_secs = 0\.5 s"):
        link.call("Join", pb.JoinRequest())
    link.close()
    assert link.num_breaks > 1


def test_26_there_are_six_time_outs() -> None:
    fields = {name for name in Deploy.__dataclass_fields__ if name.endswith("_secs")}
    assert fields == {"lease_secs", "poll_secs", "call_secs", "stall_secs", "retry_secs", "give_up_secs"}


def test_26_no_call_has_a_time_out_of_its_own() -> None:
    """Numbers that are written where something is waited for, or as the default of such a parameter."""
    found = []
    for path in [*SOURCES.glob("net/**/*.py"), *SOURCES.glob("deploy/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                values = [each.value for each in node.keywords if "timeout" in (each.arg or "")]
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args]
                last = zip(reversed(arguments), reversed(node.args.defaults), strict=False)
                named = [*last, *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
                values = [default for argument, default in named if "timeout" in argument.arg]
            numbers = [each for each in values if isinstance(each, ast.Constant) and each.value is not None]
            found += [f"{path.name}:{each.lineno}: {each.value}" for each in numbers]
    assert found == []


def test_26c_a_server_that_does_not_answer_is_told_with_the_time_out(make: Make) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        link = open_link(Door(f"127.0.0.1:{silent.getsockname()[1]}", "client-0", insecure=True), said.append)
        link.patience = Patience(call_secs=0.2, poll_secs=0.1, give_up_secs=0.1)
        with pytest.raises(UserError, match=r"\(no answer within deploy\.call_secs = 0\.2 s\)"):
            link.call("Join", pb.JoinRequest())
        long = r"\(no answer within deploy\.poll_secs \+ deploy\.call_secs = 0\.3 s\)"
        with pytest.raises(UserError, match=long):
            link.call("Await", pb.AwaitRequest(), waits=True)
        link.close()


def test_26d_a_transfer_that_stalls_is_told_with_the_time_out(make: Make) -> None:
    rig = make(replace(two(stall_secs=0.2, give_up_secs=0.001), model=job_of(**BIG).model))
    proxy = Proxy(rig.port)
    proxy.delay_secs = 0.001
    mine = rig.client(0, address=f"127.0.0.1:{proxy.port}")
    mine.join()
    rig.client(1).join()
    task = task_of(mine)
    failed: list[UserError] = []

    def sending() -> None:
        try:
            send(mine, task, noise(1, mine.spec.size) / 100)
        except UserError as error:
            failed.append(error)

    sent, thread = proxy.num_up, threading.Thread(target=sending)
    thread.start()
    rig.until(lambda: proxy.num_up > sent + CHUNK)
    proxy.stalled.set()
    thread.join(20)
    assert "give_up_secs = 0.001 s (nothing moved for deploy.stall_secs = 0.2 s)" in str(failed[0])
    mine.link.close()
    proxy.close()


def test_26b_who_gives_up_names_the_time_out(make: Make, tmp_path: Path) -> None:
    rig = make(two(give_up_secs=0.3))
    mine = rig.client(0)
    mine.link.patience.give_up_secs = 60.0  # until the server says for how long
    mine.join()
    rig.kill()
    with pytest.raises(UserError, match=r"could not be reached for deploy\.give_up_secs = 0\.3 s"):
        list(mine)
