"""The run's loop beside the network: leases that end, and a disk that is full for some."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from muster.core.tables import Kind
from muster.net.hub import Hub


def test_a_client_that_leaves_while_another_is_being_lost_does_not_end_the_watch() -> None:
    """Nobody would be lost any more."""
    lost: list[int] = []

    async def work() -> None:
        async def submit(kind: Kind, *, client: int, **_: Any) -> None:
            assert kind == Kind.LEFT
            hub.heard.pop(2, None)  # 2 says goodbye meanwhile
            lost.append(client)

        members = {client: SimpleNamespace(name=f"client-{client}") for client in (1, 2, 3)}
        hub = SimpleNamespace(
            deploy=SimpleNamespace(lease_secs=0.05),
            heard={1: 0.0, 2: 0.0},
            conductor=SimpleNamespace(roster=SimpleNamespace(members=members), task_of=lambda client: None),
            say=lambda line: None,
            submit=submit,
        )
        watch = asyncio.create_task(Hub._watch(hub))  # type: ignore[arg-type]
        while lost != [1]:
            await asyncio.sleep(0.005)
        hub.heard[3] = 0.0
        while lost != [1, 3]:
            assert not watch.done(), watch.exception()
            await asyncio.sleep(0.005)
        watch.cancel()

    asyncio.run(asyncio.wait_for(work(), 20))


def full_until(room: asyncio.Event) -> Any:
    def write() -> str:
        if not room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"

    return write


def test_a_disk_that_has_room_for_small_things_is_full_until_the_large_ones_are_through() -> None:
    async def work() -> None:
        said: list[str] = []
        hub: Any = SimpleNamespace(paused="", _num_full=0, say=said.append)
        room = asyncio.Event()
        large = [asyncio.create_task(Hub.with_space(hub, full_until(room))) for _ in range(2)]
        while hub._num_full < 2:
            await asyncio.sleep(0.005)
        for _ in range(3):
            assert await Hub.with_space(hub, lambda: "small") == "small"
        assert "the disk is full" in hub.paused and len(said) == 1
        room.set()
        assert await asyncio.gather(*large) == ["written", "written"]
        assert hub.paused == "" and said[1:] == ["there is room on the disk again: the run goes on"]

    asyncio.run(asyncio.wait_for(work(), 20))


def test_who_gives_up_waiting_for_room_does_not_say_that_there_is_some() -> None:
    async def work() -> None:
        said: list[str] = []
        hub: Any = SimpleNamespace(paused="", _num_full=0, say=said.append)
        gone = asyncio.create_task(Hub.with_space(hub, full_until(asyncio.Event())))
        while not hub.paused:
            await asyncio.sleep(0.005)
        gone.cancel()
        with suppress(asyncio.CancelledError):
            await gone
        assert (hub.paused, hub._num_full, len(said)) == ("", 0, 1)

    asyncio.run(asyncio.wait_for(work(), 20))
