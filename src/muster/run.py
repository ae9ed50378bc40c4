"""Runs a job: in a notebook, or with a run folder, checkpoints and a console; and goes on with it."""

from __future__ import annotations

import json as _json
import shutil
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster import checkpoint
from muster.compose import Boundary, Say, Session, compose
from muster.core.algorithm import Algorithm
from muster.core.errors import JobError, RunFolderError, UserError
from muster.core.params import ParamSpec
from muster.core.record import Record
from muster.core.state import load_state, save_state
from muster.job import Job, dump_job, load_job
from muster.job.dump import written
from muster.job.names import SECTIONS, label
from muster.learn.later import Later
from muster.learn.plane import load_moment, save_moment
from muster.learn.stopwatch import Stopwatch
from muster.sim.clock_only import ClockOnly
from muster.sim.link import load_flows, save_flows
from muster.track.boards import boards
from muster.track.console import make_console
from muster.track.folder import JOB, TRACEBACK, RunFolder, next_free, write_whole
from muster.track.folder_sink import FolderSink
from muster.track.sink import RunPlan, Sink
from muster.track.summary import Summary, Tally

MODEL, CLIENTS, PROFILE = "model.safetensors", "clients", "profile.json"


class Simulated:
    """A run in progress: iterate over it to get a Record for each version.

    `job` has what was chosen or measured for it filled in. Afterwards `summary` says how it ended, and
    `model` holds the arrays by name.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.job = session.job
        self._tally = Tally(target_of(session.job))
        self._begun = False
        self.summary: Summary | None = None

    def __iter__(self) -> Iterator[Record]:
        """Runs to the end, or until the loop over it is left; may be done once.

        Raises:
            UserError: It has been iterated over before.
        """
        if self._begun:
            raise UserError("this run has been iterated over already; make another with muster.simulate(job)")
        self._begun = True
        try:
            for record in self._session.sim:
                self._tally.add(record)
                yield record
            self.summary = _summary(self._session, self._tally, self._session.peaks())
        finally:
            self._session.close()

    @property
    def model(self) -> dict[str, npt.NDArray[np.float32]]:
        """The newest model: name -> array. Empty in a clock-only run."""
        plane = self._session.plane
        return {} if plane is None else self._session.spec.views(plane.result)


def simulate(job: Job | str | Path | Mapping[str, Any], *, clock_only: bool = False) -> Simulated:
    """Runs a job in this process and leaves nothing on disk: for notebooks and scripts.

        for record in muster.simulate({"algorithm": "fedyogi"}):
            print(record.version, record.now_secs, record.metrics)

    Args:
        job: A Job, the path of a job file, or its content as a mapping.
        clock_only: Time everything and train nothing.

    Raises:
        UserError: The job cannot be run.

    """
    job = job if isinstance(job, Job) else load_job(job)
    return Simulated(compose(job, clock_only=clock_only, max_workers=1))


def run(
    job: Job,
    out: Path | None = None,
    *,
    clock_only: bool = False,
    json: bool = False,
    conf: str = "",
    profile: bool = False,
) -> dict[str, Any]:
    """Runs a job with a run folder and a console; returns the summary as JSON data.

    Args:
        job: The job.
        out: The run folder; default runs/<name>-<number>.
        clock_only: Time everything and train nothing.
        json: Keep stdout free: everything goes to stderr.
        conf: The job file as the user named it, for the commands that are suggested at the end.
        profile: Say what the wall time went into, and write it to profile.json.

    Raises:
        UserError: The job cannot be run, or the run folder cannot be written.

    """
    if profile and clock_only:
        raise JobError(
            "--profile is about training, but a clock-only run trains nothing; leave one of them out"
        )
    console = make_console(json=json)
    watch = Stopwatch() if profile else None
    folder = RunFolder.create(next_free(Path("runs"), job.name) if out is None else out, dump_job(job))
    try:
        session = compose(
            job, clock_only=clock_only, store=folder.path / CLIENTS, say=console.say, watch=watch
        )
        write_whole(folder.path / JOB, dump_job(session.job).encode())
    except BaseException:
        _abandon(folder.path)
        raise
    return _drive(
        session, folder, console, _plan(session, folder.path, conf, clock_only), Tally(target_of(job))
    )


def resume(path: Path, *, json: bool = False) -> dict[str, Any]:
    """Goes on with an interrupted run from its newest whole checkpoint, to the same bits.

    Raises:
        UserError: `path` holds no run, or what it holds cannot be read.

    """
    folder = RunFolder.open(path)
    console = make_console(json=json)
    done = folder.read_summary()
    if done is not None and done.status != "interrupted":
        console.say(f"{path} is finished ({done.status}); nothing to resume")
        return done.to_json()
    plan = folder.read_plan()
    if plan is not None and plan.deployed:
        raise UserError(f"{path} is a deployed run; `{plan.deployed}` goes on with it")
    clock_only = plan is not None and plan.clock_only
    job = load_job(folder.path / JOB)
    session = compose(job, clock_only=clock_only, store=folder.path / CLIENTS, say=console.say)
    try:
        tally = Tally(target_of(job))
        version = _restore(session, folder, console.say)
        folder.cut(-1 if version is None else version, console.say)
        if version is not None:
            for record in folder.read(console.say):
                tally.add(record)
    except BaseException:
        session.close()
        raise
    new = replace(
        _plan(session, folder.path, plan.conf if plan else "", clock_only), resumed_from=version or 0
    )
    return _drive(session, folder, console, new, tally)


def _drive(session: Session, folder: RunFolder, console: Sink, plan: RunPlan, tally: Tally) -> dict[str, Any]:
    """Runs to the end, or to an interrupt: records, checkpoints, the model and the summary."""
    job = session.job
    sinks = (console, FolderSink(folder, console.say), *boards(job.track.sinks, console.say))
    try:
        for sink in sinks:
            sink.begin(plan)
    except BaseException:
        session.close()
        raise
    boundary, saved = session.mark(), session.sim.state.version
    interrupted = False
    held: deque[tuple[Record, Boundary | None]] = deque()
    try:
        with _interrupts():
            for record in session.sim:
                with session.writing():
                    # A record that waits for its metrics is told later: then of this moment, not of that.
                    held.append((record, None if _is_known(record) else session.mark()))
                    due = record.version - saved >= job.track.checkpoint_every
                    while held and (due or session.sim.ended or len(held) > 1 or _is_known(held[0][0])):
                        told, then = held[0]
                        len(told.metrics)  # waits; an interrupt meanwhile leaves it untold
                        held.popleft()
                        for sink in sinks:
                            sink.tell(told)
                        tally.add(told)
                        if told.complete:  # a run that is stopped goes back to what was told last
                            boundary = then or session.mark()
                    if due and record.complete and session.sim.ended is None:
                        _save(session, folder, boundary)
                        saved = record.version
    except KeyboardInterrupt:
        interrupted = True
        _save_at(session, folder, boundary, saved)
    except UserError:
        raise
    except Exception as error:
        with suppress(RunFolderError):
            _save_at(session, folder, boundary, saved)
            text = "".join(traceback.format_exception(error))
            write_whole(folder.path / TRACEBACK, text.encode())
            error.written_to = folder.path / TRACEBACK  # type: ignore[attr-defined]
        raise
    finally:
        wall_secs = session.sim.wall_secs
        session.close()
    if session.plane is not None:
        write_model(folder.path / MODEL, session.spec, session.plane.result)
    peaks = session.peaks()
    summary = _summary(session, tally, peaks, interrupted)
    profile = session.profiled.profile(wall_secs, peaks) if session.profiled else None
    for sink in reversed(sinks):
        sink.end(summary)
    if profile is not None:
        write_whole(folder.path / PROFILE, _json.dumps(profile.to_json(), indent=1).encode())
        for line in profile.lines():
            console.say(line)
    return summary.to_json()


def _is_known(record: Record) -> bool:
    """Whether its metrics are there: they may be made while the next version is trained."""
    return not isinstance(record.metrics, Later) or record.metrics.ready


@contextmanager
def _interrupts() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: by KeyboardInterrupt."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns it decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _save_at(session: Session, folder: RunFolder, boundary: Boundary, saved: int) -> None:
    """Goes back to the end of the last version, and saves it unless it has been saved already."""
    if session.plane is not None and boundary.moment is not None:
        session.plane.moment = boundary.moment
        session.plane.store.rollback()
    if boundary.state.version > saved:
        _save(session, folder, boundary)


def _save(session: Session, folder: RunFolder, boundary: Boundary) -> None:
    """Writes a checkpoint of the end of a version."""
    control: dict[str, Any] = {"wall_secs": session.sim.wall_secs, "spec": session.spec.to_json()}
    tensors: dict[str, npt.NDArray[Any]] = {}

    def add(name: str, part: tuple[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]]) -> None:
        control[name] = part[0]
        tensors.update({f"{name}.{key}": array for key, array in part[1].items()})

    add("server", save_state(boundary.state))
    if boundary.flows is not None:
        add("link", save_flows(boundary.flows))
    if session.plane is not None and boundary.moment is not None:
        add("plane", save_moment(boundary.moment))
        add("store", session.plane.store.save())
    kept = checkpoint.write(
        folder.path, boundary.state.version, control, tensors, session.job.track.keep_checkpoints
    )
    if session.plane is not None:
        session.plane.store.prune({c["store"]["generation"] for c in kept})


def _restore(session: Session, folder: RunFolder, say: Say) -> int | None:
    """Puts the newest whole checkpoint back; returns its version, None if there is none."""
    for control, tensors in checkpoint.read(folder.path, say):
        parts: dict[str, dict[str, Any]] = {"server": {}, "plane": {}, "store": {}, "link": {}}
        for name, array in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = array
        if control["spec"] != session.spec.to_json():
            raise RunFolderError(f"{folder.path}: the checkpoint is of another model than {JOB} names")
        state = load_state(control["server"], parts["server"])
        if session.plane is not None:
            try:
                session.plane.store.load(control["store"], parts["store"])
            except ValueError as error:
                say(f"checkpoint {state.version} cannot be used ({error}); going back to the one before")
                continue
            session.plane.moment = load_moment(control["plane"], parts["plane"])
        elif isinstance(session.sim.plane, ClockOnly):
            session.sim.plane.version = state.version
        if session.sim.link is not None:
            session.sim.link.restore(load_flows(control["link"], parts["link"]))
        session.sim = replace(session.sim, state=state, wall_before=float(control["wall_secs"]))
        checkpoint.set_aside(folder.path, state.version)
        return state.version
    why = "no checkpoint that can be used" if checkpoint.set_aside(folder.path, -1) else "no checkpoint yet"
    say(f"{folder.path} has {why}; starting over from its {JOB}")
    return None


def _plan(session: Session, out: Path | None, conf: str, clock_only: bool) -> RunPlan:
    more = {"clock_only": clock_only, "surrogate": session.sim.surrogate}
    return plan_of(session.job, session.spec, session.num_clients, session.choices, out, conf, **more)


def plan_of(
    job: Job,
    spec: ParamSpec,
    num_clients: int,
    choices: tuple[str, ...],
    out: Path | None,
    conf: str,
    **more: Any,
) -> RunPlan:
    """What a job will do; `more` are further fields of the plan."""
    stop, target = job.stop, target_of(job) or (None, None)
    return RunPlan(
        name=job.name,
        algorithm=job.algorithm.name,
        data=label(job.data),
        model=label(job.model),
        num_clients=num_clients,
        num_parameters=spec.num_parameters,
        model_bytes=spec.num_bytes,
        rounds=stop.rounds,
        virtual_secs=stop.virtual_secs,
        wall_secs=stop.wall_secs,
        target_metric=target[0],
        target_value=target[1],
        out=out,
        conf=conf,
        choices=choices,
        **more,
    )


def explain(job: Job, *, clock_only: bool = False, conf: str = "") -> tuple[RunPlan, list[str]]:
    """What a run of the job would do: the plan, and its parts with every setting that is derived.

    Nothing is trained and nothing is left on disk but prepared data.

    Raises:
        UserError: The job cannot be run.
    """
    session = compose(job, clock_only=clock_only)
    session.close()
    return _plan(session, None, conf, clock_only), part_lines(session.sim.algorithm)


def part_lines(algorithm: Algorithm) -> list[str]:
    """A line about each part of an algorithm, with all its settings."""
    told = {name: written(getattr(algorithm, name)) for name in SECTIONS}
    return [
        f"{name}: {part.pop('name')}" + "".join(f", {key} {value}" for key, value in part.items())
        for name, part in told.items()
    ]


def target_of(job: Job) -> tuple[str, float] | None:
    """Metric and value that end a run of the job, if any."""
    return (job.stop.target.metric, job.stop.target.value) if job.stop.target else None


def _summary(session: Session, tally: Tally, peaks: tuple[int, ...], interrupted: bool = False) -> Summary:
    ended = session.sim.ended
    if interrupted or ended is None:
        status, why = "interrupted", "it was interrupted; `muster resume` goes on with it"
    else:
        status, why = ended.status, ended.why
    summary = tally.summary(
        status,
        why,
        sum(peaks),
        session.model_sha256(),
        session.job.seed,
        wall_secs=session.sim.wall_secs,
    )
    if session.plane is not None:
        summary = replace(summary, tasks_together=session.plane.tasks_together)
    privacy = session.privacy
    return summary if privacy is None else replace(summary, privacy=privacy.to_json(tally.version))


def write_model(path: Path, spec: ParamSpec, params: npt.NDArray[np.float32]) -> None:
    """Writes a model as a safetensors file that carries its hash."""
    about = {"format": "pt", "sha256": spec.sha256(params)}
    write_whole(path, checkpoint.packed(spec.views(params), about))


def _abandon(path: Path) -> None:
    """Takes back a run folder in which nothing has happened yet."""
    shutil.rmtree(path / CLIENTS, ignore_errors=True)
    with suppress(OSError):
        (path / JOB).unlink()
        path.rmdir()
