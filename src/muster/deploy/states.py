"""ESync's state server in the process of `muster serve`: the job's own table, on a port of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.net.access import Gatekeeper
    from muster.net.hub import Hub

    from .assembly import Say
    from .server import Listen


def open_states(hub: Hub, gate: Gatekeeper, listen: Listen, port: int, say: Say) -> asyncio.Task[None] | None:
    """The service's task, if the job's pace hands out leases: to be cancelled when the run has ended.

    Callers are let in as clients are: by certificate, by token, or anybody of this machine.

    Args:
        hub: The run.
        gate: Who may call.
        listen: Where the server listens.
        port: Its port; the service's is the next, unless `listen` says which.
        say: Told where it listens.

    Raises:
        UserError: The port is taken.
    """
    from muster.algorithms.leased import Leased
    from muster.net import web
    from muster.net.credentials import LiveIdentity
    from muster.net.job_states import FirstJobStates, JobStates
    from muster.net.ports import listening
    from muster.net.state_service import application

    if not isinstance(hub.conductor.algorithm.pace, Leased):
        return None
    wanted = state_port(listen, port)
    listener = listening(listen.host, wanted, "--state-port")
    tls: Any = None
    if listen.certs is not None and not listen.insecure:
        tls = web.tls_context(LiveIdentity(listen.certs, "server"), mutual=not listen.tokens)
    states = JobStates(hub)
    app = application(states, FirstJobStates(states), web.tokens_of(gate, ("client",)))
    at = f"{'http' if tls is None else 'https'}://{listen.host}:{listener.getsockname()[1]}"
    say(f"the state server of its pace listens on {at}")
    return asyncio.create_task(web.serve(app, listener, tls))


def state_port(listen: Listen, port: int) -> int:
    """The port that is wanted: as said, any where any will do, else the one after the server's."""
    if listen.state_port is not None:
        return listen.state_port
    return port + 1 if listen.port else 0
