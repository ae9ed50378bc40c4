"""Transfers take turns: what they take of the server's memory does not grow with how many come at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from .rpc import CHUNK, PIECE

MOST = 32
"""Uploads that have a turn at once. Each takes up to 1.6 MB while its messages come, and so few keep two
cores and a disk busy: docs/benchmarks.md, "A server under load"."""

SLOW_SECS = PIECE / CHUNK
"""A client whose next message takes longer, who sends less than CHUNK bytes a second, is not held up by the
server but by its own network. It holds up nobody either: its upload goes on without a turn."""


class Sending:
    """Messages of downloads that go out at once, `most`, in the order in which they were ready.

    A turn is a message long, since who waits for one holds nothing, and no download stands still. A message
    that its client does not take within SLOW_SECS holds up nobody: its turn is over, and it goes on alone.
    """

    def __init__(self, most: int = MOST) -> None:
        self._free = asyncio.Semaphore(most)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The block sends a message, when it is its turn."""
        await self._free.acquire()
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._free.release()

        timer = asyncio.get_running_loop().call_later(SLOW_SECS, end)
        try:
            yield
        finally:
            timer.cancel()
            end()


class Turns:
    """Who may upload now: so many at once, and of those that wait the oldest task first.

    A turn ends with its upload, or when its client does not use it, so who dies or stalls keeps none.

    Args:
        secs: How long one call waits for a turn, and a turn for the first message.
        most: Turns at once.

    """

    def __init__(self, secs: float, most: int = MOST) -> None:
        self._secs, self._most = secs, most
        self._held: dict[int, asyncio.TimerHandle] = {}
        """Ticket -> what ends its turn if nothing comes."""
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def take(self, ticket: int) -> bool:
        """Whether a task has its turn, now or within `secs`; whoever asks again keeps its place."""
        if ticket in self._held or len(self._held) < self._most:
            self._hold(ticket, self._secs)
            return True
        turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._secs):
                await turn
        except TimeoutError:
            return False
        finally:
            if self._waiting.get(ticket) is turn:  # else its client asks once more meanwhile
                del self._waiting[ticket]
        return True

    def end(self, ticket: int) -> None:
        """Ends a turn, if it is not over yet, and another begins."""
        if (timer := self._held.pop(ticket, None)) is None:
            return
        timer.cancel()
        able = [ticket for ticket, turn in self._waiting.items() if not turn.done()]
        if able:
            oldest = min(able)
            self._hold(oldest, self._secs)
            self._waiting.pop(oldest).set_result(None)

    @contextmanager
    def until_it_comes(self, ticket: int) -> Iterator[None]:
        """The next message of an upload is waited for in the block; if that takes long, its turn ends."""
        if ticket in self._held:
            self._hold(ticket, SLOW_SECS)
        try:
            yield
        finally:
            if ticket in self._held:
                self._held[ticket].cancel()

    def _hold(self, ticket: int, secs: float) -> None:
        if ticket in self._held:
            self._held[ticket].cancel()
        self._held[ticket] = asyncio.get_running_loop().call_later(secs, self.end, ticket)
