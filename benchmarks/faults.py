"""Faults that take long, or root, done to real processes: what was seen goes to docs/benchmarks.md.

    python benchmarks/faults.py [flood] [hung] [growth] [large] [loss] [--gb GB]

flood: an update is announced with 3 GB, and another goes on for 300 MB beyond what it has announced; the
server's peak memory must rise by less than two chunks.

hung: a hundred clients stop (SIGSTOP) in the middle of their tasks, with their connections open; four go on.
The server's threads and memory are looked at before and after, and how long the round takes to close.
loss: two clients of a run over a link that loses 30 % of the packets each way, with 300 ms of round trip, and
that is dark for a minute; the run must end in the simulation's bits. Needs root: see lossy_link.py.
large: a model of 10 GB (--gb), or as large as the disk has room for, through a round of two clients; the
server's process, and the one beside it, must never hold 1 GB. The clients keep nothing of it.
growth: 5,000 rounds; a line through the server's memory must rise by less than 1 MB in 100 rounds.
Exits with 1 if anything of this does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from load_processes import JOB, USUAL, Process, serving, swarm, wait_for
from load_swarm import Figures, One, update
from lossy_link import HERE, LossyLink
from marked import write_between

import muster
from muster.core.params import ParamSpec
from muster.net.rpc import CHUNK
from muster.net.wire import Layout
from muster.track.units import bytes_text

PAGE = Path(__file__).resolve().parent.parent / "docs/benchmarks.md"
MB = 1e6
NUM_HUNG, NUM_GOOD, LEASE_SECS = 100, 4, 2.0
LOSS, ROUND_TRIP_SECS, DARK_SECS = 0.3, 0.3, 60.0
DOWNLOAD_SECS = 1.5
"""So long after a round has begun its models are on the way."""
NUM_ROUNDS, WARM = 5000, 500
LAYER, COPIES = 5000, 7
"""The large model: layers of 100 MB; and how often the disk must have room for it."""
ANNOUNCED, BEYOND = 3_000_000_000, 300_000_000


def records(server: Process) -> list[dict[str, Any]]:
    """What a server has written down so far."""
    path = Path(f"/proc/{server.pid}/cwd/run/records.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def join(address: str, number: int, *options: str) -> Process:
    """A client that trains."""
    command = ("-m", "muster", "join", address, "--name", f"client-{number}", "--json")
    return Process(*command, *(options or ("--insecure",)))


def until(what: Any, secs: float) -> float:
    """Waits until something is so; returns for how long."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > secs:
            raise SystemExit(f"it is not so after {secs:g} s")
        time.sleep(0.05)
    return time.monotonic() - began


def flood() -> tuple[bool, str]:
    """Updates far larger than they may be."""
    with serving(clients=2, start_with=2, hidden=[200], rounds=50) as (server, address):
        warm, rise, said, secs = asyncio.run(_flood(server, address))
    allowed = ["refused", "taken"]
    return said == allowed and rise < 2 * CHUNK, (
        f"An update announced with {bytes_text(ANNOUNCED)} was {said[0]} after {1000 * secs:.0f} ms; of one "
        f"that went on for {bytes_text(BEYOND)} beyond its {bytes_text(warm)} the server read no more than "
        f"those, and it was {said[1]}. Its peak memory rose by {bytes_text(rise)} (two chunks: "
        f"{bytes_text(2 * CHUNK)})."
    )


async def _flood(server: Process, address: str) -> tuple[int, int, list[str], float]:
    """Bytes of an ordinary update, the rise of the server's peak in bytes, and what became of the others."""
    clients = [One(address, number, Figures()) for number in range(2)]
    await asyncio.gather(*(client.join() for client in clients))
    body = update(ParamSpec.from_json(json.loads(clients[0].joined.spec)).size)
    sha256 = hashlib.sha256(body).hexdigest()
    for _ in range(5):  # the server has seen what is ordinary
        for client in clients:
            await client.upload(await client.task(), body, sha256)
    tasks = [await client.task() for client in clients]
    server.reset_peak()
    before, began = server.status("VmHWM"), time.monotonic()
    said = [await clients[0].upload(tasks[0], body, sha256, announced=ANNOUNCED)]
    secs = time.monotonic() - began
    said.append(await clients[1].upload(tasks[1], body + bytes(BEYOND), sha256, announced=len(body)))
    rise = server.status("VmHWM") - before
    await asyncio.gather(*(client.leave() for client in clients))
    return len(body), rise, said, secs


def hung() -> tuple[bool, str]:
    """A hundred clients stop in the middle of their tasks."""
    count = NUM_HUNG + NUM_GOOD
    settings = {
        "clients": count,
        "start_with": count,
        "hidden": [200],
        "lease": LEASE_SECS,
        "min_start": NUM_GOOD,
    }
    with ExitStack() as stack:
        server, address = stack.enter_context(serving(**settings))
        crowd = stack.enter_context(swarm("rounds", address, NUM_HUNG))
        for number in range(NUM_HUNG, count):
            stack.callback(join(address, number).close)
        crowd.answer()  # they have joined
        crowd.ask("round")  # and have their tasks and models
        threads, rss = server.status("Threads"), server.status("VmRSS")
        os.kill(crowd.pid, signal.SIGSTOP)
        try:
            closed = until(lambda: len(records(server)) > 1, 60)
            until(lambda: len(records(server)) > 50, 120)
            most, after = server.status("Threads"), server.status("VmRSS")
        finally:
            os.kill(crowd.pid, signal.SIGCONT)
        told = records(server)
    first, rest = told[1], told[2:50]
    good = (first["num_accepted"], first["num_lost"]) == (NUM_GOOD, NUM_HUNG)
    good &= all(record["num_accepted"] == NUM_GOOD for record in rest)
    good &= closed <= 2 * LEASE_SECS + 1 and most <= threads and after - rss < 10 * MB
    return good, (
        f"{NUM_HUNG} clients stopped in their tasks (SIGSTOP, connections open; leases of {LEASE_SECS:g} s): "
        f"the round closed {closed:.1f} s later with {first['num_accepted']} updates and "
        f"{first['num_lost']} lost tasks, and {len(rest)} rounds of {NUM_GOOD} followed. The server "
        f"had {threads} threads and {rss / MB:.0f} MB before, {most} threads and {after / MB:.0f} MB after."
    )


def loss() -> tuple[bool, str]:
    """A run over a bad link."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), 7433
        settings = {"clients": 2, "start_with": 2, "hidden": [1000], "rounds": 3, "lease": 300}
        (folder / "job.yml").write_text(JOB.format(**{**USUAL, **settings}))
        certs = folder / "certs"
        _issue(certs)
        run = muster.simulate(folder / "job.yml")
        for _ in run:
            pass
        link = LossyLink(LOSS, ROUND_TRIP_SECS / 2)
        command = ("-m", "muster", "serve", "job.yml", "--certs", certs, "--host", HERE, "--json")
        server = Process(*command, "--port", str(port), "--out", "run", cwd=folder)
        stack.callback(server.close)
        wait_for(port, host=HERE)
        link.cross()
        began = time.monotonic()
        clients = [join(f"{HERE}:{port}", number, "--certs", str(certs)) for number in range(2)]
        for client in clients:
            stack.callback(client.close)
        until(lambda: len(records(server)) > 1, 900)
        time.sleep(DOWNLOAD_SECS)
        link.dark.set()
        time.sleep(DARK_SECS)
        link.dark.clear()
        ended, said = server.answer(), [client.answer() for client in clients]
        took = time.monotonic() - began
    assert run.summary is not None
    breaks, resent = (sum(body[key] for body in said) for key in ("num_breaks", "resent_bytes"))
    good = ended["model_sha256"] == run.summary.model_sha256 and ended["num_tasks"]["accepted"] == 6
    good &= all(body["status"] == "rounds" for body in said) and resent <= breaks * CHUNK
    model = bytes_text(4 * sum(array.size for array in run.model.values()))
    tcp = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return good, (
        f"Three rounds of two clients, a model of {model}, over a link with {LOSS:.0%} loss each way and "
        f"{1000 * ROUND_TRIP_SECS:.0f} ms of round trip ({link.num_lost:,} of {link.num_packets:,} packets "
        f"lost; TCP {tcp}), dark for {DARK_SECS:.0f} s while models of the second round were on their way: "
        f"ended after {took:.0f} s {'in' if good else 'NOT in'} the simulation's hash, with "
        f"{ended['num_tasks']['accepted']} of 6 updates accepted; {breaks} calls and transfers broke, and "
        f"{resent:,} bytes were sent again."
    )


def _issue(certs: Path) -> None:
    from muster.net.certs import init, issue

    init(certs, hosts=(HERE,))
    for number in range(2):
        issue(certs, f"client-{number}")


def growth() -> tuple[bool, str]:
    """Thousands of rounds."""
    with ExitStack() as stack:
        server, address = stack.enter_context(
            serving(clients=2, start_with=2, hidden=[32], rounds=NUM_ROUNDS)
        )
        for number in range(2):
            stack.callback(join(address, number).close)
        until(lambda: len(records(server)) > 1, 60)
        began, seen = time.monotonic(), [(0, 0)]
        with Path(f"/proc/{server.pid}/cwd/run/records.jsonl").open() as file:
            while seen[-1][0] < NUM_ROUNDS:
                lines = sum(1 for _ in file)
                seen.append((seen[-1][0] + lines, server.status("VmRSS")))
                time.sleep(0.5)
                if time.monotonic() - began > 1800:
                    raise SystemExit(f"{seen[-1][0]} rounds in half an hour")
        took, ended = time.monotonic() - began, server.answer()
    rounds, rss = np.array([pair for pair in seen if pair[0] >= WARM], float).T
    slope = float(np.polyfit(rounds, rss, 1)[0]) * 100 / MB
    good = slope < 1 and ended["rounds"] == NUM_ROUNDS
    return good, (
        f"{NUM_ROUNDS:,} rounds of two clients, a checkpoint each: the server had {rss[0] / MB:.1f} MB after "
        f"{WARM} rounds and {rss[-1] / MB:.1f} MB at the end, at most {rss.max() / MB:.1f} MB; a line "
        f"through {len(rss)} looks rises by {slope:.3f} MB in 100 rounds. {took:.0f} s."
    )


class Repeated:
    """The file of an update of so many numbers, a block of them again and again: it is not in memory."""

    def __init__(self, size: int) -> None:
        layout = Layout((("delta", size),))
        self._header, self._size = layout.header(), layout.num_bytes
        self._block = update(1 << 18)[-(1 << 20) :]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop = part.start, min(part.stop, self._size)
        head, at = self._header[start:stop], max(start - len(self._header), 0)
        made, begin = bytearray(head), at % len(self._block)
        while len(made) < stop - start:
            made += self._block[begin : begin + stop - start - len(made)]
            begin = 0
        return bytes(made)

    def sha256(self) -> str:
        """Of all of it."""
        digest = hashlib.sha256()
        for start in range(0, self._size, CHUNK):
            digest.update(self[start : start + CHUNK])
        return digest.hexdigest()


def large(wanted: float) -> tuple[bool, str]:
    """A model that is larger than the memory that the server may take."""
    room = shutil.disk_usage(tempfile.gettempdir()).free
    found = through(min(wanted, room / COPIES))
    good = max(found["peak"], found["beside"]) < 1e9 and found["accepted"] == 2
    return good, (
        f"A model of {bytes_text(found['model'])} through a round of two clients, on a disk with "
        f"{bytes_text(room)} free: the server's process never held more than {found['peak'] / MB:.0f} MB, "
        f"that which made the untrained model {found['beside'] / MB:.0f} MB. Ready after "
        f"{found['ready']:.0f} s; both clients had the model after {found['down']:.0f} s, "
        f"and their updates were taken {found['up']:.0f} s later."
    )


def through(num_bytes: float) -> dict[str, float]:
    """A round of two clients with a model of so many bytes that the server keeps on disk: peaks and times."""
    hidden = [LAYER] * (1 + int(num_bytes / (4 * LAYER**2)))
    settings = {"clients": 2, "start_with": 2, "hidden": hidden, "rounds": 1, "lease": 120, "keep": 1}
    beside, over = [0], threading.Event()
    looks = threading.Thread(target=_look_beside, args=(beside, over))
    looks.start()
    began = time.monotonic()
    try:
        with serving(**settings, evaluate="false", memory=10, patience=1800) as (server, address):
            ready = time.monotonic() - began
            size, down, up = asyncio.run(_large(address))
            ended = server.answer()
    finally:
        over.set()
        looks.join()
    peak, accepted = ended["peak_rss_bytes"], ended["num_tasks"]["accepted"]
    told = {"model": 4 * size, "peak": peak, "beside": beside[0], "accepted": accepted}
    return {**told, "ready": ready, "down": down, "up": up}


def _look_beside(most: list[int], over: threading.Event) -> None:
    """Notes the highest peak of the processes that the processes of this one have started."""
    while not over.wait(0.2):
        for pid in (grandchild for child in _children(os.getpid()) for grandchild in _children(child)):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
                most[0] = max(most[0], *peaks, 0)


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


async def _large(address: str) -> tuple[int, float, float]:
    """The model's size; how long models took to go out, and updates to come."""
    clients = [One(address, number, Figures()) for number in range(2)]
    await asyncio.gather(*(client.join() for client in clients))
    beats = [asyncio.create_task(client.beat()) for client in clients]
    size = ParamSpec.from_json(json.loads(clients[0].joined.spec)).size
    body = Repeated(size)
    sha256 = await asyncio.to_thread(body.sha256)
    began = time.monotonic()
    tasks = await asyncio.gather(*map(_patient, clients))
    received = await asyncio.gather(*map(One.download, clients, tasks))
    there = time.monotonic()
    said = await asyncio.gather(
        *(client.upload(task, body, sha256) for client, task in zip(clients, tasks, strict=True))
    )
    took = there - began, time.monotonic() - there
    if min(received) < 4 * size or said != ["taken"] * 2:
        raise SystemExit(f"of {4 * size:,} bytes came {received}, and updates were {said}")
    while any([await _patient(client) for client in clients]):
        pass
    for beat in beats:
        beat.cancel()
    await asyncio.gather(*beats, return_exceptions=True)
    await asyncio.gather(*(client.leave() for client in clients))
    return size, *took


async def _patient(client: One) -> Any:
    """A task, however long its model takes to be written; None: the run has ended."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            return await client.task()


def main() -> None:
    """Does, prints and writes what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gb", type=float, default=10.0, help="of the large model")
    names = ("flood", "hung", "growth", "large", "loss")
    parser.add_argument("what", nargs="*", default=names, metavar="|".join(names))
    held, args = True, parser.parse_args()
    wanted, big = args.what, partial(large, args.gb * 1e9)
    kinds = {"flood": flood, "hung": hung, "growth": growth, "large": big, "loss": loss}
    for name in (name for name in kinds if name in wanted):  # loss is last: it leaves this network
        good, text = kinds[name]()
        held &= good
        print(name, "holds:" if good else "DOES NOT HOLD:", text, flush=True)
        write_between(PAGE, f"faults {name}", text)
    sys.exit(0 if held else "a fault did not end as it must")


if __name__ == "__main__":
    main()
