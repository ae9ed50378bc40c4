"""Feeds damaged and made-up bytes to everything that reads bytes from outside.

    python tools/fuzz.py [--inputs 100000] [--seed 0]

Inputs begin as whole messages and are then changed: bits turned, bytes cut out, put in, doubled, taken from
another message, numbers replaced by extreme ones; text also by the words of its grammar, and journal lines
keep a right checksum half of the time. A decoder may give a value or raise the error that its docstring
names; anything else, or memory beyond its quota, is a finding, and the input is printed. Ends with 1 then.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from muster.core.errors import DataError, MusterError, RunFolderError, UserError
from muster.core.tables import Kind, Reason
from muster.devices.plain_pickle import read_plain_pickle
from muster.net.esync_http import FirstStateServer
from muster.net.journal import Entry, read
from muster.net.link import parsed
from muster.net.rpc import pb
from muster.net.state_messages import Kind as MessageKind
from muster.net.state_messages import Message, Status, decode
from muster.net.wire import Layout, WireError, codecs, compressed, decompress, encode, expand, mapped
from muster.uploads.half import Half
from muster.uploads.qsgd import QSGD
from muster.uploads.quantise import Quantise
from muster.uploads.top_k import TopK

SIZE = 300
"""Numbers of the update whose bytes are damaged."""
QUOTA = 8 << 20
"""Bytes that a decoder may have in memory at once, whatever it is fed: these messages have a few thousand."""
TRACED = 50
"""Of so many inputs one is traced, which takes several times as long."""
EXTREMES = (0, 1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"{}",
    b"[]",
    b'""',
    b"9" * 400,
    b"[" * 3000,
    b"\x00",
    b"\xff",
)


@dataclass(frozen=True)
class Target:
    """A decoder: how whole messages look, what reads them, and which error says that one is damaged."""

    name: str
    whole: Sequence[bytes]
    read: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    text: bool = False
    hostile: Sequence[bytes] = ()
    """Messages to begin with that are to be refused as they are."""


def changed(draw: random.Random, whole: Sequence[bytes], text: bool) -> bytes:
    """One to four changes of one of the whole messages."""
    data = bytearray(draw.choice(whole))
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randint(0, len(data)), draw.choice(whole)
        size = min(draw.choice((1, 2, 4, 8, 64)), len(data) - at)
        match draw.randrange(8 if text else 7):
            case 0 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                del data[at : at + size]
            case 2:
                data[at:at] = draw.randbytes(draw.choice((1, 4, 64)))
            case 3:
                data[at:at] = data[at : at + size] * draw.choice((2, 100))
            case 4:
                data[at:] = other[draw.randint(0, len(other)) :]
            case 5:
                del data[at:]
            case 6:
                number, width = draw.choice(EXTREMES), draw.choice((1, 2, 4, 8))
                data[at : at + width] = (number % 256**width).to_bytes(width, draw.choice(("little", "big")))
            case _:
                data[at : at + size] = draw.choice(WORDS)
    return bytes(data)


def targets(folder: Path) -> list[Target]:
    """Everything that reads bytes that came over the network, from a journal, or from a trace of others."""
    return [*_updates(folder), *_messages(), _journal(folder), *_texts(), _pickle()]


def _updates(folder: Path) -> list[Target]:
    vector = np.random.default_rng(0).standard_normal(SIZE).astype(np.float32)
    found = []
    file, raw = folder / "in", folder / "out"
    for rule in (None, Half(), Quantise(), QSGD(5), TopK(0.1)):
        layout = Layout((("delta", SIZE), ("control", SIZE)), rule)
        sent = vector if rule is None else rule.encode(vector, np.random.default_rng(1))
        plain = b"".join(encode(layout, {"delta": sent, "control": sent}))

        def update(data: bytes, layout: Layout = layout) -> None:
            file.write_bytes(data)
            if layout.rule is None:
                mapped(file, layout)
            else:
                expand(file, layout, raw)
                assert raw.stat().st_size <= Layout(layout.vectors).max_bytes

        found.append(
            Target(f"update, {rule.part_name() if rule else 'whole'}", [plain], update, (WireError,))
        )
    bomb = b"".join(compressed(iter([bytes(1 << 20)] * 64)))

    def unpack(data: bytes) -> None:
        file.write_bytes(data)
        decompress(file, raw, 100_000)

    packed = [b"".join(compressed(iter([plain])))]
    return [*found, Target("update, zstd", packed, unpack, (WireError,), hostile=[bomb])]


def _messages() -> list[Target]:
    caller = pb.Caller(client=3, session=b"s" * 16)
    report = pb.Report(num_examples=40, num_steps=2, loss=0.5, secs=1.5)
    head = pb.UploadHead(
        caller=caller, ticket=7, nonce=b"n" * 16, offset=5, total_bytes=900, sha256="a" * 64, report=report
    )
    messages = [
        pb.JoinRequest(name="client-1", instance=b"i" * 16, protocol_max=1, num_examples=9, codecs=codecs()),
        pb.AwaitRequest(caller=caller, pending=[1, 2, 3]),
        pb.UploadPart(head=head),
        pb.DownloadRequest(caller=caller, ticket=7, offset=1 << 20),
        pb.BeatRequest(caller=caller, ticket=7),
        pb.FailRequest(caller=caller, ticket=7, error="e", traceback="t" * 300),
    ]
    return [
        Target(type(m).__name__, [m.SerializeToString()], type(m).FromString, (DecodeError,))
        for m in messages
    ]


def _journal(folder: Path) -> Target:
    entry = Entry(
        10, Kind.ARRIVED, client=1, ticket=2, steps=3, secs=0.5, reason=Reason.NONE, more={"sha256": "a"}
    )
    bodies = [json.dumps(entry.to_json()).encode(), b'{"note": {"made": 3, "sha256": "ab"}}']
    file = folder / "journal.jsonl"

    def lines(data: bytes) -> None:
        mended = (b"%08x %s" % (zlib.crc32(line[9:]), line[9:]) for line in data.split(b"\n"))
        file.write_bytes(data if zlib.crc32(data) % 2 else b"\n".join(mended))
        list(read(file))

    whole = [b"".join(b"%08x %s\n" % (zlib.crc32(body), body) for body in bodies)]
    return Target("journal", whole, lines, (RunFolderError,), text=True)


def _texts() -> list[Target]:
    bodies = [Message(kind, Status(1, 2, 3, 0.5, 0.1, 3.0), 1).encode() for kind in MessageKind]

    def shim(data: bytes) -> None:
        server = FirstStateServer(lambda: 0.0)
        server.init(b"num_workers=3&epsilon=0.5")
        for does in (server.init, server.apply, server.reset):
            with suppress(UserError):
                does(data)
        json.dumps(server.shown(), allow_nan=False)

    forms = [b"num_workers=4&epsilon=0.5", b"r=1&k=2&c=0.5&te=3.5", b"r=0&t=1&te=2.0"]
    return [
        Target("state message", bodies, decode, (UserError,), text=True),
        Target("first state server", forms, shim, (UserError,), text=True),
        Target(
            "recipe",
            bodies,
            lambda data: parsed(data.decode("utf-8", "replace"), "recipe"),
            (MusterError,),
            True,
        ),
    ]


def _pickle() -> Target:
    import pickle  # noqa: TID251  to write what is to be read without it

    trace = {1: {"computation": 153, "communication": 2209.6}, 2: {"active": [1, 2], "inactive": (3, 4)}}
    whole = [pickle.dumps(trace, protocol) for protocol in range(6)]
    return Target("pickle of a trace", whole, lambda data: read_plain_pickle(data, "trace"), (DataError,))


def tried(target: Target, data: bytes, *, traced: bool) -> str:
    """What is wrong with how a decoder takes an input; "" for nothing."""
    if traced:
        tracemalloc.start()
    try:
        target.read(data)
    except target.allowed:
        pass
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
    return f"{peak:,} bytes in memory" if peak > QUOTA else ""


def fuzz(inputs: int, seed: int) -> tuple[dict[str, int], list[str]]:
    """Feeds so many inputs, the same number to each decoder; how many each got, and the findings."""
    counts, findings = {}, []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        listed = targets(Path(folder))
        for target in listed:
            draw, count = random.Random(f"{seed} {target.name}"), -(-inputs // len(listed))
            wrong = []
            for whole in target.whole:
                try:
                    target.read(whole)
                except Exception as error:
                    wrong.append(f"{target.name}: refuses a whole message: {error!r}")
            begin = [*target.whole, *target.hostile]
            for number in range(count):
                data = changed(draw, begin, target.text) if number >= len(begin) else begin[number]
                if why := tried(target, data, traced=number % TRACED == 0):
                    wrong.append(f"{target.name}: {why}: {data[:200]!r}")
            counts[target.name] = count
            findings += wrong
    return counts, findings


def main() -> None:
    """Fuzzes and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts, findings = fuzz(args.inputs, args.seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    for finding in findings[:50]:
        print(finding)
    print(
        f"{sum(counts.values()):,} inputs to {len(counts)} decoders in {time.monotonic() - began:.0f} s: "
        f"{len(findings)} findings; the process grew by {grown:.0f} MB at its peak"
    )
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
