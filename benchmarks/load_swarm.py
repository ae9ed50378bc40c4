"""Many clients of a deployed run in one process, each with a connection of its own, and no training.

    python benchmarks/load_swarm.py idle HOST:PORT --first 0 --count 500
    python benchmarks/load_swarm.py rounds HOST:PORT --count 200
    python benchmarks/load_swarm.py raw HOST:PORT --count 200 --bytes 10000000

What a client of Muster says, these say too: Join (again when told to come back), Await, Beat, Download,
Held, Upload in messages of `rpc.PIECE`; an update is made once and sent by everybody. `raw` streams the
same bytes to the bare server of load_raw.py in messages of 1 MiB. Driven by load.py, which writes a line on
standard input to begin the next phase; each phase answers with a line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from muster.core.params import ParamSpec
from muster.net.rpc import CHUNK, OPTIONS, PIECE, PROTOCOL_MAX, PROTOCOL_MIN, Stub, pb
from muster.net.wire import Layout, encode

ALONE = (("grpc.use_local_subchannel_pool", 1),)
"""A channel has its own connection, as a process of its own would."""
NUM_EXAMPLES = -1
"""As many as its row of the job's data set has."""


@dataclass
class Figures:
    """What the clients of a process have seen."""

    joins: list[float] = field(default_factory=list)
    """Seconds from the first try to the admission,"""
    told_back: int = 0
    """and how often one was told to come back later."""
    beats: list[float] = field(default_factory=list)
    """Seconds that a heartbeat's answer took."""
    failed: list[str] = field(default_factory=list)
    """Calls that failed."""


class One:
    """A client."""

    def __init__(self, address: str, number: int, seen: Figures) -> None:
        self.name, self.seen = f"client-{number}", seen
        self._channel = grpc.aio.insecure_channel(address, (*OPTIONS, *ALONE))
        self._stub, self._metadata = Stub(self._channel), (("name", self.name),)
        self._instance, self.caller, self.joined = os.urandom(16), None, pb.JoinReply()

    async def call(self, method: str, request: Any, timeout: float = 60.0) -> Any:
        """One call; a failure is noted and raised."""
        try:
            return await getattr(self._stub, method)(request, timeout=timeout, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            self.seen.failed.append(f"{method}: {error.code().name} {error.details()}"[:200])
            raise

    async def join(self) -> None:
        """Joins, and comes back when it is told to."""
        began = time.monotonic()
        while True:
            request = pb.JoinRequest(
                name=self.name,
                instance=self._instance,
                protocol_min=PROTOCOL_MIN,
                protocol_max=PROTOCOL_MAX,
                software="load",
                num_examples=NUM_EXAMPLES,
                time_of_day=time.time(),
            )
            self.joined = await self.call("Join", request)
            if self.joined.come_back_in_secs <= 0:
                break
            self.seen.told_back += 1
            await asyncio.sleep(self.joined.come_back_in_secs)
        self.caller = self.joined.caller
        self.seen.joins.append(time.monotonic() - began)

    async def beat(self) -> None:
        """Heartbeats, to the end."""
        every = self.joined.beat_every_secs
        await asyncio.sleep(every * np.random.default_rng().random())  # processes do not start together
        while True:
            began = time.monotonic()
            with suppress(grpc.aio.AioRpcError):
                await self.call("Beat", pb.BeatRequest(caller=self.caller, ticket=-1))
                self.seen.beats.append(time.monotonic() - began)
            await asyncio.sleep(every)

    async def task(self) -> Any:
        """Waits for work; None: the run has ended."""
        while True:
            limit = self.joined.poll_secs + self.joined.call_secs
            reply = await self.call("Await", pb.AwaitRequest(caller=self.caller), limit)
            if reply.WhichOneof("next") != "come_back_in_secs":
                return reply.task if reply.WhichOneof("next") == "task" else None

    async def download(self, task: Any) -> int:
        """Gets a task's model, and keeps none of it; returns its bytes."""
        call = self._stub.Download(
            pb.DownloadRequest(caller=self.caller, ticket=task.ticket), metadata=self._metadata
        )
        return sum([len(chunk.data) async for chunk in call])

    async def upload(self, task: Any, body: Any, sha256: str, announced: int | None = None) -> str:
        """Sends an update, bytes or what is cut like them; returns the status.

        `announced`: bytes that its head says, if others.
        """
        asked = pb.HeldRequest(caller=self.caller, ticket=task.ticket, nonce=task.nonce)
        while (held := await self.call("Held", asked)).queued:
            pass

        async def parts() -> AsyncIterator[Any]:
            yield pb.UploadPart(
                head=pb.UploadHead(
                    caller=self.caller,
                    ticket=task.ticket,
                    nonce=task.nonce,
                    offset=held.offset,
                    total_bytes=len(body) if announced is None else announced,
                    sha256=sha256,
                    report=pb.Report(num_examples=1, num_steps=1, loss=1.0, loss_sq_mean=1.0, secs=1.0),
                )
            )
            for start in range(held.offset, len(body), PIECE):
                yield pb.UploadPart(data=body[start : start + PIECE])

        reply = await self._stub.Upload(parts(), metadata=self._metadata)
        return str(reply.status)

    async def leave(self) -> None:
        """Says goodbye, if the server is still there."""
        with suppress(grpc.aio.AioRpcError):
            await self._stub.Leave(pb.LeaveRequest(caller=self.caller), timeout=5.0, metadata=self._metadata)
        await self._channel.close()


def tell(**figures: Any) -> None:
    """A line for load.py."""
    print(json.dumps(figures), flush=True)


async def told() -> str:
    """The next line of load.py; empty at its end."""
    return (await asyncio.to_thread(sys.stdin.readline)).strip()


async def idle(address: str, first: int, count: int) -> None:
    """All join at once; who has joined waits for work and sends heartbeats until a line comes."""
    seen = Figures()
    clients = [One(address, first + number, seen) for number in range(count)]
    await told()
    lives: list[asyncio.Task[Any]] = []

    async def enter(one: One) -> None:
        await one.join()
        lives.extend(asyncio.create_task(part()) for part in (one.beat, one.task))

    await asyncio.gather(*map(enter, clients))
    tell(joins=seen.joins, told_back=seen.told_back)
    while await told() == "beats":
        tell(beats=seen.beats, failed=seen.failed)
        seen.beats.clear()
    for life in lives:
        life.cancel()
    await asyncio.gather(*lives, return_exceptions=True)
    await asyncio.gather(*(client.leave() for client in clients))


async def rounds(address: str, first: int, count: int) -> None:
    """All join; at a line each gets its model, at the next all send their updates at once."""
    seen = Figures()
    clients = [One(address, first + number, seen) for number in range(count)]
    await asyncio.gather(*(client.join() for client in clients))
    beats = [asyncio.create_task(client.beat()) for client in clients]
    size = ParamSpec.from_json(json.loads(clients[0].joined.spec)).size
    body = update(size)
    sha256 = hashlib.sha256(body).hexdigest()
    tell(joined=count, size=size)
    while await told() == "round":
        began = time.monotonic()
        tasks = await asyncio.gather(*(client.task() for client in clients))
        given = time.monotonic()
        received = await asyncio.gather(*map(One.download, clients, tasks))
        down = time.monotonic()
        tell(secs_tasks=given - began, secs_down=down - given, down_bytes=sum(received))
        await told()
        began, took = time.monotonic(), list[float]()

        async def send(one: One, task: Any, began: float = began, took: list[float] = took) -> str:
            status = await one.upload(task, body, sha256)
            took.append(time.monotonic() - began)
            return status

        said = await asyncio.gather(*map(send, clients, tasks))
        tell(secs_up=time.monotonic() - began, up_bytes=len(body) * count, acks=took, said=sorted(set(said)))
    for beat in beats:
        beat.cancel()
    await asyncio.gather(*beats, return_exceptions=True)
    await asyncio.gather(*(client.leave() for client in clients))


def update(size: int) -> bytes:
    """The file of an update of so many numbers, all of them small."""
    delta = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(1e-3)
    return b"".join(encode(Layout((("delta", size),)), {"delta": delta}))


async def raw(address: str, count: int, num_bytes: int) -> None:
    """At a line, so many connections stream so many bytes each to a bare server."""
    body = os.urandom(num_bytes)
    channels = [grpc.aio.insecure_channel(address, (*OPTIONS, *ALONE)) for _ in range(count)]

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(body), CHUNK):
            yield body[start : start + CHUNK]

    async def send(method: str, channel: Any) -> int:
        return int(await channel.stream_unary(f"/raw/{method}")(parts()))

    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    tell(ready=count)
    while method := await told():
        began = time.monotonic()
        taken = await asyncio.gather(*(send(method, channel) for channel in channels))
        tell(secs_up=time.monotonic() - began, up_bytes=sum(taken))
    await asyncio.gather(*(channel.close() for channel in channels))


def main() -> None:
    """Lives until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("idle", "rounds", "raw"))
    parser.add_argument("address")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--bytes", type=int, default=0)
    args = parser.parse_args()
    if args.what == "raw":
        asyncio.run(raw(args.address, args.count, args.bytes))
    else:
        asyncio.run({"idle": idle, "rounds": rounds}[args.what](args.address, args.first, args.count))


if __name__ == "__main__":
    main()
