"""What stands in front of every HTTP service: tokens, headers, health, limits, TLS that follows rotation."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from muster.core.errors import UserError
from muster.net import access, certs, web
from muster.net.access import Audit, Gatekeeper
from muster.net.credentials import LiveIdentity

Talk = Callable[[httpx.AsyncClient], Awaitable[None]]


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def talk(check: web.Check | None, to: Talk, ready: bool = True) -> None:
    """Talks to an application with one page, without a socket."""

    async def talked() -> None:
        app = web.application([Route("/", _hello)], check, lambda: ready)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=("10.0.0.9", 1)), base_url="http://test"
        ) as client:
            await to(client)

    asyncio.run(talked())


def test_without_the_token_there_is_nothing() -> None:
    async def to(client: httpx.AsyncClient) -> None:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "muster-token=wrong"}):
            answer = await client.get("/", headers=headers)
            assert answer.status_code == 401 and "hello" not in answer.text
        assert (await client.get("/nothing")).status_code == 401
        assert (await client.get("/", headers={"Authorization": "Bearer secret"})).text == "hello"

    talk(web.one_token("secret"), to)


def test_a_token_in_the_address_moves_into_a_cookie() -> None:
    async def to(client: httpx.AsyncClient) -> None:
        answer = await client.get("/?token=secret")
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert (await client.get("/")).text == "hello"

    talk(web.one_token("secret"), to)


def test_every_answer_carries_the_headers() -> None:
    async def to(client: httpx.AsyncClient) -> None:
        for path in ("/", "/?token=secret", "/healthz"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"

    talk(web.one_token("secret"), to)


@pytest.mark.parametrize(("ready", "code"), [(True, 200), (False, 503)])
def test_health_and_readiness_need_no_token(ready: bool, code: int) -> None:
    async def to(client: httpx.AsyncClient) -> None:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == code

    talk(web.one_token("secret"), to, ready)


def test_roles_and_the_limit_of_failures_reach_http(tmp_path: Path) -> None:
    viewer = access.add_token(tmp_path, "v", role="viewer")
    client_token = access.add_token(tmp_path, "c")
    keeper = Gatekeeper(tmp_path, Audit(tmp_path / "audit.jsonl"))

    async def to(client: httpx.AsyncClient) -> None:
        async def code(token: str) -> int:
            return (await client.get("/", headers={"Authorization": f"Bearer {token}"})).status_code

        assert await code(viewer) == 200
        assert await code(client_token) == 403
        assert [await code("wrong") for _ in range(10)] == [401] * 9 + [429]
        assert await code(viewer) == 200

    talk(web.tokens_of(keeper, ["viewer"]), to)
    assert '"address": "10.0.0.9"' in (tmp_path / "audit.jsonl").read_text()


def test_a_body_is_read_up_to_its_limit() -> None:
    async def pieces() -> None:
        class Endless:
            async def stream(self):  # type: ignore[no-untyped-def]
                while True:
                    yield b"x" * 100

        await web.body_of(Endless(), 1000)  # type: ignore[arg-type]

    with pytest.raises(UserError, match="longer than the 1000 bytes"):
        asyncio.run(pieces())


def test_a_new_connection_meets_the_rotated_certificate(tmp_path: Path) -> None:
    certs.init(tmp_path)
    server = web.tls_context(LiveIdentity(tmp_path, "server"))
    client = ssl.create_default_context(cafile=tmp_path / "ca.crt")

    def shown() -> bytes | None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = (
            client.wrap_bio(to_client, to_server, server_hostname="localhost"),
            server.wrap_bio(to_server, to_client, server_side=True),
        )
        for _ in range(3):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        return ends[0].getpeercert(binary_form=True)

    first = shown()
    assert first == shown()
    certs.rotate(tmp_path, "server")
    assert shown() not in (first, None)
