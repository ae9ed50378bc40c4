"""The composition root: puts the parts of a job together, runs it, and leaves a run folder behind."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from muster import checkpoint
from muster.core.errors import JobError, RunFolderError, UserError
from muster.core.params import ParamSpec
from muster.core.record import Record
from muster.core.state import Limits, ServerState, initial_state, load_state, save_state
from muster.core.store import ClientStore
from muster.core.sums import scale_for
from muster.core.tables import to_ns
from muster.data.store import prepare
from muster.devices.world import World
from muster.job import Job, check_population, dump_job, load_job
from muster.job.names import label
from muster.learn.crew import Automatic, Crew, Inline, Pool, Recipe
from muster.learn.learners import choose_backend, make_learner
from muster.learn.plane import DataPlane, Moment, load_moment, save_moment
from muster.learn.trainer import Folding
from muster.sim.clock_only import ClockOnly
from muster.sim.simulation import Outside, Simulation
from muster.track.console import make_console
from muster.track.folder import JOB, RunFolder, next_free, write_whole
from muster.track.folder_sink import FolderSink
from muster.track.sink import RunPlan, Sink
from muster.track.summary import Summary, Tally

MODEL, CLIENTS = "model.safetensors", "clients"

TRACEBACK = "traceback.txt"

Say = Callable[[str], None]
Boundary = tuple[ServerState, Moment | None]
"""The end of a version: the control plane's state and the data plane's; None in a clock-only run."""


@dataclass
class Session:
    """A job put together, ready to run: what `simulate` and `run` share."""

    job: Job
    """The job with the choices that were made for it filled in."""
    sim: Simulation
    plane: DataPlane | None
    """None in a clock-only run."""
    spec: ParamSpec
    choices: tuple[str, ...]
    num_clients: int

    def mark(self) -> Boundary:
        """The end of a version, to go back to: references only, nothing is copied."""
        return self.sim.state, self.plane.mark() if self.plane else None

    def peak_rss_bytes(self) -> int:
        """Peak memory of this process and its workers."""
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return own + (self.plane.peak_rss_bytes() if self.plane else 0)

    def model_sha256(self) -> str | None:
        """Hash of the newest model; None in a clock-only run."""
        return self.spec.sha256(self.plane.params) if self.plane else None

    def close(self) -> None:
        """Ends the workers."""
        if self.plane:
            self.plane.close()


def compose(
    job: Job,
    *,
    clock_only: bool = False,
    store: Path | None = None,
    max_workers: int | None = None,
    say: Say = lambda line: None,
) -> Session:
    """Puts a job together.

    Args:
        job: The job.
        clock_only: Time everything and train nothing.
        store: Folder for the clients' lasting states; None is a temporary one.
        max_workers: For `workers: auto`; None is the number of cores.
        say: Told what is chosen while the run goes on.

    Raises:
        UserError: The job cannot be run with this data or what is installed.

    """
    if clock_only and job.stop.target is not None:
        raise JobError(
            f"stop.target waits for {job.stop.target.metric}, but a clock-only run trains nothing that could "
            "reach it; leave out --clock-only, or add stop.target=null"
        )
    data = prepare(job.data, job.seed)
    check_population(job, data.num_clients)
    population = job.population.draw(np.asarray(data.num_examples), job.seed)
    backend = choose_backend(job.engine.backend, job.model)
    job = replace(job, engine=replace(job.engine, backend=backend))
    algorithm, local = job.algorithm, job.algorithm.local
    learner = make_learner(backend, job.model, job.task, data.facts, local, job.train)
    world = World(
        population,
        job.train,
        down_bytes=learner.spec.num_bytes * len(local.down),
        up_bytes=learner.spec.num_bytes * len(local.up),
        dropout=job.population.dropout,
        seed=job.seed,
    )
    virtual = None if job.stop.virtual_secs is None else to_ns(job.stop.virtual_secs)
    state = initial_state(algorithm, population, Limits(job.stop.rounds, virtual, job.track.evaluate_every))
    target = job.stop.target
    outside = Outside(job.stop.wall_secs, target.metric if target else "", target.value if target else None)
    choices = [f"backend: {backend}" + ("" if job.engine.backend == backend else " (chosen)")]
    if clock_only:
        surrogate = bool(algorithm.select.reads)
        stand_in = ClockOnly(population.num_examples, job.train, job.seed, surrogate)
        sim = Simulation(algorithm, job.seed, world, stand_in, state, outside, surrogate=surrogate)
        return Session(job, sim, None, learner.spec, (), data.num_clients)
    folding = Folding(
        algorithm.combine,
        algorithm.combine.max_weight(population),
        scale_for(algorithm.pace.max_accepts),
        job.seed,
    )
    recipe = Recipe(backend, job.model, job.task, local, job.train, folding, str(data.path))
    crew, workers = _crew(job, recipe, learner.spec.size, len(data.test), max_workers, say)
    choices.append(workers)
    plane = DataPlane(
        algorithm,
        learner.spec,
        crew,
        ClientStore(store),
        data.num_clients,
        folding.max_weight,
        learner.initial(job.seed),
    )
    sim = Simulation(algorithm, job.seed, world, plane, state, outside)
    return Session(job, sim, plane, learner.spec, tuple(choices), data.num_clients)


def _crew(
    job: Job, recipe: Recipe, size: int, num_tests: int, max_workers: int | None, say: Say
) -> tuple[Crew, str]:
    """Who trains, and a line that says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = job.engine.workers
    if asked == "auto":
        most = min(max_workers or cores, job.algorithm.pace.max_accepts)
        automatic = Automatic(
            Inline(recipe.trainer()), lambda: Pool(recipe, most, size, num_tests), most, say
        )
        return automatic, f"workers: 1 to begin with, up to {most} if training takes long (auto)"
    if asked == 1:
        return Inline(recipe.trainer()), "workers: 1, in this process"
    return Pool(recipe, asked, size, num_tests), f"workers: {asked} processes"


class Simulated:
    """A run in progress: iterate over it to get a Record for each version.

    Afterwards `summary` says how it ended, and `model` holds the arrays by name.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tally = Tally(_target(session.job))
        self.summary: Summary | None = None

    def __iter__(self) -> Iterator[Record]:
        """Runs to the end; may be done once."""
        try:
            for record in self._session.sim:
                self._tally.add(record)
                yield record
            self.summary = _summary(self._session, self._tally)
        finally:
            self._session.close()

    @property
    def model(self) -> dict[str, npt.NDArray[np.float32]]:
        """The newest model: name -> array. Empty in a clock-only run."""
        plane = self._session.plane
        return {} if plane is None else self._session.spec.views(plane.params)


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
    job: Job, out: Path | None = None, *, clock_only: bool = False, json: bool = False, conf: str = ""
) -> dict[str, Any]:
    """Runs a job with a run folder and a console; returns the summary as JSON data.

    Args:
        job: The job.
        out: The run folder; default runs/<name>-<number>.
        clock_only: Time everything and train nothing.
        json: Keep stdout free: everything goes to stderr.
        conf: The job file as the user named it, for the commands that are suggested at the end.

    Raises:
        UserError: The job cannot be run, or the run folder cannot be written.

    """
    console = make_console(json=json)
    folder = RunFolder.create(next_free(Path("runs"), job.name) if out is None else out, dump_job(job))
    try:
        session = compose(job, clock_only=clock_only, store=folder.path / CLIENTS, say=console.say)
        write_whole(folder.path / JOB, dump_job(session.job).encode())
    except BaseException:
        _abandon(folder.path)
        raise
    return _drive(session, folder, console, _plan(session, folder, conf, clock_only), Tally(_target(job)))


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
    clock_only = plan is not None and plan.clock_only
    job = load_job(folder.path / JOB)
    session = compose(job, clock_only=clock_only, store=folder.path / CLIENTS, say=console.say)
    try:
        tally = Tally(_target(job))
        version = _restore(session, folder, console.say)
        folder.cut(-1 if version is None else version, console.say)
        if version is not None:
            for record in folder.read(console.say):
                tally.add(record)
    except BaseException:
        session.close()
        raise
    new = replace(_plan(session, folder, plan.conf if plan else "", clock_only), resumed_from=version or 0)
    return _drive(session, folder, console, new, tally)


def _drive(session: Session, folder: RunFolder, console: Sink, plan: RunPlan, tally: Tally) -> dict[str, Any]:
    """Runs to the end, or to an interrupt: records, checkpoints, the model and the summary."""
    job, sinks = session.job, (console, FolderSink(folder, console.say))
    for sink in sinks:
        sink.begin(plan)
    boundary, saved = session.mark(), session.sim.state.version
    interrupted = False
    try:
        with _interrupts():
            for record in session.sim:
                for sink in sinks:
                    sink.tell(record)
                tally.add(record)
                if not record.complete:
                    continue
                boundary = session.mark()
                if record.version - saved >= job.track.checkpoint_every and session.sim.ended is None:
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
        session.close()
    if session.plane is not None:
        _write_model(folder.path / MODEL, session.spec, session.plane.params)
    summary = _summary(session, tally, interrupted)
    for sink in reversed(sinks):
        sink.end(summary)
    return summary.to_json()


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
    if session.plane is not None and boundary[1] is not None:
        session.plane.moment = boundary[1]
        session.plane.store.rollback()
    if boundary[0].version > saved:
        _save(session, folder, boundary)


def _save(session: Session, folder: RunFolder, boundary: Boundary) -> None:
    """Writes a checkpoint of the end of a version."""
    state, moment = boundary
    control: dict[str, Any] = {"wall_secs": session.sim.wall_secs, "spec": session.spec.to_json()}
    tensors: dict[str, npt.NDArray[Any]] = {}

    def add(name: str, part: tuple[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]]) -> None:
        control[name] = part[0]
        tensors.update({f"{name}.{key}": array for key, array in part[1].items()})

    add("server", save_state(state))
    if session.plane is not None and moment is not None:
        add("plane", save_moment(moment))
        add("store", session.plane.store.save())
    kept = checkpoint.write(folder.path, state.version, control, tensors, session.job.track.keep_checkpoints)
    if session.plane is not None:
        session.plane.store.prune({c["store"]["generation"] for c in kept})


def _restore(session: Session, folder: RunFolder, say: Say) -> int | None:
    """Puts the newest whole checkpoint back; returns its version, None if there is none."""
    for control, tensors in checkpoint.read(folder.path, say):
        parts: dict[str, dict[str, Any]] = {"server": {}, "plane": {}, "store": {}}
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
        session.sim = replace(session.sim, state=state, wall_before=float(control["wall_secs"]))
        checkpoint.set_aside(folder.path, state.version)
        return state.version
    why = "no checkpoint that can be used" if checkpoint.set_aside(folder.path, -1) else "no checkpoint yet"
    say(f"{folder.path} has {why}; starting over from its {JOB}")
    return None


def _plan(session: Session, folder: RunFolder, conf: str, clock_only: bool) -> RunPlan:
    job, stop = session.job, session.job.stop
    return RunPlan(
        name=job.name,
        algorithm=job.algorithm.name,
        data=label(job.data),
        model=label(job.model),
        num_clients=session.num_clients,
        num_parameters=session.spec.num_parameters,
        model_bytes=session.spec.num_bytes,
        rounds=stop.rounds,
        virtual_secs=stop.virtual_secs,
        wall_secs=stop.wall_secs,
        target_metric=stop.target.metric if stop.target else None,
        target_value=stop.target.value if stop.target else None,
        out=folder.path,
        conf=conf,
        choices=session.choices,
        clock_only=clock_only,
        surrogate=session.sim.surrogate,
    )


def _target(job: Job) -> tuple[str, float] | None:
    return (job.stop.target.metric, job.stop.target.value) if job.stop.target else None


def _summary(session: Session, tally: Tally, interrupted: bool = False) -> Summary:
    ended = session.sim.ended
    if interrupted or ended is None:
        status, why = "interrupted", "it was interrupted; `muster resume` goes on with it"
    else:
        status, why = ended.status, ended.why
    return tally.summary(
        status,
        why,
        session.peak_rss_bytes(),
        session.model_sha256(),
        session.job.seed,
        wall_secs=session.sim.wall_secs,
    )


def _write_model(path: Path, spec: ParamSpec, params: npt.NDArray[np.float32]) -> None:
    arrays = {name: np.ascontiguousarray(view) for name, view in spec.views(params).items()}
    write_whole(path, save(arrays, metadata={"format": "pt", "sha256": spec.sha256(params)}))


def _abandon(path: Path) -> None:
    """Takes back a run folder in which nothing has happened yet."""
    shutil.rmtree(path / CLIENTS, ignore_errors=True)
    with suppress(OSError):
        (path / JOB).unlink()
        path.rmdir()
