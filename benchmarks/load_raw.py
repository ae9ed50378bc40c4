"""A bare gRPC server that takes streams of bytes: what Muster's uploads are compared with.

    python benchmarks/load_raw.py FOLDER

It prints its port. `/raw/Count` counts the bytes and drops them; `/raw/Keep` writes each stream to a file of
its own, hashes it with SHA-256 and has it synced before it answers, which a server that keeps its word must.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from muster.net.rpc import CHUNK

OPTIONS = (("grpc.max_receive_message_length", 4 * CHUNK),)


async def count(parts: AsyncIterator[bytes], context: Any) -> bytes:
    """The number of bytes that came."""
    total = 0
    async for part in parts:
        total += len(part)
    return str(total).encode()


class Keeper:
    """Writes streams to files."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count()

    async def keep(self, parts: AsyncIterator[bytes], context: Any) -> bytes:
        """The same, when they are on the disk; the file is removed then."""
        path, digest, total = self._folder / f"{next(self._numbers)}.bytes", hashlib.sha256(), 0
        with path.open("wb", buffering=0) as file:
            async for part in parts:
                digest.update(part)
                await asyncio.to_thread(file.write, part)
                total += len(part)
            await asyncio.to_thread(os.fsync, file.fileno())
        path.unlink()
        return str(total).encode()


async def serve(folder: Path) -> None:
    """Listens until it is ended."""
    server = grpc.aio.server(options=OPTIONS)
    table = {
        "Count": grpc.stream_unary_rpc_method_handler(count),
        "Keep": grpc.stream_unary_rpc_method_handler(Keeper(folder).keep),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("raw", table),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
