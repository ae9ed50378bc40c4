"""Jobs whose settings are each fine and cannot be run together."""

from __future__ import annotations

from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from muster.core.errors import DataError, FieldError, JobError, nearest
from muster.core.tables import REPORT
from muster.devices.imported import Imported
from muster.devices.trace_folder import read_facts
from muster.learn.device import conflict, unrecorded
from muster.models.own import OwnModel
from muster.models.recurrent import CharLSTM
from muster.sim.link import MAX_FLOWS
from muster.tasks.task import Task

from .names import label, parts
from .settings import Job
from .source import Keys

Conflict = tuple[tuple[Keys, ...], str]
"""Where the line of a conflict may be found, the likeliest first, and the sentence."""


def num_clients(job: Job) -> int | None:
    """How many clients the job has, if its partition says so; else only the data set knows."""
    count = getattr(job.data.partition, "num_clients", None)
    return count if isinstance(count, int) else None


def check_population(job: Job, num_clients: int) -> None:
    """Refuses a job that wants more clients at work at once than there are.

    Raises:
        JobError: `algorithm.pace` may have more tasks out than there are clients.
    """
    for _, text in _population(job, num_clients):
        raise JobError(text)


def conflicts(job: Job) -> list[Conflict]:
    """All that makes the job impossible and can be known before its data is read."""
    most = num_clients(job) or getattr(job.data.partition, "max_clients", None)
    found = _backend(job) + _task(job) + _target(job) + _reads(job) + _parts(job) + _link(job) + _attack(job)
    if isinstance(most, int):
        found += _population(job, most)
    if isinstance(job.population, Imported):
        if job.population.join != "independent" and job.seed_of("availability") != job.seed_of("devices"):
            text = (
                f"seeds: population.join is {job.population.join!r}, so devices and availability are of one "
                "draw; give seeds.devices and seeds.availability the same value, or join: independent"
            )
            found.append(((("seeds", "availability"), ("seeds", "devices"), ("seeds",)), text))
        try:
            read_facts(Path(job.population.path))
        except DataError as error:
            found.append(((("population", "path"), ("population",)), f"population.path: {error}"))
    try:
        job.data.sources()
    except Exception as error:  # a user's data set may raise anything
        said = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        found.append(((("data", "root"), ("data", "name"), ("data",)), f"data: {said}"))
    return found


def _population(job: Job, num_clients: int) -> list[Conflict]:
    pace: Any = job.algorithm.pace
    if pace.max_out <= num_clients:
        return []
    sizes = [(f.name, getattr(pace, f.name)) for f in fields(pace)]
    counts = [(n, v) for n, v in sizes if isinstance(v, int) and v <= pace.max_out] or sizes
    widest = max(counts, key=lambda pair: pair[1])[0] if counts else "name"
    known = hasattr(job.data.partition, "num_clients")
    more = "raise data.partition.num_clients" if known else "take data with more clients"
    text = (
        f"algorithm.pace has up to {pace.max_out} clients at work at once, but there are only {num_clients}; "
        f"lower algorithm.pace.{widest} or {more}"
    )
    above = [("algorithm", "pace", name) for name, _ in [(widest, 0), *sizes]]
    return [((*above, ("data", "partition", "num_clients"), ("data", "partition"), ("algorithm",)), text)]


def _link(job: Job) -> list[Conflict]:
    most = job.algorithm.pace.max_out
    if not job.clock.shared or most <= MAX_FLOWS:
        return []
    text = (
        f"clock: at most {MAX_FLOWS:,} tasks can share the server's link (server_down_kbps, server_up_kbps), "
        f"but algorithm.pace has up to {most:,} out at once; lower that, or leave the link out"
    )
    return [((("clock", "server_down_kbps"), ("clock", "server_up_kbps"), ("clock",)), text)]


def _parts(job: Job) -> list[Conflict]:
    """Parts of the data plane that do not speak of the same vectors."""
    local, combine, server = job.algorithm.local, job.algorithm.combine, job.algorithm.server
    names = local.part_name(), combine.part_name(), server.part_name()
    found: list[Conflict] = []

    def note(section: str, text: str) -> None:
        found.append(((("algorithm", section, "name"), ("algorithm", section), ("algorithm",)), text))

    sent = set(local.down) - {"model"}
    known = set(server.init(np.zeros(1, np.float32))) if sent else set()
    for name in sorted(set(server.reads) - set(local.up)):
        note(
            "server",
            f"algorithm.server {names[2]} needs {name!r}, which algorithm.local {names[0]} does not send",
        )
    for name in sorted(sent - known):
        note(
            "local",
            f"algorithm.local {names[0]} is to be sent {name!r}, which algorithm.server {names[2]} lacks",
        )
    if combine.needs_all and len(local.up) > 1:
        more = ", ".join(local.up[1:])
        note(
            "combine",
            f"algorithm.combine {names[1]} takes deltas only, but {names[0]} sends {more} too; take mean",
        )
    for section, part in (("combine", combine), ("server", server)):
        try:
            part.fitted(local)
        except FieldError as error:
            note(section, f"algorithm.{section}: {error}")
    return found


def _reads(job: Job) -> list[Conflict]:
    reads: Any = job.algorithm.select.reads
    known = REPORT.names or ()
    place: tuple[Keys, ...] = (("algorithm", "select", "name"), ("algorithm", "select"), ("algorithm",))
    if not isinstance(reads, tuple):
        return [(place, f"algorithm.select has reads = {reads!r}, but must have a tuple of column names")]
    wrong = next((name for name in reads if name not in known), None)
    if wrong is None:
        return []
    text = f"algorithm.select reads {wrong!r}, but reports hold only {', '.join(known)}"
    return [(place, f"{text}{nearest(str(wrong), known)}")]


def _backend(job: Job) -> list[Conflict]:
    wanted, can, model = job.engine.backend, job.model.backends, label(job.model)
    place: tuple[Keys, ...] = (("engine", "backend"), ("engine",))
    has_torch = find_spec("torch") is not None
    if wanted != "auto" and wanted not in can:
        allowed = ", ".join(("auto", *can))
        return [(place, f"engine.backend is {wanted!r}, but model {model} allows only: {allowed}")]
    if problem := conflict(job.engine.device, wanted):
        return [((("engine", "device"), ("engine",)), problem)]
    if job.engine.graphs and (problem := unrecorded(job.engine.device, job.engine.mode)):
        return [((("engine", "graphs"), ("engine",)), problem)]
    fix = "pip install 'muster-fl[torch]'"
    if wanted == "torch" and not has_torch:
        return [(place, f"engine.backend is 'torch', but torch is not installed: {fix}")]
    if "numpy" not in can and not has_torch:
        return [
            ((("model", "name"), ("model",)), f"model {model} needs torch, which is not installed: {fix}")
        ]
    return []


def _attack(job: Job) -> list[Conflict]:
    if job.attack is None or not job.attack.needs_images or job.data.task != "next_character":
        return []
    text = f"attack {label(job.attack)} changes numbers, but the examples of data {label(job.data)} are text"
    return [((("attack", "name"), ("attack",)), f"{text}; take another attack")]


def _task(job: Job) -> list[Conflict]:
    task, data, model = label(job.task), label(job.data), label(job.model)
    place: tuple[Keys, ...] = (("task", "name"), ("task",), ("data", "name"), ("data",))
    if task in parts(Task) and task != job.data.task:
        return [(place, f"task is {task!r}, but must be {job.data.task!r}, which is what data {data} is for")]
    ours = type(job.model).__module__.startswith("muster.models.") and not isinstance(job.model, OwnModel)
    fits = "next_character" if isinstance(job.model, CharLSTM) else "classification"
    if ours and task in parts(Task) and task != fits:
        place = (("model", "name"), ("model",), *place)
        fix = "model: char_lstm" if task == "next_character" else "another model, like model: mlp"
        return [(place, f"model {model} is for task {fits}, but data {data} is for {task}; write {fix}")]
    return []


def _target(job: Job) -> list[Conflict]:
    if job.stop.target is None:
        return []
    try:
        measured = job.task.numpy_metrics(np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
    except Exception:  # a user's task that cannot measure two scores: the run will tell
        return []
    metric, known = job.stop.target.metric, sorted({"loss", *measured})
    if metric in known:
        return []
    text = f"stop.target.metric is {metric!r}, but must be one of {', '.join(known)}{nearest(metric, known)}"
    return [((("stop", "target", "metric"), ("stop", "target"), ("stop",)), text)]
