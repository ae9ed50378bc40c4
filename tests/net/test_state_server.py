"""The state server as a service: queue, router, HTTP, TLS and tokens; real sockets where they matter."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from muster.core.errors import AccessError, UserError
from muster.net import access, certs, web
from muster.net.access import Audit, Gatekeeper
from muster.net.credentials import LiveIdentity
from muster.net.esync_http import FirstStateServer
from muster.net.ports import listening
from muster.net.state_client import StateClient
from muster.net.state_messages import Action, Kind, Message, Status
from muster.net.state_server import StateServer
from muster.net.state_service import application
from muster.net.state_table import StaleError


class Running:
    """A state server in a thread, and clients for it."""

    def __init__(self, certificates: Path | None = None) -> None:
        self.server, self.port, self._folder = StateServer(), 0, certificates
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def client(self, rank: int, token: str | None = None) -> StateClient:
        roots = None if self._folder is None else (self._folder / "ca.crt").read_bytes()
        return StateClient("127.0.0.1", self.port, rank, roots=roots, token=token)

    @contextmanager
    def __call__(self) -> Iterator[Running]:
        listener = listening("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        check, tls = None, None
        if self._folder is not None:
            tls = web.tls_context(LiveIdentity(self._folder, "server"))
            keeper = Gatekeeper(self._folder, Audit(self._folder / "audit.jsonl"))
            check = web.tokens_of(keeper, ["client"])
        started, app = (
            threading.Event(),
            application(self.server, FirstStateServer(), check, self.server.working),
        )

        async def serve() -> None:
            task = asyncio.ensure_future(web.serve(app, listener, tls))
            self._stop = (asyncio.get_running_loop(), task)
            started.set()
            with suppress(asyncio.CancelledError):
                await task
            listener.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert started.wait(10)
        try:
            yield self
        finally:
            loop, task = self._stop or pytest.fail("it did not start")
            loop.call_soon_threadsafe(task.cancel)
            thread.join(10)
            assert not thread.is_alive()


def test_two_workers_over_a_socket() -> None:
    with Running()() as running:
        fast, slow = running.client(0), running.client(1)
        fast.reset(2, num_rounds=1)
        assert fast.report(0, 0.5) is Action.TRAIN
        assert slow.report(0, 60.0) is Action.TRAIN
        assert slow.query(0, 0, 60.0, 0.0) == (Action.TRAIN, 1)
        action, steps = fast.query(0, 0, 0.5, 0.0)
        assert action is Action.TRAIN and 100 <= steps <= 120
        assert slow.query(0, 1, 60.0, 0.0)[0] is Action.SYNC
        assert fast.query(0, steps, 0.5, 0.0)[0] is Action.SYNC
        assert fast.report(1) is Action.STOP
        with pytest.raises(StaleError, match="is late"):
            fast.report(0)
        with pytest.raises(UserError, match="1 to 4096 workers"):
            fast.reset(0)
        fast.close()
        slow.close()
    assert running.server.num_handled == {"RESET": 1, "REPORT": 3, "QUERY": 4, "refused": 2}


def test_a_second_process_of_a_rank_takes_over() -> None:
    with Running()() as running:
        first, second = running.client(0), running.client(0)
        first.reset(1)
        first.report(0, 1.0)
        second.report(0, 1.0)
        assert (first.generation, second.generation) == (1, 2)
        with pytest.raises(StaleError, match="generation 2"):
            first.query(0, 1, 1.0, 0.0)
        first.close()
        second.close()


def test_tls_and_tokens_of_clients(tmp_path: Path) -> None:
    certs.init(tmp_path)
    good, viewer = access.add_token(tmp_path, "w0"), access.add_token(tmp_path, "v", role="viewer")
    with Running(tmp_path)() as running:
        worker = running.client(0, good)
        worker.reset(1)
        certs.rotate(tmp_path, "server")
        again = running.client(0, good)
        assert again.report(0, 1.0) is Action.TRAIN  # a new connection meets the new certificate
        assert worker.report(0, 1.0) is Action.TRAIN  # the open one goes on
        for token, said in ((viewer, "role viewer"), ("wrong", "not known"), (None, "no token")):
            stranger = running.client(0, token)
            with pytest.raises(AccessError, match=said):
                stranger.report(0)
            stranger.close()
        worker.close()
        again.close()


def test_the_endpoints_of_2019_over_http() -> None:
    import httpx

    async def talk() -> None:
        transport = httpx.ASGITransport(application(StateServer(), FirstStateServer(), None))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def post(path: str, **form: float) -> httpx.Response:
                return await client.post(path, data=form)

            assert (await post("/init/", num_workers=2, epsilon=0)).content == b""
            assert (await post("/apply/", r=1, k=0, c=8, te=1.0)).json() == {"ready": 0}
            assert (await post("/apply/", r=1, k=1, c=8, te=9.0)).json() == {"ready": 1}
            assert (await post("/apply/", r=0, k=1, c=1, te=9.0)).json() == {"ready": 1}
            assert (await post("/reset/", r=0, t=2, te=9.0)).content == b""
            assert (await client.get("/")).json()["t"] == 2
            assert (await post("/apply/", r=7)).status_code == 400
            assert (await client.post("/apply/", content=b"x" * 10_000)).status_code == 400
            assert (await client.get("/healthz")).text == "ok"
            assert (await client.get("/table")).json()["workers"] == []

    asyncio.run(talk())


def test_messages_are_handled_in_the_order_in_which_they_came() -> None:
    async def both() -> list[Message | BaseException]:
        server = StateServer(clock=lambda: 0)
        reset = Message(Kind.RESET, Status(0), num_workers=1)
        asked = [reset, Message(Kind.REPORT, Status(0, computation_time=1.0)), Message(Kind.QUERY, Status(0))]
        waiting = [asyncio.ensure_future(server.ask(message)) for message in asked]
        await asyncio.sleep(0)
        task = asyncio.ensure_future(server.serve())
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        task.cancel()
        return answers

    answers = asyncio.run(both())
    assert [a.action for a in answers if isinstance(a, Message)] == [Action.TRAIN] * 3


def test_a_response_is_not_what_a_server_takes() -> None:
    with pytest.raises(UserError, match="takes RESET, REPORT and QUERY"):
        StateServer().handle(Message(Kind.RESPONSE, Status(0)))


def test_a_state_server_that_is_away_or_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=rf"at 127\.0\.0\.1:{port} .*deploy\.call_secs = 0\.1 s, twice"):
            StateClient("127.0.0.1", port, 0, call_secs=0.1).report(0)
    with pytest.raises(UserError, match=rf"at 127\.0\.0\.1:{port} is not reached .*[Rr]efused"):
        StateClient("127.0.0.1", port, 0).report(0)
