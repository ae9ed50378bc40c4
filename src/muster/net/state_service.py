"""ESync's state server over HTTP, whichever table it shows: JSON messages, and the endpoints of 2019.

`POST /message` takes a message of `muster.net.state_messages`; `GET /table` shows the table. Messages are
tiny, and must not queue behind model transfers: the service has a port of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Callable, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from muster.core.errors import AccessError, UserError

from . import esync_http, metrics, web
from .state_messages import Message, decode
from .state_server import BusyError
from .state_table import StaleError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class States(Protocol):
    """A state table that answers messages."""

    num_handled: dict[str, int]
    """By type, and those that were refused."""

    @property
    def num_queued(self) -> int:
        """Messages that wait."""
        ...

    async def ask(self, message: Message, caller: str = "") -> Message:
        """The RESPONSE; see `StateServer.ask` and `JobStates.ask` for what it raises."""
        ...

    def described(self) -> dict[str, Any]:
        """The table as JSON data."""
        ...


def application(
    states: States, first: esync_http.First, check: web.Check | None, lifespan: Lifespan | None = None
) -> web.App:
    """All on one port: `/message` and `/table`, the endpoints of 2019, `/metrics`."""
    told = metrics.route(lambda: of_states(states))
    return web.application([*routes(states), *esync_http.routes(first), told], check, lifespan=lifespan)


def routes(states: States) -> list[Route]:
    """`POST /message` and `GET /table`."""

    async def message(request: Request) -> Response:
        try:
            asked = decode(await web.body_of(request))
            answer = await states.ask(asked, request.scope.get("user", ""))
        except StaleError as error:
            return JSONResponse({"error": str(error), "stale": True}, 409)
        except BusyError as error:
            return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})
        except AccessError as error:
            return JSONResponse({"error": str(error)}, 403)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        return Response(answer.encode(), media_type="application/json")

    async def table(request: Request) -> Response:
        return JSONResponse(states.described())

    return [Route("/message", message, methods=["POST"]), Route("/table", table)]


def of_states(states: States) -> Iterator[Metric]:
    """What a state server has handled."""
    yield metrics.counters("muster_state_messages", "Messages handled.", "type", states.num_handled)
    yield metrics.gauge("muster_state_queue_length", "Messages that wait.", states.num_queued)
    table = states.described()
    alive = sum(row["alive"] for row in table["workers"])
    workers = {"alive": alive, "dead": len(table["workers"]) - alive}
    yield metrics.gauges("muster_state_workers", "Workers by state.", "state", workers)
    yield metrics.gauge("muster_state_round", "The newest round that a worker has entered.", table["round"])
