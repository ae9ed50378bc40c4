"""ESync's state server: a queue, a router, and three handlers that write one table.

Messages wait in one FIFO queue and are handled one after another, so that the table needs no lock and every
answer is of a moment. For parameter servers of other makes: the table of a job that `muster serve` serves is
`muster.net.job_states`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from muster.core.errors import UserError

from .state_messages import Action, Kind, Message
from .state_table import NS, Answer, Rules, Table, lapsed, query, report, reset

MAX_QUEUED = 4096


class BusyError(UserError):
    """The queue is full."""


class StateServer:
    """The queue, the router and the table behind it.

    Args:
        rules: How it decides.
        clock: Nanoseconds, monotonic: the only time there is.
    """

    def __init__(self, rules: Rules = Rules(), clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.table = Table()
        self._rules, self._clock = rules, clock
        self._queue: asyncio.Queue[tuple[Message, asyncio.Future[Message]]] = asyncio.Queue(MAX_QUEUED)
        self.num_handled: dict[str, int] = {"RESET": 0, "REPORT": 0, "QUERY": 0, "refused": 0}

    @property
    def num_queued(self) -> int:
        """Messages that wait."""
        return self._queue.qsize()

    async def ask(self, message: Message, caller: str = "") -> Message:
        """Queues a message and waits for its RESPONSE; whoever may call may speak for any worker.

        Raises:
            BusyError: Too many messages wait.
            StaleError: The message belongs to a round, or a worker's life, that is over.
            UserError: It makes no sense.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((message, answer))
        except asyncio.QueueFull:
            raise BusyError(f"{MAX_QUEUED} messages wait already: ask again in a second") from None
        return await answer

    async def serve(self) -> None:
        """Takes message after message from the queue, until it is cancelled."""
        while True:
            message, answer = await self._queue.get()
            try:
                made = self.handle(message)
            except UserError as error:
                self.num_handled["refused"] += 1
                if not answer.cancelled():
                    answer.set_exception(error)
            else:
                if not answer.cancelled():
                    answer.set_result(made)

    @asynccontextmanager
    async def working(self, app: Any) -> AsyncIterator[None]:
        """An application's lifespan, in which messages are handled."""
        task = asyncio.create_task(self.serve())
        yield
        task.cancel()

    def handle(self, message: Message) -> Message:
        """The router: what a message does to the table, and what its sender is told."""
        now_ns, status = self._clock(), message.status
        table = lapsed(self.table, self._rules, now_ns)
        if message.msg_type is Kind.RESET:
            table, told = reset(message.num_workers, message.num_rounds, now_ns), Answer(Action.TRAIN)
        elif message.msg_type is Kind.REPORT:
            table, told = report(table, status, now_ns)
        elif message.msg_type is Kind.QUERY:
            table, told = query(table, status, self._rules, now_ns)
        else:
            raise UserError("a RESPONSE is what the state server sends; it takes RESET, REPORT and QUERY")
        self.table = table
        self.num_handled[message.msg_type] += 1
        return message.answer(told.action, told.steps, told.generation)

    def described(self) -> dict[str, Any]:
        """The table as JSON data, times in seconds, ages in place of instants."""
        now_ns = self._clock()
        rows = []
        for row in lapsed(self.table, self._rules, now_ns).rows.values():
            body = asdict(row)
            last = row.answered
            ages = {f"{name}_secs_ago": (now_ns - body.pop(f"{name}_ns")) / NS for name in ("heard", "stamp")}
            times = {f"{name}_secs": body.pop(f"{name}_ns") / NS for name in ("compute", "send")}
            rows.append(
                {**body, **times, **ages, "answered": last and {"action": last.action, "steps": last.steps}}
            )
        return {"round": self.table.round, "num_rounds": self.table.num_rounds, "workers": rows}
