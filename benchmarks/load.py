"""A real `muster serve` under load: a thousand idle clients; two hundred that upload 10 MB each at once.

    python benchmarks/load.py idle|rounds|memory|disk [--clients N] [--secs S] [--rounds N]

idle: the clients join at the same instant, then only wait for work and send heartbeats: how long admission
takes, what share of a core the server needs, its memory, how long an answer takes.
rounds: one synchronous round after another, and after each the same bytes to a bare gRPC server and, where
Flower is installed (load_flower.py says how), a round of its SuperLink with as many clients, in turn.
memory: the server's peak for models and numbers of clients of several sizes.
disk: updates that fill the disk (Linux and root: it mounts a tmpfs).
Clients share processes (load_swarm.py) and do not train; they and the server share the machine's cores.
Each part writes its own table in docs/benchmarks.md; `--dry` only prints it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from load_flower import FailedError, MissingError, installed, superlink
from load_processes import HERE, Process, serving, swarm
from marked import write_between

PAGE = HERE.parent / "docs/benchmarks.md"
MB = 1e6
DISK_MB = 50
HIDDEN = {0: [8], 1: [256, 900], 10: [1024, 2350], 40: [2048, 4750], 400: [10_000, 9_900]}
"""Hidden layers of digits' MLPs of so many MB."""


def quantile(values: list[float], q: float) -> float:
    """Of sorted values, the one that a share `q` of them do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))]


def idle(clients: int, secs: float) -> dict[str, Any]:
    """What `clients` cost that only wait; the run waits for one more than there are."""
    half = clients // 2
    with serving(clients=clients + 1, start_with=clients + 1, hidden=HIDDEN[0]) as (server, address):
        empty, threads = server.status("VmRSS"), server.status("Threads")
        with swarm("idle", address, half) as one, swarm("idle", address, clients - half, half) as other:
            for each in (one, other):
                each.write("join")
            joined = [each.answer() for each in (one, other)]
            time.sleep(2.0)
            early = [each.ask("beats") for each in (one, other)]
            cpu, began = server.cpu_secs(), time.monotonic()
            time.sleep(secs)
            share = (server.cpu_secs() - cpu) / (time.monotonic() - began)
            told = [heard(each) for each in (one, other)]
            found = {
                "rss": server.status("VmRSS"),
                "threads": server.status("Threads"),
                "peak": server.status("VmHWM"),
            }
    joins = [secs for each in joined for secs in each["joins"]]
    return {
        **found,
        "clients": clients,
        "empty": empty,
        "threads_empty": threads,
        "share": share,
        "joins": joins,
        "told_back": sum(each["told_back"] for each in joined),
        "early": [secs for each in early for secs in each["beats"]],
        "beats": [secs for each in told for secs in each["beats"]],
        "failed": [text for each in told for text in each["failed"]],
    }


def heard(each: Process) -> dict[str, Any]:
    """The heartbeats since the last question, and what failed; waits for one at least."""
    while True:
        told = each.ask("beats")
        if told["beats"] or told["failed"]:
            return told
        time.sleep(0.1)


def answers(when: str, beats: list[float]) -> str:
    """A line of the table of `idle`."""
    if not beats:  # of a few clients that have just joined
        return f"| heartbeats {when} | none |"
    said = ", ".join(
        f"{1e3 * secs:.1f}" for secs in (quantile(beats, 0.5), quantile(beats, 0.99), max(beats))
    )
    return f"| a heartbeat's answer {when}: median, p99, longest of {len(beats):,} | {said} ms |"


def told_idle(found: dict[str, Any]) -> str:
    """The table of `idle`."""
    joins, beats, clients = found["joins"], found["beats"], found["clients"]
    each = (found["rss"] - found["empty"]) / clients
    return "\n".join(
        [
            f"| {clients:,} clients that wait | |",
            "| --- | --- |",
            f"| joins at the same instant: admitted, failed calls | {len(joins):,}, {len(found['failed'])} |",
            f"| admission: median, p99, longest | {quantile(joins, 0.5):.2f}, {quantile(joins, 0.99):.2f}, "
            f"{max(joins):.2f} s |",
            f"| told to come back later | {found['told_back']:,} times |",
            f"| the server's share of one core | {100 * found['share']:.1f} % |",
            f"| its memory before and with them, peak | {found['empty'] / MB:.0f}, {found['rss'] / MB:.0f}, "
            f"{found['peak'] / MB:.0f} MB: {each / 1e3:.0f} kB a client |",
            f"| its threads before and with them | {found['threads_empty']}, {found['threads']} |",
            answers("while they join", found["early"]),
            answers("then", beats),
        ]
    )


def one_round(clients: Process, server: Process) -> dict[str, Any]:
    """One synchronous round of all clients, downloads first, and the server's figures of it."""
    server.reset_peak()
    down = clients.ask("round")
    peak_down, cpu = server.status("VmHWM"), server.cpu_secs()
    server.reset_peak()
    up = clients.ask("send")
    if up["said"] != ["taken"]:
        raise SystemExit(f"updates were not taken but {up['said']}")
    found = {"cpu": server.cpu_secs() - cpu, "peak": server.status("VmHWM"), "peak_down": peak_down}
    return {**down, **up, **found}


def rounds(clients: int, model: int, count: int, *, flower: bool) -> list[dict[str, Any]]:
    """Rounds, and after each the same bytes to the bare server, counted and kept, and a round of Flower's.

    Raises:
        MissingError: Flower is asked for and not installed.
    """
    told = []
    with (
        ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="muster-load-") as folder,
        serving(clients=clients, start_with=clients, hidden=HIDDEN[model], lease=120) as (server, address),
        swarm("rounds", address, clients) as ours,
    ):
        size = ours.answer()["size"]
        link = stack.enter_context(superlink(clients, size)) if flower else None
        bare, failed = Process(HERE / "load_raw.py", folder), ""
        try:
            where = f"127.0.0.1:{bare.line().strip()}"
            for _ in range(count):
                one = one_round(ours, server)
                with swarm("raw", where, clients, num_bytes=one["up_bytes"] // clients) as theirs:
                    theirs.answer()
                    for method in ("Count", "Keep"):
                        done = theirs.ask(method)
                        if done["up_bytes"] // clients != one["up_bytes"] // clients:
                            raise SystemExit(f"the bare server has {done['up_bytes']:,} bytes")
                        one[method] = done["secs_up"]
                one["flower"] = None
                if link is not None and not failed:
                    try:
                        one["flower"] = {"version": link.version, **link.round()}
                    except FailedError as error:
                        failed = f"Flower {link.version}: a round was {error}."
                one["flower failed"] = failed
                told.append(one)
                print({k: v for k, v in one.items() if k != "acks"}, flush=True)
        finally:
            bare.close()
    return told


def told_rounds(clients: int, told: list[dict[str, Any]]) -> str:
    """The table of `rounds`: medians over the rounds."""

    def median(values: Iterable[float]) -> float:
        return statistics.median(values)

    lines = [
        f"| {clients} clients, {told[0]['up_bytes'] / clients / MB:.1f} MB each | s | MB/s "
        "| of Muster's time |",
        "| --- | --- | --- | --- |",
    ]
    ours = median(one["secs_up"] for one in told)
    rows = [
        (told, "all download the model", "secs_down", "down_bytes", ""),
        (
            told,
            "all upload at once; synced, checked, folded, the next version made",
            "secs_up",
            "up_bytes",
            "",
        ),
        (told, "bare gRPC stream, bytes counted and dropped", "Count", "up_bytes", "secs_up"),
        (told, "bare gRPC stream, written, hashed, synced", "Keep", "up_bytes", "secs_up"),
    ]
    if (theirs := [one["flower"] for one in told if one["flower"]]) != []:
        name = f"Flower {theirs[0]['version']}, SuperLink"
        rows += [
            (theirs, f"{name}: all download the model", "secs_down", "down_bytes", "secs_down"),
            (theirs, f"{name}: all upload at once; kept in memory", "secs_up", "up_bytes", "secs_up"),
            (theirs, f"{name}: collected and averaged by its app too", "secs_made", "up_bytes", "secs_up"),
        ]
    for all_rounds, name, key, size, against in rows:
        secs = median(one[key] for one in all_rounds)
        rate = median(one[size] / one[key] / MB for one in all_rounds)
        ratios = [a[key] / b[against] for a, b in zip(all_rounds, told, strict=True)] if against else []
        part = f"{median(ratios):.2f}" if ratios else ""
        lines.append(f"| {name} | {secs:.2f} | {rate:.0f} | {part} |")
    acks = [secs for one in told for secs in one["acks"]]
    whole = median(one["secs_tasks"] + one["secs_down"] + one["secs_up"] for one in told)
    lines += [
        "",
        f"{1 / whole:.3f} rounds a second ({len(told)} rounds, medians). Acknowledgements: median "
        f"{quantile(acks, 0.5):.1f} s, the last after {ours:.1f} s. The server used "
        f"{median(one['cpu'] for one in told):.1f} s of CPU while updates came; its peak was "
        f"{max(one['peak'] for one in told) / MB:.0f} MB then, "
        f"{max(one['peak_down'] for one in told) / MB:.0f} MB while models went out.",
    ]
    if failed := told[-1]["flower failed"]:
        lines += ["", failed]
    if theirs:
        whole = median(one["secs_tasks"] + one["secs_down"] + one["secs_made"] for one in theirs)
        acks = [secs for one in theirs for secs in one["acks"]]
        lines += [
            "",
            f"Flower: {1 / whole:.3f} rounds a second, acknowledgements in the median after "
            f"{quantile(acks, 0.5):.1f} s; SuperLink and app used {median(one['cpu'] for one in theirs):.1f} "
            f"s of CPU from the first upload to the next version. The SuperLink's peak was "
            f"{max(one['peak'] for one in theirs) / MB:.0f} MB then, "
            f"{max(one['peak_down'] for one in theirs) / MB:.0f} MB while models went out; its app's "
            f"{max(one['peak_app'] for one in theirs) / MB:.0f} MB.",
        ]
    return "\n".join(lines)


def disk() -> str:
    """A run whose folder is on a disk that four updates of 10 MB fill, until there is room."""
    with (
        small_disk() as folder,
        serving(folder, clients=4, start_with=4, hidden=HIDDEN[10], lease=120) as (_, address),
        swarm("rounds", address, 4) as clients,
    ):
        clients.answer()
        size = clients.ask("round")["down_bytes"] / 4
        clients.write("send")
        log = next(folder.glob("*/run")) / "log.txt"
        until = time.monotonic() + 60
        while not log.exists() or "the disk is full: the run waits" not in log.read_text(errors="replace"):
            if time.monotonic() > until:
                raise SystemExit(f"{log} does not say that the disk is full")
            time.sleep(0.1)
        left = shutil.disk_usage(folder).free
        time.sleep(2.0)
        subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)
        began, said = time.monotonic(), clients.answer()["said"]
        secs = time.monotonic() - began
        clients.ask("round")
    return (
        f"A run folder on a tmpfs of {DISK_MB} MB, four updates of {size / MB:.0f} MB at once: with "
        f"{left / MB:.1f} MB free the run said that it waits. {secs:.1f} s after the tmpfs had been made "
        f"larger all updates were {', '.join(said)}, and the next round began."
    )


@contextmanager
def small_disk() -> Iterator[Path]:
    """A tmpfs, which root alone can mount."""
    with tempfile.TemporaryDirectory(prefix="muster-load-") as name:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", name], check=True)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def memory(count: int) -> str:
    """The server's peak by model and by clients."""
    lines = [
        "| model MB | clients | kept in | server's MB, waiting | while models go out | while updates come "
        "| peak, MB more for each MB of model than in the line above |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    kinds = ((10, (0, 10, 40), "memory"), (50, (0, 10, 40), "memory"), (200, (0, 10), "memory"))
    for clients, models, place in (*kinds, (2, (10, 400), "memory"), (2, (10, 400), "files")):
        most = 0 if place == "files" else "null"
        before: tuple[float, float] | None = None
        for model in models:
            with (
                serving(
                    clients=clients, start_with=clients, hidden=HIDDEN[model], lease=120, memory=most
                ) as (server, address),
                swarm("rounds", address, clients) as ours,
            ):
                ours.answer()
                waiting = server.status("VmRSS")
                told = [one_round(ours, server) for _ in range(count)]
            size = told[0]["up_bytes"] / clients
            peak = max(max(one["peak"], one["peak_down"]) for one in told)
            down, up = (max(one[key] for one in told) for key in ("peak_down", "peak"))
            more = "" if before is None else f"{(peak - before[0]) / (size - before[1]):.1f}"
            before = peak, size
            lines.append(
                f"| {size / MB:.2f} | {clients} | {place} | {waiting / MB:.0f} | {down / MB:.0f} "
                f"| {up / MB:.0f} | {more} |"
            )
            print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measures a part, prints and writes its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("idle", "rounds", "memory", "disk"))
    parser.add_argument("--clients", type=int, help="1,000 idle, 200 in rounds")
    parser.add_argument("--model", type=int, default=10, choices=list(HIDDEN), help="MB")
    parser.add_argument("--secs", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    if args.part == "idle":
        found = idle(args.clients or 1000, args.secs)
        for text in sorted(set(found["failed"]))[:5]:
            print(text)
        text = told_idle(found)
    elif args.part == "rounds":
        clients = args.clients or 200
        try:
            installed()
        except MissingError as error:
            print(error)
            here = False
        else:
            here = True
        text = told_rounds(clients, rounds(clients, args.model, args.rounds, flower=here))
    elif args.part == "disk":
        text = disk()
    else:
        text = memory(args.rounds)
    print(text)
    if not args.dry:
        write_between(PAGE, f"load {args.part}", text)


if __name__ == "__main__":
    main()
