"""The HTTP endpoints of ESync's first state server (2019), so that its trainers can talk to Muster's.

| endpoint  | form fields                    | does                                  | answer           |
| `/`       |                                |                                       | the records      |
| `/init/`  | `num_workers`=6, `epsilon`=0.5 | begins round 1 with fresh records     | empty            |
| `/apply/` | `r`, `k`, `c`, `te`            | notes k steps of c seconds, decides   | `{"ready": 0/1}` |
| `/reset/` | `r`, `t`, `te`                 | worker r is in round t                | empty            |

The rule is that of the draft: the slowest by `c` alone, and a margin of `epsilon` seconds. Two things differ:
what made the first server fail (a question before `/init/`, no straggler yet) is answered, and instants are
those of receipt on this server's monotonic clock; `te` is kept and shown, never compared with our clock.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import parse_qsl

from muster.core.errors import AccessError, UserError

from .state_messages import MAX_COUNT, MAX_SECS, MAX_WORKERS

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route


@dataclass(frozen=True)
class Record:
    """One worker: its steps k, seconds per step c, when it spoke last, whether it may push, its round."""

    rank: int
    k: int = 0
    c: float = 0.0
    te: float = 0.0
    ready: bool = False
    round: int = 1
    at_secs: float = 0.0
    """When this server heard of it, in place of `te`."""

    def shown(self) -> list[Any]:
        """As `/` shows it: [rank, k, c, te, ready, round]."""
        return [self.rank, self.k, self.c, self.te, self.ready, self.round]


@dataclass(frozen=True)
class Records:
    """All workers, the round `t` and the margin in seconds."""

    t: int = 1
    epsilon: float = 0.5
    workers: tuple[Record, ...] = field(default=())

    def apply(self, rank: int, k: int, c: float, te: float, now_secs: float) -> tuple[Records, bool]:
        """Worker `rank` has made `k` steps, the last in `c` seconds: may it push?"""
        own = replace(self._of(rank), k=k, c=c, te=te, at_secs=now_secs)
        noted = self._with(own)
        # The first of the slowest, as the first server looked for it.
        slowest = max((w for w in noted.workers if w.c > 0), key=lambda w: (w.c, -w.rank), default=None)
        if k == 0 or slowest is None or slowest.round != self.t:
            return noted, False
        left = slowest.at_secs + slowest.c - now_secs
        ready = slowest.rank == rank or slowest.ready or own.ready or c + self.epsilon > left
        return noted._with(replace(own, ready=ready)), ready

    def reset(self, rank: int, t: int, te: float, now_secs: float) -> Records:
        """Worker `rank` is in round `t`; the first to say so begins it for all."""
        self._of(rank)
        begun = self
        if t != self.t:
            begun = replace(self, t=t, workers=tuple(replace(w, k=0, ready=False) for w in self.workers))
        return begun._with(replace(begun._of(rank), round=t, te=te, at_secs=now_secs))

    def _of(self, rank: int) -> Record:
        if not self.workers:
            raise UserError("there are no workers yet: POST /init/ comes first")
        if rank >= len(self.workers):
            raise UserError(f"r is {rank}, but the workers are 0 to {len(self.workers) - 1}")
        return self.workers[rank]

    def _with(self, record: Record) -> Records:
        workers = (*self.workers[: record.rank], record, *self.workers[record.rank + 1 :])
        return replace(self, workers=workers)


def begun(num_workers: int, epsilon: float, now_secs: float) -> Records:
    """Round 1 with fresh records."""
    if not 1 <= num_workers <= MAX_WORKERS:
        raise UserError(f"num_workers must be 1 to {MAX_WORKERS}")
    return Records(1, epsilon, tuple(Record(rank, at_secs=now_secs) for rank in range(num_workers)))


def fields_of(content: bytes, **kinds: tuple[type, Any]) -> dict[str, Any]:
    """Numbers out of a form: by name their type and default (None: it must be there).

    Raises:
        UserError: A field is missing or no number in range, or the form is damaged.
    """
    try:
        pairs = dict(parse_qsl(content.decode("ascii"), max_num_fields=16, strict_parsing=bool(content)))
    except ValueError as error:
        raise UserError(f"the form cannot be read: {error}") from error
    return {name: _number(name, pairs.get(name), *kind) for name, kind in kinds.items()}


def _number(name: str, text: str | None, kind: type, default: Any) -> Any:
    if text is None:
        if default is None:
            raise UserError(f"the field {name} is missing")
        return default
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    most = MAX_COUNT if kind is int else (1e12 if name == "te" else MAX_SECS)
    if not 0 <= value <= most:  # NaN and infinity too
        raise UserError(f"the field {name} must be a number from 0 to {most:g}")
    return value


Answer = Mapping[str, int] | None


class First(Protocol):
    """What the endpoints do, at once or when it is awaited; `caller` is who asks, empty: anybody."""

    def init(self, form: bytes, caller: str) -> Answer | Awaitable[Answer]:
        """`/init/`."""
        ...

    def apply(self, form: bytes, caller: str) -> Answer | Awaitable[Answer]:
        """`/apply/`."""
        ...

    def reset(self, form: bytes, caller: str) -> Answer | Awaitable[Answer]:
        """`/reset/`."""
        ...

    def shown(self) -> Mapping[str, Any]:
        """`/`."""
        ...


class FirstStateServer:
    """Holds the records between requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.records, self._clock = Records(), clock

    def init(self, form: bytes, caller: str = "") -> None:
        """`/init/`."""
        asked = fields_of(form, num_workers=(int, 6), epsilon=(float, 0.5))
        self.records = begun(asked["num_workers"], asked["epsilon"], self._clock())

    def apply(self, form: bytes, caller: str = "") -> Mapping[str, int]:
        """`/apply/`."""
        a = fields_of(form, r=(int, None), k=(int, None), c=(float, None), te=(float, None))
        self.records, ready = self.records.apply(a["r"], a["k"], a["c"], a["te"], self._clock())
        return {"ready": int(ready)}

    def reset(self, form: bytes, caller: str = "") -> None:
        """`/reset/`."""
        a = fields_of(form, r=(int, None), t=(int, None), te=(float, None))
        self.records = self.records.reset(a["r"], a["t"], a["te"], self._clock())

    def shown(self) -> Mapping[str, Any]:
        """`/`."""
        workers = [record.shown() for record in self.records.workers]
        body = {"num_workers": len(workers), "t": self.records.t, "epsilon": self.records.epsilon}
        return {**body, "records": workers}


def routes(server: First) -> list[Route]:
    """The four endpoints, for a Starlette application."""
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from .web import body_of

    def post(path: str, does: Callable[[bytes, str], Answer | Awaitable[Answer]]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                said = does(await body_of(request), request.scope.get("user", ""))
                answer = await said if inspect.isawaitable(said) else said
            except AccessError as error:
                return JSONResponse({"error": str(error)}, 403)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 400)
            return Response() if answer is None else JSONResponse(answer)

        return Route(path, endpoint, methods=["POST"])

    async def show(request: Request) -> Response:
        return JSONResponse(server.shown())

    return [
        Route("/", show),
        post("/init/", server.init),
        post("/apply/", server.apply),
        post("/reset/", server.reset),
    ]
