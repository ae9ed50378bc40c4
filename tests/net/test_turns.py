"""Whose turn it is to upload: the oldest task's, and never for longer than it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from muster.net import turns
from muster.net.turns import Sending, Turns

LONG = 60.0
"""Seconds that no test waits for."""


def asked(queue: Turns, *tickets: int) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(queue.take(ticket)) for ticket in tickets]


async def settled() -> None:
    """All that can go on without time passing has."""
    for _ in range(10):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_so_many_have_a_turn_and_then_the_oldest_task_whoever_asked_first() -> None:
    async def work() -> None:
        queue = Turns(LONG, most=2)
        tasks = asked(queue, 5, 6, 9, 7, 8)
        await settled()
        assert [task.done() for task in tasks] == [True, True, False, False, False]
        queue.end(5)
        await settled()
        assert [task.done() for task in tasks] == [True, True, False, True, False]
        queue.end(5)  # it had ended
        await settled()
        assert not tasks[2].done() and not tasks[4].done()
        queue.end(6)
        queue.end(7)
        assert all(await asyncio.gather(*tasks))

    run(work())


def test_who_has_waited_long_is_told_so_and_gets_its_turn_when_it_asks_again() -> None:
    async def work() -> None:
        queue = Turns(0.2, most=1)
        assert await queue.take(1)
        with queue.until_it_comes(1):
            pass  # it is being written: its turn does not end meanwhile
        assert not await queue.take(2)
        again, later = asked(queue, 2, 3)
        await settled()
        queue.end(1)
        assert await again and not later.done()
        later.cancel()

    run(work())


def test_a_turn_that_is_not_used_is_the_next_ones() -> None:
    async def work() -> None:
        queue = Turns(0.1, most=1)
        assert await queue.take(1)
        while not await queue.take(2):
            pass

    run(work())


def test_who_asks_again_while_it_has_a_turn_has_one_turn() -> None:
    async def work() -> None:
        queue = Turns(LONG, most=2)
        assert await queue.take(1) and await queue.take(1) and await queue.take(2)
        (third,) = asked(queue, 3)
        await settled()
        assert not third.done()
        queue.end(1)
        assert await third

    run(work())


def test_a_turn_ends_when_the_next_message_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SLOW_SECS", 0.05)

    async def work() -> None:
        queue = Turns(LONG, most=1)
        assert await queue.take(1)
        (second,) = asked(queue, 2)
        with queue.until_it_comes(1):
            await settled()
        await asyncio.sleep(0.2)  # it came in time, and is being written
        assert not second.done()
        with queue.until_it_comes(1):
            assert await second
        with queue.until_it_comes(1):  # it goes on without a turn, and the other keeps its own
            await asyncio.sleep(0.2)
        (third,) = asked(queue, 3)
        await settled()
        assert not third.done()
        third.cancel()

    run(work())


def test_who_went_away_while_it_waited_is_passed_over() -> None:
    async def work() -> None:
        queue = Turns(LONG, most=1)
        assert await queue.take(1)
        gone, here = asked(queue, 2, 3)
        await settled()
        gone.cancel()
        queue.end(1)
        assert await here

    run(work())


def test_a_call_that_is_made_again_takes_the_place_of_the_first() -> None:
    async def work() -> None:
        queue = Turns(0.2, most=1)
        assert await queue.take(1)
        with queue.until_it_comes(1):
            pass
        first, second = asked(queue, 2, 2)
        await asyncio.sleep(0.1)
        queue.end(1)
        assert await second and not await first

    run(work())


def test_messages_go_out_in_the_order_in_which_they_were_ready() -> None:
    async def work() -> None:
        sending, ends, out = Sending(most=2), [asyncio.Event() for _ in range(4)], list[int]()

        async def send(number: int) -> None:
            async with sending.turn():
                out.append(number)
                await ends[number].wait()

        tasks = [asyncio.create_task(send(number)) for number in range(4)]
        await settled()
        assert out == [0, 1]
        ends[1].set()
        await settled()
        assert out == [0, 1, 2]
        tasks[0].cancel()  # its client has gone
        await settled()
        assert out == [0, 1, 2, 3]
        for end in ends:
            end.set()
        await asyncio.gather(*tasks[1:])

    run(work())


def test_a_message_that_its_client_does_not_take_holds_up_nobody_and_ends_one_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SLOW_SECS", 0.05)

    async def work() -> None:
        sending, end = Sending(most=1), asyncio.Event()

        async def send(until: asyncio.Event) -> None:
            async with sending.turn():
                await until.wait()

        slow = asyncio.create_task(send(end))
        await settled()
        monkeypatch.setattr(turns, "SLOW_SECS", LONG)
        async with sending.turn():  # after SLOW_SECS
            assert not slow.done()
            end.set()
            await slow
            third = asyncio.create_task(send(end))
            await settled()
            assert not third.done()  # the slow one's end has freed nothing more
        await third

    run(work())
