"""A deployed run's parts put together: the same for a server that begins, one that goes on, and a replay."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muster import checkpoint
from muster.compose import SPILL, draw_population, timeline_of
from muster.core.errors import RunFolderError, UserError
from muster.core.params import ParamSpec
from muster.core.record import Record
from muster.core.state import initial_state
from muster.core.storage import Storage
from muster.core.store import ClientStore
from muster.core.sums import scale_for
from muster.data.federated import FederatedData
from muster.job import Job
from muster.job.names import algorithms
from muster.learn.accumulator import Folding
from muster.learn.plane import DataPlane, by_coordinate, load_moment, save_moment
from muster.net.certs import write_file
from muster.net.conductor import Conductor
from muster.net.journal import JOURNAL, Entry, Note, read
from muster.net.received import Examine, MissingUpdateError, Received
from muster.net.roster import Roster
from muster.net.spool import Spool
from muster.net.wire import Layout, Route
from muster.privacy import Privacy, expecting, reckoned
from muster.track.units import bytes_text

from .errand import Errand, demanded, written
from .examiner import Start

CLIENTS, SECRET = "clients", "secret"
SECRET_BYTES = 32

Say = Callable[[str], None]


@dataclass
class Assembly:
    """A deployed run, at rest: entries may be delivered to its conductor."""

    job: Job
    spec: ParamSpec
    route: Route
    conductor: Conductor
    plane: DataPlane
    crew: Received
    spool: Spool
    storage: Storage
    errand: str
    num_examples: npt.NDArray[np.int32]
    privacy: Privacy | None
    """How a private run is accounted for."""
    records: list[Record] = field(default_factory=list)
    """Told and not yet written."""
    notes: list[Note] = field(default_factory=list)
    wall_before: float = 0.0
    """Wall seconds before this process took the run up."""
    begun: float = field(default_factory=time.perf_counter)

    @property
    def wall_secs(self) -> float:
        """Wall time of the run."""
        return self.wall_before + time.perf_counter() - self.begun

    def saved(self, end: int) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """A checkpoint's content, right after a version was made by the entry that ends at byte `end`."""
        self.plane.mark()
        parts = {
            "conductor": self.conductor.save(),
            "plane": save_moment(self.plane.moment),
            "store": self.plane.store.save(),
        }
        control: dict[str, Any] = {name: body for name, (body, _) in parts.items()}
        control |= {"spec": self.spec.to_json(), "journal": end, "wall_secs": self.wall_secs}
        tensors = {f"{name}.{key}": array for name, (_, of) in parts.items() for key, array in of.items()}
        return control, tensors

    def restore(self, control: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> int:
        """Puts a checkpoint's content back; returns where in the journal it goes on.

        Raises:
            ValueError: It belongs to another run, or the clients' states that it needs are gone.
        """
        if "conductor" not in control or control["spec"] != self.spec.to_json():
            raise ValueError("it is of another run or model")
        parts: dict[str, dict[str, Any]] = {"conductor": {}, "plane": {}, "store": {}}
        for name, array in tensors.items():
            part, _, key = name.partition(".")
            parts[part][key] = array
        self.plane.store.load(control["store"], parts["store"])
        self.plane.moment = load_moment(control["plane"], parts["plane"])
        self.conductor.load(control["conductor"], parts["conductor"])
        self.wall_before = float(control["wall_secs"])
        return int(control["journal"])


def assemble(
    job: Job,
    folder: Path,
    start: Start,
    examine: Examine,
    *,
    store: Path | None,
    evaluates: bool = True,
    make_crew: Callable[..., Received] = Received,
) -> Assembly:
    """Puts a deployed run together.

    Args:
        job: The job, with the backend chosen.
        folder: The run folder.
        start: From the examiner.
        examine: Metrics of a model.
        store: Folder of what the server's rules remember of clients; None: a temporary one.
        evaluates: False in a replay.
        make_crew: Who folds, from the arguments of `Received`.

    Raises:
        UserError: The model is to be kept on disk, where the algorithm does not work.

    """
    data = FederatedData.open(start.data)
    algorithm, spec = expecting(job.algorithm, data.num_clients).fitted(), start.spec
    local = job.algorithm.local
    local.check_model(spec)
    population = draw_population(job, np.asarray(data.num_examples))
    route = Route.of(spec.size, spec.places(local.personal(spec)))
    privacy = reckoned(algorithm, population, 1.0, spec)  # real clients may get lost: nothing is amplified
    deploy = job.deploy
    spool = Spool(folder, Layout(tuple((n, route.length) for n in local.up), job.compress), deploy.zstd)
    if store is not None:
        store.mkdir(parents=True, exist_ok=True)
    clients = ClientStore(store)
    folding = Folding(
        algorithm.combine,
        algorithm.combine.max_weight(population),
        scale_for(algorithm.pace.max_accepts),
        job.seed_of("training"),
        local,
        str(clients.folder / SPILL) if algorithm.combine.needs_all else None,
    )
    arrived: dict[int, Entry] = {}
    crew = make_crew(folding, spec, data, spool, route, arrived, examine)
    plane = DataPlane(
        algorithm, spec, crew, clients, population, folding, start.initial, storage=start.storage
    )
    if start.storage.folder is not None and make_crew is Received:
        _check_on_disk(job, plane, spec)
    state = initial_state(algorithm, population, job.limits)
    roster = Roster(data.num_clients, data.client_names, _secret(folder), deploy.quarantine_after)
    records: list[Record] = []
    notes: list[Note] = []
    conductor = Conductor(
        algorithm,
        job.seed_of("selection"),
        roster,
        state,
        plane,
        tell=records.append,
        note=notes.append,
        model_sha256=lambda: spec.sha256(plane.params),
        num_bytes=4 * (route.length + spec.trained * (len(local.down) - 1)),
        evaluates=evaluates,
        num_tested=start.num_tested,
        timeline=timeline_of(job, data.num_clients),
        epsilon=None if privacy is None else privacy.epsilon,
        arrived=arrived,
        norm_warning=deploy.norm_warning,
    )
    made = Assembly(
        job,
        spec,
        route,
        conductor,
        plane,
        crew,
        spool,
        start.storage,
        written(errand_of(job, start, data)),
        data.num_examples,
        privacy,
        records,
        notes,
    )
    conductor.wall_secs = lambda: made.wall_secs
    return made


def on_disk() -> list[str]:
    """The algorithms of the shelf that can be run with a model that is kept on disk."""
    return [name for name, build in algorithms().items() if by_coordinate(build())]


def _check_on_disk(job: Job, plane: DataPlane, spec: ParamSpec) -> None:
    """Raises UserError, and closes the plane, if the job has something done to whole vectors."""
    algorithm, why = job.algorithm, ""
    if job.compress is not None:
        why = f"compress: {job.compress.part_name()} decodes whole updates"
    elif not plane.in_parts:
        names = algorithm.combine.part_name(), algorithm.server.part_name()
        why = f"algorithm.combine: {names[0]} with algorithm.server: {names[1]} works on whole vectors"
    if why:
        plane.close()
        raise UserError(
            f"the model has {bytes_text(spec.num_bytes)}, more than deploy.memory_mb allows in memory, so it "
            f"would be kept on disk, but {why}; choose no compress or deploy.zstd, and one of "
            f"{', '.join(on_disk())}; or allow more memory: deploy.memory_mb"
        )


def errand_of(job: Job, start: Start, data: FederatedData) -> Errand:
    """What the job has its clients do."""
    algorithm = job.algorithm
    return Errand(
        start.backend,
        job.model,
        job.task,
        algorithm.local,
        job.compress,
        algorithm.local.work(job.train),
        {stream: job.seed_of(stream) for stream in ("data", "model", "training")},
        data.facts,
        job.data,
        start.numerics.on("cpu"),  # a client's machine is its own: it says where it computes
        attack=job.attack,
        num_clients=data.num_clients,
        asks=algorithm.select.asks,
        demands=demanded(algorithm.local, start.spec),
    )


def _secret(folder: Path) -> bytes:
    """The run's secret, made when the run begins: sessions and nonces come from it.

    One that is not whole is made anew: nobody may be able to guess it, and clients join again by themselves.
    """
    path = folder / SECRET
    if path.is_file() and len(held := path.read_bytes()) == SECRET_BYTES:
        return held
    write_file(path, made := secrets.token_bytes(SECRET_BYTES), 0o600)
    return made


def deliver_all(made: Assembly, path: Path, start: int) -> int:
    """Delivers the journal's entries from byte `start` on; checks them against the notes that it holds.

    Returns:
        The run time of the last entry, ns.

    Raises:
        RunFolderError: An update is missing, or a version came out as another one.
    """
    lines = [body for _, body in read(path, start)]
    shas = {body["made"]: body["sha256"] for body in lines if not isinstance(body, Entry) and "made" in body}
    ends = {body["at"]: body for body in lines if not isinstance(body, Entry) and "end" in body}
    now = made.conductor.state.now_ns
    for entry in lines:
        if not isinstance(entry, Entry):
            continue
        made.conductor.deliver(entry)
        now = max(now, entry.now)
        if made.conductor.ended is None and (ending := ends.get(made.conductor.state.now_ns)):
            made.conductor.end(ending["end"], ending["why"])
        for note in made.notes:
            if "made" in note and shas.get(note["made"], note["sha256"]) != note["sha256"]:
                raise RunFolderError(
                    f"{path}: version {note['made']} came out as {note['sha256'][:16]}..., the journal says "
                    f"{shas[note['made']][:16]}...: the updates or the code are not what they were"
                )
        made.notes[:] = [n for n in made.notes if n.get("made") not in shas and n.get("at") not in ends]
    return now


def take_up(
    make: Callable[[], Assembly], folder: Path, say: Say, *, newest: bool = True, on_disk: bool = False
) -> tuple[Assembly, int]:
    """The run as its folder has it: from a checkpoint that is whole, and the journal behind it.

    Args:
        make: Puts the run together, as it is before its beginning.
        folder: The run folder.
        say: Told of what is damaged.
        newest: Begin with the newest checkpoint; else at the beginning, or as near to it as updates are kept.
        on_disk: Whether models are kept on disk.

    Returns:
        The assembly, and the run time of its last entry.

    Raises:
        RunFolderError: No checkpoint is whole, and the updates since the beginning are no longer there.
    """
    starts: Iterator[Any] = chain(checkpoint.read(folder, say, on_disk or not newest), (None,))
    why: list[str] = []
    for start in starts if newest else reversed([*starts]):
        made, first = make(), start is None
        try:
            at = 0 if start is None else made.restore(*start)
            del start  # the model is the run's alone now
            return made, deliver_all(made, folder / JOURNAL, at)
        except (ValueError, MissingUpdateError) as error:
            made.plane.close()
            why.append(str(error))
            if newest and not first:
                say(f"a checkpoint cannot be used ({error}); going back to the one before")
    raise RunFolderError(
        f"{folder}: no checkpoint can be used, and the run cannot be made again from its beginning "
        f"({why[-1]}); take the checkpoints from a copy, or begin anew with another --out"
    )
