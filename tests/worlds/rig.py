"""An algorithm, a world and a learner put together as a run is, with all of it in view."""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from muster.algorithms.fedavg import SGD, Add
from muster.core.algorithm import Algorithm, Local
from muster.core.record import Record
from muster.core.state import Limits, ServerState, initial_state, load_state, save_state
from muster.core.step import step
from muster.core.storage import IN_MEMORY, Storage
from muster.core.store import ClientStore
from muster.core.sums import FixedPointSum, scale_for
from muster.core.tables import (
    EVENT,
    MEASURED,
    REPORT,
    TASK,
    Accept,
    Advance,
    Command,
    Continue,
    Discard,
    Events,
    Kind,
    Measure,
    Reason,
    Stop,
    Train,
    rows,
)
from muster.core.work import Work
from muster.data.federated import FederatedData
from muster.job.names import algorithms
from muster.learn.accumulator import Folding
from muster.learn.crew import Inline
from muster.learn.numpy_learner import NumpyLearner
from muster.learn.plane import DataPlane, load_moment, save_moment
from muster.learn.trainer import Trainer
from muster.models.dense import Logistic
from muster.sim.link import ServerLink, load_flows, save_flows
from muster.sim.simulation import Simulation
from muster.tasks.classification import Classification
from worlds.toy import FACTS, Wander, toy_data, toy_population
from worlds.world import ToyWorld

SMALL = {"cohort": 4, "size": 3, "concurrency": 5, "workers": 4, "period_secs": 20.0}
"""Settings of paces, by name, that suit twelve clients. A pace with another gets its own line here."""
SMALL_SELECT = {"tiers": 3, "interval": 2}
"""The same of selects."""
NAMES = list(algorithms())
"""Every algorithm there is."""


def small(name: str, **pace: Any) -> Algorithm:
    """An algorithm by name, in the size of a toy world; settings that its pace does not know are left out."""
    algorithm = algorithms()[name]()
    known = {f.name for f in fields(algorithm.pace)}
    settings = {k: v for k, v in {**SMALL, **pace}.items() if k in known}
    chosen = {k: v for k, v in SMALL_SELECT.items() if k in {f.name for f in fields(algorithm.select)}}
    algorithm = algorithm.but(pace=replace(algorithm.pace, **settings)).fitted()
    algorithm = algorithm.but(select=replace(algorithm.select, **chosen))
    assert algorithm.pace.max_out <= 12, f"give the settings of {name}'s pace a line in worlds/rig.py: SMALL"
    return algorithm


def plain(algorithm: Algorithm) -> Algorithm:
    """The same with a server that adds the combined delta as it is, so that it can be seen.

    A server that sends something of its own along adds the delta, and cannot be left out.
    """
    return algorithm if algorithm.local.down[1:] else algorithm.but(server=Add())


class Watched(Simulation):
    """A simulation whose commands are in view: `told` is one (events, commands) pair a step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: list[tuple[Events, list[Command]]] = []

    def _step(self, events: Events) -> list[Command]:
        commands = super()._step(events)
        self.told.append((events, commands))
        return commands


@dataclass
class Rig:
    """What a run is made of; `run` builds it, runs it and keeps what came out.

    Args:
        algorithm: The five parts.
        world: The devices.
        data: The clients' examples; its number of clients must be the world's.
        make_learner: A new learner; default: `Wander`.
        make_crew: Trainer -> crew; default: in this process.
        seed: Of the run.
        limits: When it ends.
        store: Folder of the clients' states; default: one that goes with the rig.
        storage: Where versions are kept that are made in parts.

    """

    algorithm: Algorithm
    world: Any = field(default_factory=ToyWorld)
    data: FederatedData = field(default_factory=toy_data)
    make_learner: Any = Wander
    make_crew: Any = Inline
    seed: int = 5
    limits: Limits = field(default_factory=lambda: Limits(rounds=6))
    store: Path | None = None
    storage: Storage = IN_MEMORY
    simulation: type[Simulation] = Watched
    kbps: float | None = None
    """Of the server's link, each way; None: it is not shared."""
    plane: DataPlane = field(init=False)
    sim: Any = field(init=False)
    records: list[Record] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.store is None:
            folder = TemporaryDirectory(prefix="muster-test-")
            self.store = Path(folder.name)
            weakref.finalize(self, folder.cleanup)
        self.plane = self.make_plane()
        weakref.finalize(self, self.plane.store.close)
        population = toy_population(self.data.num_examples.tolist())
        state = initial_state(self.algorithm, population, self.limits)
        self.sim = self.make_simulation(state)

    def folding(self) -> Folding:
        combine = self.algorithm.combine
        population = toy_population(self.data.num_examples.tolist())
        scale = scale_for(self.algorithm.pace.max_accepts)
        spill = str(self.store / "updates.f32") if combine.needs_all else None
        weight = combine.max_weight(population)
        return Folding(combine, weight, scale, self.seed, self.algorithm.local, spill)

    def make_plane(self) -> DataPlane:
        learner, folding = self.make_learner(), self.folding()
        self.store.mkdir(exist_ok=True)
        total = FixedPointSum(len(self.algorithm.local.up) * learner.spec.size, folding.scale)
        crew = self.make_crew(Trainer(learner, self.data, folding, total))
        return DataPlane(
            self.algorithm,
            learner.spec,
            crew,
            ClientStore(self.store),
            toy_population(self.data.num_examples.tolist()),
            folding,
            learner.initial(self.seed),
            storage=self.storage,
        )

    def make_simulation(self, state: ServerState) -> Any:
        link = None
        if self.kbps is not None:
            link = ServerLink(self.kbps, self.kbps, self.world.down_bytes, self.world.up_bytes)
        return self.simulation(
            self.algorithm, self.seed, self.world, self.plane, state, link=link, timeline=np.arange(12)
        )

    def run(self) -> Rig:
        """To the end."""
        self.records.extend(self.sim)
        return self

    @property
    def hash(self) -> str:
        return self.plane.spec.sha256(self.plane.params)

    @property
    def events(self) -> list[Events]:
        """The log, a table a delivery."""
        return [events for events, _ in self.sim.told]

    @property
    def commands(self) -> dict[str, list[Any]]:
        """All commands as plain data by their kind, a row each, with the instants at which they were given.

        What is accepted, or discarded as stale, is so when it arrives, with whatever it is told together.
        """
        told: dict[str, list[Any]] = {}
        for events, commands in self.sim.told:
            now = int(events.table["now"][-1])
            for command in commands:
                match command:
                    case Train(tasks):
                        found = tasks.tolist()
                    case Accept(tickets, staleness, took):
                        found = list(zip(tickets.tolist(), staleness.tolist(), took.tolist(), strict=True))
                    case Discard(tickets, reason):
                        at = None if reason == Reason.STALE else now
                        found = [(at, ticket, reason) for ticket in tickets.tolist()]
                    case _:
                        found = [(now, *plain_command(command))]
                told.setdefault(type(command).__name__, []).extend(found)
        return told

    def told_records(self) -> list[dict[str, Any]]:
        """The records without the wall's time."""
        return [{**record.to_json(), "wall_secs": 0.0} for record in self.records]


def plain_command(command: Command) -> tuple[Any, ...]:
    """A command as data that compares."""
    values = (getattr(command, f.name) for f in fields(command))
    return type(command).__name__, *(v.tolist() if isinstance(v, np.ndarray) else v for v in values)


def numpy_learner(work: Work = Work(batch_size=2), local: Local = SGD()) -> Any:
    """Makes real learners: softmax regression."""
    return lambda: NumpyLearner(Logistic(), Classification(), FACTS, local, local.work(work))


@dataclass(frozen=True)
class Saved:
    """A checkpoint as bytes."""

    control: str
    tensors: bytes


def save_run(rig: Rig) -> Saved:
    """All that a checkpoint has, through JSON and safetensors."""
    moment = rig.plane.mark()
    server, plane, store = save_state(rig.sim.state), save_moment(moment), rig.plane.store.save()
    parts = {"server": server, "plane": plane, "store": store}
    if rig.sim.link is not None:
        parts["link"] = save_flows(rig.sim.link.mark())
    control = json.dumps({name: part[0] for name, part in parts.items()})
    tensors = {f"{name}/{key}": array for name, part in parts.items() for key, array in part[1].items()}
    return Saved(control, save({key: np.ascontiguousarray(array) for key, array in tensors.items()}))


def resume_run(rig: Rig, saved: Saved) -> Rig:
    """Puts a checkpoint into a new rig."""
    control, tensors = json.loads(saved.control), load(saved.tensors)

    def of(part: str) -> dict[str, Any]:
        return {key.partition("/")[2]: v for key, v in tensors.items() if key.startswith(f"{part}/")}

    rig.plane.store.load(control["store"], of("store"))
    rig.plane.moment = load_moment(control["plane"], of("plane"))
    rig.sim = rig.make_simulation(load_state(control["server"], of("server")))
    if rig.sim.link is not None:
        rig.sim.link.restore(load_flows(control["link"], of("link")))
        rig.sim = replace(rig.sim)  # it looks at the link when it is made
    return rig


def to_bytes(log: list[Events]) -> list[tuple[bytes, bytes, bytes]]:
    return [(e.table.tobytes(), e.reports.tobytes(), e.measured.tobytes()) for e in log]


def replay(rig: Rig, log: list[tuple[bytes, bytes, bytes]]) -> list[list[Command]]:
    """Feeds a log of events to `step` and a new rig's plane, without its simulation."""
    state, out, told = rig.sim.state, rows(TASK, 0), []
    accepted: list[tuple[Any, Any, Any]] = []
    asked, took = rows(TASK, 0), np.zeros(0)
    for table, reports, measured in log:
        events = Events(*map(np.frombuffer, (table, reports, measured), (EVENT, REPORT, MEASURED)))
        if events.table["kind"][0] == Kind.MEASURED:
            found = rig.plane.measure(asked)
            found["took_secs"] = took
            assert found.tobytes() == measured
        if events.table["kind"][0] == Kind.ADVANCED:
            tasks, staleness, took = (np.concatenate(column) for column in zip(*accepted, strict=True))
            made = rig.plane.advance(tasks, staleness, set(out["version"].tolist()))
            made["secs"] = events.reports["secs"]  # the shell's own, which knows the devices
            made["took_secs"] = took
            assert made.tobytes() == reports
            accepted.clear()
        lost = events.table["ticket"][events.table["kind"] == Kind.LOST]
        out = out[~np.isin(out["ticket"], lost)]
        present = rig.world.present(int(events.table["now"][-1]))
        state, commands = step(rig.algorithm, rig.seed, state, events, present)
        told.append(commands)
        for command in commands:
            match command:
                case Train(tasks):
                    out = np.concatenate([out, tasks])
                case Continue(tickets, more):
                    out = out.copy()
                    out["steps"][np.searchsorted(out["ticket"], tickets)] += more.astype(np.int32)
                case Accept(tickets, staleness, took):
                    accepted.append((out[np.searchsorted(out["ticket"], tickets)], staleness, took))
                    out = out[~np.isin(out["ticket"], tickets)]
                case Discard(tickets, _):
                    out = out[~np.isin(out["ticket"], tickets)]
                case Measure(_, tickets, took):
                    asked = out[np.searchsorted(out["ticket"], tickets)]
                    out = out[~np.isin(out["ticket"], tickets)]
                case Advance() | Stop():
                    pass
    return told
