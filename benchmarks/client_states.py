"""Memory of the clients' lasting states: 100,000 clients of SCAFFOLD, each with a control variate.

    python benchmarks/client_states.py [--clients 100000] [--numbers 2000]

Writes every client's state through the client store as a run does, reads some back, and prints the growth of
the process's resident memory beside the size of the states. Writes the line to docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path

import numpy as np
from marked import write_between

from muster.core.store import ClientStore, decode, encode

ROOT = Path(__file__).parent.parent


def resident_bytes() -> int:
    """Of this process, now."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def main() -> None:
    """Writes, reads, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--numbers", type=int, default=2_000, help="float32 numbers in each client's state")
    args = parser.parse_args()
    store, state = ClientStore(), np.zeros(args.numbers, np.float32)
    store.write(0, encode({"control": state}))
    gc.collect()
    before, begin = resident_bytes(), time.process_time()
    for client in range(args.clients):
        state[:] = client
        store.write(client, encode({"control": state}))
        if client % 64 == 0:
            store.mark()  # the end of a version
    secs = time.process_time() - begin
    for client in range(0, args.clients, 997):
        kept = store.read(client)
        assert kept is not None and decode(kept)["control"][0] == client
    gc.collect()
    grown = resident_bytes() - before
    on_disk = 4 * args.numbers * args.clients
    store.close()
    text = (
        f"{args.clients:,} states of {args.numbers:,} numbers, {on_disk / 1e6:,.0f} MB on disk: resident "
        f"memory grew by {grown / 1e6:.0f} MB ({grown / args.clients:.0f} bytes a client); "
        f"{secs / args.clients * 1e6:.0f} microseconds of CPU to encode and write one."
    )
    print(text)
    write_between(ROOT / "docs/benchmarks.md", "client_states", text)


if __name__ == "__main__":
    main()
