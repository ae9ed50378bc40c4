"""The page's addresses: `/`, what it fetches, `/status.json` and `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import TYPE_CHECKING

from muster.core.errors import RunFolderError
from muster.net import metrics
from muster.net.watch import Snapshot

from .page import DOCUMENT, fragment

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


def routes(look: Callable[[], Snapshot], *more: metrics.Source) -> list[Route]:
    """For a Starlette application.

    Args:
        look: Gives the run as it is now; may be called from several threads.
        more: Further sources of `/metrics`.
    """
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    room = files("muster.net.status_page")
    assets = {
        "/page.css": (files("muster.track").joinpath("page.css").read_text("utf-8"), "text/css"),
        "/status.css": (room.joinpath("status.css").read_text("utf-8"), "text/css"),
        "/status.js": (room.joinpath("status.js").read_text("utf-8"), "text/javascript"),
    }

    async def page(request: Request) -> Response:
        return HTMLResponse(DOCUMENT)

    async def run(request: Request) -> Response:
        try:
            snapshot = await asyncio.to_thread(look)
        except RunFolderError as error:
            return Response(str(error), 503)
        if request.url.path == "/status.json":
            return JSONResponse(snapshot.to_json())
        return HTMLResponse(fragment(snapshot))

    async def asset(request: Request) -> Response:
        text, kind = assets[request.url.path]
        return Response(text, media_type=kind)

    return [
        Route("/", page),
        Route("/fragment", run),
        Route("/status.json", run),
        metrics.route(lambda: metrics.of_run(look()), *more),
        *(Route(path, asset) for path in assets),
    ]
