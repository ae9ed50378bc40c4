"""`muster serve`: a job with real clients. What a simulation writes, this writes too."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muster import checkpoint
from muster.core.errors import RunFolderError, UserError
from muster.core.memory import peak_rss_bytes, share_one_arena
from muster.core.record import Record
from muster.job import Job, dump_job, load_job
from muster.net.journal import JOURNAL, Journal
from muster.run import MODEL, plan_of, target_of, write_model
from muster.track.boards import boards
from muster.track.console import make_console
from muster.track.folder import JOB, RunFolder, next_free, write_whole
from muster.track.folder_sink import FolderSink
from muster.track.sink import RunPlan, Sink
from muster.track.summary import Summary, Tally, meets

from .assembly import CLIENTS, Assembly, Say, assemble, take_up
from .examiner import Examiner
from .listen import Listen
from .states import check_port, open_states

AUDIT = "audit.jsonl"


@dataclass
class Keeper:
    """Writes what a simulation writes: records, checkpoints."""

    job: Job
    folder: Path
    made: Assembly
    sinks: tuple[Sink, ...]
    tally: Tally
    saved: int = 0
    """Version of the newest checkpoint."""
    _told: list[Sink] = field(default_factory=list)

    def record(self, record: Record) -> None:
        """Tells the sinks; called again after a full disk, it goes on with those that have not been told."""
        for sink in self.sinks:
            if sink not in self._told:
                sink.tell(record)
                self._told.append(sink)
        self._told.clear()
        self.tally.add(record)

    def checkpoint(self, end: int) -> bool:
        """Saves every `track.checkpoint_every` versions."""
        version = self.made.conductor.state.version
        if version - self.saved < self.job.track.checkpoint_every:
            return False
        control, tensors = self.made.saved(end)
        kept = checkpoint.write(self.folder, version, control, tensors, self.job.track.keep_checkpoints)
        self.made.plane.store.prune({c["store"]["generation"] for c in kept})
        self.saved = version
        return True

    def over(self, record: Record) -> tuple[str, str] | None:
        """A target that is met, or wall time that is over."""
        stop = self.job.stop
        if stop.target is not None and stop.target.metric in record.metrics:
            value = record.metrics[stop.target.metric]
            if meets(stop.target.metric, value, stop.target.value):
                return "target", f"{stop.target.metric} {value:.4f} reached the target {stop.target.value:g}"
        if stop.wall_secs is not None and record.wall_secs >= stop.wall_secs:
            return "wall_secs", f"{record.wall_secs:.1f} s of wall time are over"
        return None


def serve(
    job: Job,
    out: Path | None,
    listen: Listen,
    *,
    json: bool = False,
    conf: str = "",
    command: str = "",
    ready: Callable[[int], None] = lambda port: None,
    deserted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Serves a job to its end; a run folder that holds an unfinished run of it is gone on with.

    Args:
        job: The job.
        out: The run folder; default runs/<name>-<number>.
        listen: Where.
        json: Keep stdout free.
        conf: The job file as the user named it.
        command: What the user typed; without `out` it is completed by the folder that was chosen.
        ready: Told the port, once clients can join.
        deserted: Whether no client can come any more: then the run is interrupted.

    Returns:
        The summary as JSON data.

    Raises:
        UserError: The job cannot be run, the port is taken, the folder cannot be used, ...

    """
    share_one_arena()
    if job.stop.target is not None and not job.deploy.evaluate:
        raise UserError(
            f"stop.target waits for {job.stop.target.metric}, but deploy.evaluate is false, so no version is "
            "evaluated: leave out one of them"
        )
    console = make_console(json=json)
    folder, again = _folder(job, out)
    if out is None or not command:
        command = f"{command or f'muster serve {folder.path / JOB}'} --out {folder.path}"
    if again and (done := folder.read_summary()) is not None and done.status != "interrupted":
        console.say(f"{folder.path} is finished ({done.status})")
        return done.to_json()
    if again:
        job = load_job(folder.path / JOB)
    examiner = Examiner(folder.path / JOB)
    try:
        made, began = _assembled(job, folder.path, examiner, again, console.say)
        journal = Journal(folder.path)
        try:
            version = made.conductor.state.version if again else None
            told = plan(made.job, made, folder.path, conf, deployed=command, resumed_from=version)
            return _conduct(made, folder, journal, began, listen, console, told, ready, deserted)
        finally:
            journal.close()
            made.plane.close()
    finally:
        examiner.close()


def _assembled(job: Job, folder: Path, examiner: Examiner, again: bool, say: Say) -> tuple[Assembly, int]:
    """A new run, or the one in the folder; with the run time of its last entry.

    The untrained model is the run's alone when this returns, and goes with its first version.
    """
    start = examiner.start(folder, job.deploy.memory_mb, spare=again)
    if not job.deploy.evaluate:
        examiner.close()
    job = replace(job, engine=start.engine(job.engine))
    write_whole(folder / JOB, dump_job(job).encode())

    def make() -> Assembly:
        return assemble(
            job, folder, start, examiner.examine, store=folder / CLIENTS, evaluates=job.deploy.evaluate
        )

    on_disk = start.storage.folder is not None
    return take_up(make, folder, say, on_disk=on_disk) if again else (make(), 0)


def _folder(job: Job, out: Path | None) -> tuple[RunFolder, bool]:
    """The run folder, and whether it holds an unfinished run of this job."""
    if out is not None and (out / JOURNAL).is_file():
        folder = RunFolder.open(out)
        held = load_job(out / JOB)
        if replace(held, engine=job.engine, deploy=job.deploy) != job:
            raise RunFolderError(
                f"{out} holds a run of another job; choose another --out, or its own job file"
            )
        return folder, True
    place = next_free(Path("runs"), job.name) if out is None else out
    return RunFolder.create(place, dump_job(job)), False


def _conduct(
    made: Assembly,
    folder: RunFolder,
    journal: Journal,
    began: int,
    listen: Listen,
    console: Any,
    told: RunPlan,
    ready: Callable[[int], None],
    deserted: Callable[[], bool],
) -> dict[str, Any]:
    job, again = made.job, told.resumed_from is not None
    tally = Tally(target_of(job))
    first = made.records[0].version if made.records else made.conductor.state.version + 1
    if again:
        folder.cut(first - 1, console.say)
        with suppress(RunFolderError):  # nothing was recorded yet
            for record in folder.read(console.say):
                tally.add(record)
    sink = FolderSink(folder, console.say)
    sinks = (console, sink, *boards(job.track.sinks, console.say))
    for each in sinks:
        each.begin(told)

    def say(line: str) -> None:
        console.say(line)
        folder.log(line)

    if job.track.per_client:
        say("track.per_client is for simulations: what deployed clients keep of the model stays with them")
    keeper = Keeper(job, folder.path, made, sinks, tally, saved=first - 1 if again else 0)
    interrupted = asyncio.run(
        _serve(job, folder.path, made, journal, began, listen, keeper, say, ready, deserted)
    )
    write_model(folder.path / MODEL, made.spec, made.plane.result)
    summary = summary_of(job, made, tally, interrupted)
    for each in reversed(sinks):
        each.end(summary)
    return summary.to_json()


async def _serve(
    job: Job,
    folder: Path,
    made: Assembly,
    journal: Journal,
    began: int,
    listen: Listen,
    keeper: Keeper,
    say: Say,
    ready: Callable[[int], None],
    deserted: Callable[[], bool],
) -> bool:
    """Listens until the run has ended; returns whether it was interrupted instead."""
    from muster.net.hub import Hub
    from muster.net.models import Models
    from muster.net.watch import MAX_ERRORS

    errors: list[str] = []

    def tell(line: str) -> None:
        errors[:] = [*errors[-MAX_ERRORS + 1 :], line]
        say(line)

    models = Models(folder, made.route, lambda version: made.plane.moment.snapshots[version], made.storage)
    hub = Hub(
        made.conductor,
        journal,
        made.spool,
        models,
        job.deploy,
        keeper,
        tell,
        began,
        records=made.records,
        notes=made.notes,
    )
    # Also where the run had ended before the server was killed: its clients wait to be told.
    server, service, port = await open_server(hub, made, folder, listen, say)
    states = open_states(hub, service.gate, listen, say)
    say(f"serving {job.name} on {listen.host}:{port}" + (" (plaintext)" if listen.insecure else ""))
    work = asyncio.create_task(hub.run())
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    live = asyncio.create_task(_live(hub, folder, errors))
    ready(port)
    watch = asyncio.create_task(_watch(deserted, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    interrupted = not work.done()
    if interrupted:
        work.cancel()
    elif work.exception() is None:  # else there is no end that clients could be told
        await service.farewell(job.deploy.call_secs)
    for task in (stopping, live, watch):
        task.cancel()
    try:
        with suppress(asyncio.CancelledError):
            await work
    finally:
        if states is not None:
            states.cancel()
            with suppress(asyncio.CancelledError):
                await states
        await server.stop(1.0)
    return interrupted


async def _watch(deserted: Callable[[], bool], stop: asyncio.Event) -> None:
    """Stops a run to which no client can come any more."""
    while not deserted():
        await asyncio.sleep(0.5)
    stop.set()


async def _live(hub: Any, folder: Path, errors: list[str]) -> None:
    """Says for `muster status` what the clients are doing, once a second."""
    from muster.net.watch import write_live

    while True:
        with suppress(OSError, RunFolderError):  # a full disk is told elsewhere
            await asyncio.to_thread(write_live, folder, hub.status()["clients"], errors)
        await asyncio.sleep(1.0)


async def open_server(
    hub: Any, made: Assembly, folder: Path, listen: Listen, say: Say
) -> tuple[Any, Any, int]:
    """A gRPC server that listens, its service, and its port.

    Raises:
        UserError: The port is taken, or a certificate cannot be used.
    """
    import json as _json

    import grpc

    from muster.net.access import Audit, Gatekeeper
    from muster.net.credentials import LiveIdentity, server_credentials
    from muster.net.ports import listening, room_for
    from muster.net.rpc import OPTIONS, handlers
    from muster.net.service import Service

    check_port(hub.conductor.algorithm.pace, listen)  # before there is a server that would have to be stopped
    gate = Gatekeeper(None if listen.insecure else listen.certs, Audit(folder / AUDIT))
    spec = _json.dumps(made.spec.to_json())
    service = Service(hub, gate, made.crew.check, made.errand, spec, made.num_examples)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handlers(lambda method: getattr(service, f"on_{method.lower()}")),))
    if short := room_for(hub.conductor.roster.num_clients):
        say(short)
    address = f"{listen.host}:{listen.port}"
    listening(listen.host, listen.port).close()  # says who has the port, which gRPC does not
    if listen.certs is None:
        port = server.add_insecure_port(address)
    else:
        live = LiveIdentity(listen.certs, "server", say)
        port = server.add_secure_port(address, server_credentials(live, mutual=not listen.tokens))
    await server.start()
    return server, service, port


def plan(job: Job, made: Assembly, out: Path | None, conf: str, **more: Any) -> RunPlan:
    """What a deployed job will do; `more` are further fields of the plan."""
    choices = (
        "deployed: real clients, wall-clock time",
        f"backend: {job.engine.backend}",
        *job.engine.numerics.said(),
        *(() if made.privacy is None else (f"privacy: {made.privacy.why}",)),
    )
    num_clients = made.conductor.roster.num_clients
    return plan_of(job, made.spec, num_clients, choices, out, conf, **more)


def summary_of(job: Job, made: Assembly, tally: Tally, interrupted: bool) -> Summary:
    """How a deployed run has ended."""
    ended = made.conductor.ended
    status, why = "interrupted", "it was interrupted"
    if not interrupted and ended is not None:
        status, why = ended.status, ended.why
    sha256 = made.spec.sha256(made.plane.result)
    summary = tally.summary(status, why, peak_rss_bytes(), sha256, job.seed, wall_secs=made.wall_secs)
    return summary if made.privacy is None else replace(summary, privacy=made.privacy.to_json(tally.version))
