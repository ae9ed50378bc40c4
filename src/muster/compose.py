"""Puts the parts of a job together into a session that is ready to run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from muster.core.errors import JobError, UserError
from muster.core.examples import Facts
from muster.core.ledger import Power
from muster.core.memory import peak_rss_bytes, trim
from muster.core.params import ParamSpec
from muster.core.population import Population
from muster.core.randomness import rng
from muster.core.state import ServerState, initial_state
from muster.core.store import ClientStore
from muster.core.sums import FixedPointSum, scale_for
from muster.core.tables import Ids
from muster.core.work import Work
from muster.data.federated import FederatedData
from muster.data.store import prepare
from muster.devices.clocks import TRAIN_FACTOR, Clock
from muster.devices.world import World
from muster.job import Job, check_population
from muster.learn.accumulator import Folding
from muster.learn.automatic import Automatic
from muster.learn.calibration import forward_ms
from muster.learn.crew import Crew, Inline, Recipe
from muster.learn.device import choose_device, num_gpus
from muster.learn.learner import Learner
from muster.learn.learners import choose_engine, make_learner
from muster.learn.macs import forward_macs
from muster.learn.plane import DataPlane, Moment
from muster.learn.pool import Lifetime, Pool
from muster.learn.profile import ProfiledPlane
from muster.learn.stopwatch import LEARNER, Stopwatch, watched
from muster.learn.trainer import Trainer
from muster.privacy import Privacy, expecting, reckoned
from muster.sim.clock_only import ClockOnly
from muster.sim.link import Flows, ServerLink
from muster.sim.simulation import Outside, Simulation

SPILL = "updates.f32"
"""Beside the clients' states: where updates wait for a rule that must see all of them."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Boundary:
    """The end of a version, to go back to."""

    state: ServerState
    """Of the control plane."""
    moment: Moment | None
    """Of the data plane; None in a clock-only run."""
    flows: Flows | None
    """Of the server's link; None where it is not shared."""


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
    privacy: Privacy | None = None
    """How a private run is accounted for."""
    profiled: ProfiledPlane | None = None
    """The plane under a watch, if there is one."""

    def mark(self) -> Boundary:
        """The end of a version: references, and a copy of the flows of a shared link."""
        flows = self.sim.link.mark() if self.sim.link else None
        return Boundary(self.sim.state, self.plane.mark() if self.plane else None, flows)

    def peaks(self) -> tuple[int, ...]:
        """Peak RSS in bytes of this process and of each of its workers."""
        return peak_rss_bytes(), *(self.plane.peaks() if self.plane else ())

    def writing(self) -> AbstractContextManager[None]:
        """A stretch in which records and checkpoints are written, for the watch if there is one."""
        return nullcontext() if self.profiled is None else self.profiled.watch.at("write")

    def model_sha256(self) -> str | None:
        """Hash of the model that came out; None in a clock-only run."""
        return self.spec.sha256(self.plane.result) if self.plane else None

    def close(self) -> None:
        """Ends the workers, and gives back what training has used: charts may be drawn next."""
        if self.plane:
            self.plane.close()
        trim(self.spec.num_bytes)


def compose(
    job: Job,
    *,
    clock_only: bool = False,
    store: Path | None = None,
    max_workers: int | None = None,
    say: Say = lambda line: None,
    watch: Stopwatch | None = None,
) -> Session:
    """Puts a job together.

    Args:
        job: The job.
        clock_only: Time everything and train nothing.
        store: Folder for the clients' lasting states; None is a temporary one.
        max_workers: For `workers: auto`; None is the number of cores.
        say: Told what is chosen while the run goes on.
        watch: Takes the times of what runs, if it is given.

    Raises:
        UserError: The job cannot be run with this data or what is installed.

    """
    if clock_only and job.stop.target is not None:
        raise JobError(
            f"stop.target waits for {job.stop.target.metric}, but a clock-only run trains nothing that could "
            "reach it; leave out --clock-only, or add stop.target=null"
        )
    data = prepare(job.data, job.seed_of("data"))
    check_population(job, data.num_clients)
    population = draw_population(job, np.asarray(data.num_examples))
    asked = job.engine
    asked = replace(asked, device=choose_device(asked.device, asked.backend, job.model))
    engine = choose_engine(
        asked.backend,
        asked.mode,
        asked.chunk,
        job.model,
        data.facts,
        job.algorithm.local,
        asked.numerics,
        job.task,
    )
    backend, chunk = engine.backend, engine.chunk if engine.mode == "cohort" else 0
    algorithm, local = expecting(job.algorithm, data.num_clients).fitted(), job.algorithm.local
    work = local.work(job.train)
    learner = make_learner(backend, job.model, job.task, data.facts, local, work, asked.numerics, chunk)
    chosen = replace(asked, backend=backend, mode=engine.mode, chunk=engine.chunk)
    chosen = chosen.with_numerics(learner.numerics)
    job = replace(job, engine=chosen, clock=_read_clock(job, learner, data, work))
    spec = learner.spec
    local.check_model(spec)
    privacy = reckoned(algorithm, population, job.population.dropout, spec)
    travels = spec.num_bytes - 4 * len(spec.places(local.personal(spec)))
    world = World(
        population,
        work,
        down_bytes=travels * len(local.down),
        up_bytes=len(local.up) * (job.compress.num_bytes(travels // 4) if job.compress else travels),
        dropout=job.population.dropout,
        seed=job.seed_of("clock"),
        clock=job.clock,
        macs=forward_macs(job.model, job.task, data.facts) if job.clock.compute == "flops" else 0.0,
        passes=local.passes * local.repeats,
        looks=int(local.needs_loss),
    )
    timed = watched(world, watch, outcomes="world", present="world", num_online="world", timing="world")
    link, power = _server_link(job, world), _power(job)
    if algorithm.select.foresees:
        population = replace(population, task_secs=world.expected_secs())
    if algorithm.pace.foresees:
        population = replace(population, foreseen=world.foreseen())
    state = initial_state(algorithm, population, job.limits)
    target = job.stop.target
    outside = Outside(job.stop.wall_secs, target.metric if target else "", target.value if target else None)
    simulation = partial(
        Simulation,
        algorithm=algorithm,
        seed=job.seed_of("selection"),
        world=timed,
        state=state,
        outside=outside,
        link=link,
        power=power,
        timeline=timeline_of(job, data.num_clients),
        epsilon=None if privacy is None else privacy.epsilon,
    )
    if clock_only:
        surrogate = bool(algorithm.select.reads) or algorithm.select.asks
        stand_in = ClockOnly(population.num_examples, work, job.seed_of("training"), surrogate)
        sim = simulation(plane=watched(stand_in, watch, advance="apply"), surrogate=surrogate)
        return Session(job, sim, None, spec, _said_of(job.clock), data.num_clients, privacy)
    clients = ClientStore(store)
    folding = Folding(
        algorithm.combine,
        algorithm.combine.max_weight(population),
        scale_for(algorithm.pace.max_accepts),
        job.seed_of("training"),
        local,
        str(clients.folder / SPILL) if algorithm.combine.needs_all else None,
        job.compress,
        job.attack,
    )
    recipe = Recipe(
        backend,
        job.model,
        job.task,
        local,
        work,
        folding,
        str(data.path),
        chunk,
        learner.numerics,
        watch is not None,
        job.track.evaluate_sample,
        job.track.per_client,
    )
    learner = watched(learner, watch, **LEARNER)
    initial = learner.initial(job.seed_of("model"))
    size = len(local.up) * spec.size

    def inline() -> Inline:
        trainer = Trainer(learner, data, folding, FixedPointSum(size, folding.scale), chunk, True)
        return Inline(trainer, recipe.sample, recipe.share)

    def pool(num_workers: int) -> Pool:
        most = None if asked.max_worker_mb == "auto" else asked.max_worker_mb << 20
        return Pool(
            recipe, num_workers, size, len(data.test), Lifetime(most), say, watch, job.track.evaluate_overlap
        )

    crew, workers = _crew(job, inline, pool, max_workers, say)
    crew = watched(crew, watch, train="fold", total="fold", clear="fold")
    choices = (
        f"backend: {backend}" + (" (auto)" if asked.backend == "auto" else ""),
        engine.why,
        *learner.numerics.said(),
        workers,
    )
    plane = DataPlane(algorithm, spec, crew, clients, population, folding, initial, job.track.per_client > 0)
    profiled = None
    if watch is not None:
        flops = _sample_flops(job, data.facts)
        profiled = ProfiledPlane(plane, watch, work, flops, learner.numerics)
    sample = job.track.evaluate_sample
    sim = simulation(plane=profiled or plane, num_tested=sample if 0 < sample < len(data.test) else None)
    told = () if privacy is None else (f"privacy: {privacy.why}",)
    said = choices + _said_of(job.clock) + told
    return Session(job, sim, plane, spec, said, data.num_clients, privacy, profiled)


def draw_population(job: Job, num_examples: npt.NDArray[np.int32]) -> Population:
    """The job's devices, one for each client; when they are online may have a seed of its own."""
    drawn = job.population.draw(num_examples, job.seed_of("devices"))
    seed = job.seed_of("availability")
    if seed == job.seed_of("devices") or drawn.availability is None:
        return drawn
    return replace(drawn, availability=job.population.draw(num_examples, seed).availability)


def _sample_flops(job: Job, facts: Facts) -> float | None:
    """Floating-point operations to train on one example; None where nobody can count them."""
    local = job.algorithm.local
    try:
        return 6.0 * forward_macs(job.model, job.task, facts) * local.passes * local.repeats
    except UserError:  # only torch can count those of models that are not dense
        return None


def _read_clock(job: Job, learner: Learner, data: FederatedData, work: Work) -> Clock:
    """The job's clock; what it has to measure on this machine is measured, unless the job says it already."""
    clock = job.clock
    if clock.compute != "measured" or clock.measured_ms is not None:
        return clock
    initial = learner.initial(job.seed_of("model"))
    return replace(clock, measured_ms=forward_ms(learner, data, job.algorithm.local, work, initial))


def _said_of(clock: Clock) -> tuple[str, ...]:
    """A line about what was measured."""
    if clock.measured_ms is None:
        return ()
    return (
        f"clock: training on an example takes {TRAIN_FACTOR * clock.measured_ms:.4g} ms here, as on a device "
        f"of {clock.host_ms:g} ms",
    )


def timeline_of(job: Job, num_clients: int) -> Ids:
    """The clients whose tasks are recorded one by one."""
    if num_clients <= job.track.timeline:
        return np.arange(num_clients)
    return np.sort(rng(job.seed, "timeline").choice(num_clients, job.track.timeline, replace=False))


def _power(job: Job) -> Power | None:
    """What devices draw, if the job says so."""
    watts = job.clock.compute_watts, job.clock.link_watts
    return None if watts == (None, None) else Power(watts[0] or 0.0, watts[1] or 0.0)


def _server_link(job: Job, world: World) -> ServerLink | None:
    """The server's link, if the job makes tasks share it."""
    clock = job.clock
    if not clock.shared:
        return None
    kbit = clock.bits_per_kbit / 1000.0
    down, up = (None if k is None else k * kbit for k in (clock.server_down_kbps, clock.server_up_kbps))
    return ServerLink(down, up, world.down_bytes, world.up_bytes)


def _crew(
    job: Job,
    inline: Callable[[], Inline],
    pool: Callable[[int], Pool],
    max_workers: int | None,
    say: Say,
) -> tuple[Crew, str]:
    """Who trains, and a line that says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked, gpus = job.engine.workers, num_gpus(job.engine.device)
    if asked == "auto" and gpus:
        asked = min(gpus, job.algorithm.pace.max_accepts)
    if asked == "auto":
        most = min(max_workers or cores, job.algorithm.pace.max_accepts)
        automatic = Automatic(inline(), lambda: pool(most), most, say)
        return automatic, f"workers: 1 to begin with, up to {most} if training takes long (auto)"
    if asked == 1:
        return inline(), "workers: 1, in this process"
    return pool(asked), f"workers: {asked} processes"
