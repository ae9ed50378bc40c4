"""`muster serve --dry-run`: what can go wrong before anybody joins, checked without serving."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from muster.algorithms.leased import Leased
from muster.core.errors import MusterError, UserError
from muster.job import Job
from muster.track.units import bytes_text

from .listen import Listen
from .states import check_port

Check = tuple[str, bool, str]
"""What was looked at, whether it is fine, and what was found."""

FIRST_DAY = 1_704_067_200.0
"""2024-01-01: a clock that says less has never been set."""


def check(job: Job, out: Path, listen: Listen) -> list[Check]:
    """Port, disk, certificates, clock and data, each whether or not the others are fine."""
    return [_outcome(what, look) for what, look in _checks(job, out, listen)]


def _outcome(what: str, look: Callable[[], str]) -> Check:
    try:
        return what, True, look()
    except MusterError as error:
        return what, False, str(error)


def _checks(job: Job, out: Path, listen: Listen) -> Iterator[tuple[str, Callable[[], str]]]:
    def port() -> str:
        from muster.net.ports import listening

        listening(listen.host, listen.port).close()
        return f"{listen.host}:{listen.port} is free"

    def states() -> str:
        return f"{listen.host}:{check_port(job.algorithm.pace, listen)} is free"

    def certificates() -> str:
        if listen.certs is None:
            return "none: plaintext, on this machine only"
        from muster.net.credentials import LiveIdentity

        told: list[str] = []
        LiveIdentity(listen.certs, "server", told.append)
        return "; ".join([f"{listen.certs / 'server.crt'} is valid", *told])

    def clock() -> str:
        if time.time() < FIRST_DAY:
            raise UserError(f"the clock says {time.ctime()}: set it, or no certificate is valid")
        return f"it is {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC"

    def data() -> str:
        from muster.data.store import prepare
        from muster.job import check_population

        found = prepare(job.data, job.seed_of("data"))
        check_population(job, found.num_clients)
        return f"{found.num_clients} clients, {int(found.num_examples.sum()):,} examples"

    def disk() -> str:
        place = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
        free, wanted = shutil.disk_usage(place).free, _updates_bytes(job)
        if free < wanted:
            raise UserError(
                f"{place} has {bytes_text(free)} free, but the updates between two checkpoints take "
                f"{bytes_text(wanted)}: make room, or lower track.checkpoint_every"
            )
        return f"{place} has {bytes_text(free)} free, {bytes_text(wanted)} may be needed"

    yield "port", port
    if isinstance(job.algorithm.pace, Leased):
        yield "state port", states
    yield from (
        ("certificates", certificates),
        ("clock", clock),
        ("data", data),
        ("disk", disk),
    )


def _updates_bytes(job: Job) -> int:
    """Of updates that wait for the checkpoint after next, as the model's size lets expect."""
    from muster.data.store import prepare
    from muster.learn.learners import choose_backend, make_learner

    facts, local = prepare(job.data, job.seed_of("data")).facts, job.algorithm.local
    backend = choose_backend(job.engine.backend, job.model)
    spec = make_learner(backend, job.model, job.task, facts, local, job.train).spec
    a_version = spec.num_bytes * len(local.up) * job.algorithm.pace.max_accepts
    return 2 * job.track.checkpoint_every * a_version
