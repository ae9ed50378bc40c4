"""How a leased task goes on: what gRPC's Progress and ESync's QUERY both ask the pace of the job."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from muster.core.tables import SECOND, Kind, Lease

from .hub import Hub

FINISH, OVER = 0, -1
"""In place of a number of steps: send what you have; the task is over."""


async def more_steps(
    hub: Hub, client: int, ticket: int, made: int, step_secs: float, send_secs: float
) -> int | None:
    """What a task does that has made `made` steps.

    Args:
        hub: The run.
        client: Who asks.
        ticket: The task.
        made: Steps so far.
        step_secs: What each took since it was last told. None can have taken longer than all of them.
        send_secs: What sending an update takes.

    Returns:
        So many more steps, FINISH or OVER; None if there is no answer within half of `deploy.call_secs`.
    """
    news, until = hub.news(client), time.monotonic() + hub.deploy.call_secs / 2
    while True:
        news.clear()
        row = hub.conductor.task_of(client)
        if row is None or row["ticket"][0] != ticket or hub.conductor.over:
            return OVER
        if row["lease"][0] != Lease.TRAINING:
            return FINISH
        steps, done = int(row["steps"][0]), int(row["done"][0])
        if (more := steps - made) > 0:
            return more
        if done < steps:
            most = (hub.now_ns() - int(row["since"][0])) / SECOND / (steps - done)
            await hub.submit(
                Kind.PROGRESSED,
                client=client,
                ticket=ticket,
                steps=steps,
                secs=min(step_secs, most),
                send_secs=send_secs,
                wait_secs=hub.waited_ns(row) / SECOND,
            )
        elif (left := until - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), left)
        else:
            return None
