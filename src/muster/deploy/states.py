"""ESync's state server in the process of `muster serve`: the job's own table, on a port of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from muster.algorithms.leased import Leased

if TYPE_CHECKING:
    from muster.core.algorithm import Pace
    from muster.net.access import Gatekeeper
    from muster.net.hub import Hub

    from .assembly import Say
    from .listen import Listen


def check_port(pace: Pace, listen: Listen) -> int | None:
    """The port that a state server would get; None: the pace hands out no leases and has none.

    Raises:
        UserError: It is taken.
    """
    from muster.net.ports import listening

    if not isinstance(pace, Leased):
        return None
    wanted = listen.state_port
    if wanted is None:
        wanted = listen.port + 1 if listen.port else 0
    listening(listen.host, wanted, "--state-port").close()
    return wanted


def open_states(hub: Hub, gate: Gatekeeper, listen: Listen, say: Say) -> asyncio.Task[None] | None:
    """The service's task, if the job's pace hands out leases: to be cancelled when the run has ended.

    Callers are let in as clients are: by certificate, by token, or anybody of this machine.

    Args:
        hub: The run.
        gate: Who may call.
        listen: Where the server listens; the service's port is the next, unless it says which.
        say: Told where it listens.

    Raises:
        UserError: The port is taken.
    """
    from muster.net import web
    from muster.net.credentials import LiveIdentity
    from muster.net.job_states import FirstJobStates, JobStates
    from muster.net.ports import listening
    from muster.net.state_service import application

    wanted = check_port(hub.conductor.algorithm.pace, listen)
    if wanted is None:
        return None
    listener = listening(listen.host, wanted, "--state-port")
    tls: Any = None
    if listen.certs is not None and not listen.insecure:
        tls = web.tls_context(LiveIdentity(listen.certs, "server"), mutual=not listen.tokens)
    states = JobStates(hub)
    app = application(states, FirstJobStates(states), web.tokens_of(gate, ("client",)))
    at = f"{'http' if tls is None else 'https'}://{listen.host}:{listener.getsockname()[1]}"
    say(f"the state server of its pace listens on {at}")
    return asyncio.create_task(web.serve(app, listener, tls))
