"""What the HTTP services share: TLS that follows rotated certificates, tokens, headers, health, limits."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import AbstractAsyncContextManager, nullcontext
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from muster.core.errors import AccessError, UserError

from .access import Gatekeeper, same_secret
from .credentials import LiveIdentity
from .settings import Deploy
from .state_messages import MAX_BYTES

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import BaseRoute

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]
Check = Callable[[str, str, str, bytes], str]
"""(token, the caller's address, what it asks for, its certificate as PEM or nothing): returns the caller's
name, empty where it may speak for everybody; or raises AccessError."""

OPEN = ("/healthz", "/readyz")
"""Paths that need no token: they say one word."""
COOKIE = "muster-token"
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def one_token(secret: str) -> Check:
    """Lets in whoever shows this token."""

    def check(token: str, address: str, what: str, shown: bytes) -> str:
        if not same_secret(token, secret):
            raise AccessError("UNAUTHENTICATED", "give the token that the server printed: ?token=TOKEN")
        return ""

    return check


def tokens_of(keeper: Gatekeeper, roles: Iterable[str]) -> Check:
    """Lets in whoever shows a certificate, or a token of a folder's access.json, with one of `roles`."""
    wanted = tuple(roles)

    def check(token: str, address: str, what: str, shown: bytes) -> str:
        certificate = {"x509_pem_cert": [shown]} if shown else {}
        peer = keeper.admit(certificate, [("authorization", f"Bearer {token}")], address, what, wanted)
        return "" if peer.role == "admin" else peer.name

    return check


class Gate:
    """In front of an application: asks for a token, and adds the headers that keep a browser careful.

    The token comes as `Authorization: Bearer`, or once as `?token=`, which is put into a cookie and taken
    out of the address, so that it does not stay in a history. A certificate does as well. The caller's name
    is the request's `user`.
    """

    def __init__(self, app: App, check: Check | None) -> None:
        self._app, self._check = app, check

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def careful(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        answer = None if self._check is None or scope["path"] in OPEN else self._refusal(scope)
        await (answer or self._app)(scope, receive, careful)

    def _refusal(self, scope: Scope) -> App | None:
        from starlette.responses import JSONResponse, RedirectResponse

        assert self._check is not None
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        in_address = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        kind, _, bearer = headers.get(b"authorization", "").partition(" ")
        token = (bearer if kind == "Bearer" else "") or in_address or _cookie(headers.get(b"cookie", ""))
        try:
            chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
            address = (scope.get("client") or ("unknown", 0))[0]
            scope["user"] = self._check(token, address, scope["path"], "".join(chain).encode())
        except AccessError as error:
            status = {"PERMISSION_DENIED": 403, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503}.get(
                error.code, 401
            )
            return JSONResponse({"error": str(error)}, status)
        if in_address and scope["method"] == "GET" and not bearer:
            moved = RedirectResponse(scope["path"], 303)
            secure = scope["scheme"] == "https"
            moved.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
            return moved
        return None


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def body_of(request: Request, most: int = MAX_BYTES) -> bytes:
    """A request's body.

    Raises:
        UserError: It is longer than `most` bytes; the rest is not read.
    """
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise UserError(f"the body is longer than the {most} bytes that are read")
    return content


def application(
    routes: Iterable[BaseRoute],
    check: Check | None,
    ready: Callable[[], bool] = lambda: True,
    lifespan: Callable[[Any], AbstractAsyncContextManager[None]] | None = None,
) -> App:
    """An application of `routes` behind a Gate, with `/healthz` (it runs) and `/readyz` (it can serve)."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def healthy(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    async def is_ready(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ready") if ready() else PlainTextResponse("not ready", 503)

    inner: Starlette = Starlette(
        routes=[Route("/healthz", healthy), Route("/readyz", is_ready), *routes], lifespan=lifespan
    )
    return Gate(inner, check)


def tls_context(live: LiveIdentity, *, mutual: bool = False) -> ssl.SSLContext:
    """TLS for a server whose new connections follow a rotated certificate.

    Args:
        live: The server's identity.
        mutual: Whether callers are asked for a certificate; who has none needs a token.
    """
    made = [(live.current(), _context(live, mutual))]

    def newest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if live.current() is not made[0][0]:
            made[0] = (live.current(), _context(live, mutual))
        connection.context = made[0][1]

    made[0][1].sni_callback = newest
    return made[0][1]


def _context(live: LiveIdentity, mutual: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(*live.files())
    if mutual:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=live.current().roots.decode("ascii"))
    return context


def run(app: App, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
    """Serves until SIGTERM or SIGINT; requests that are under way are finished first (10 s)."""
    asyncio.run(_server(app, tls).serve(sockets=[listener]))


async def serve(app: App, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
    """The same inside a running loop, to which it leaves the signals; ends so when it is cancelled."""
    server = _server(app, tls)
    server.capture_signals = nullcontext
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(task)
    finally:
        server.should_exit = True
        await task


def _server(app: App, tls: ssl.SSLContext | None) -> Any:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Http(H11Protocol):
        """Tells the application the caller's certificate, as the TLS extension of ASGI has it."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            connection, inner = transport.get_extra_info("ssl_object"), self.app
            shown = connection and connection.getpeercert(binary_form=True)
            if not shown:
                return
            told = {"tls": {"client_cert_chain": [ssl.DER_cert_to_PEM_cert(shown)]}}

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await inner({**scope, "extensions": told}, receive, send)

            self.app = app

    config = uvicorn.Config(
        app,
        http=Http,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(Deploy.call_secs),  # nobody who asks waits longer
        lifespan="on",
        ws="none",
        interface="asgi3",
        proxy_headers=False,  # or a caller could choose the address that the audit log shows
    )
    config.load()
    config.ssl = tls
    return uvicorn.Server(config)
