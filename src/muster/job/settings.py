"""`Job`: everything that one run depends on, as frozen parts."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal, get_args

from muster.core.algorithm import Algorithm
from muster.core.errors import FieldError
from muster.core.part import Part
from muster.core.state import Limits
from muster.core.tables import to_ns
from muster.core.work import Work
from muster.data.dataset import DataSet
from muster.devices.clocks import Clock
from muster.devices.devices import Devices
from muster.learn.device import ALLOWED, DEVICES
from muster.learn.learners import ASKED, Asked
from muster.learn.numerics import Convolutions, Gradients, Layout, Numerics, Precision
from muster.models.model import Model
from muster.net.settings import Deploy
from muster.tasks.task import Task
from muster.uploads.attack import Attack
from muster.uploads.compress import Compress


@dataclass(frozen=True)
class Engine(Part):
    """What computes: the ML framework, what trains together, and how many processes."""

    backend: Asked = "auto"
    """`auto` takes numpy for cohorts; else torch where it is installed and the model has it, else numpy."""
    mode: Literal["auto", "sequential", "cohort"] = "auto"
    """One client after another, or many as one tensor program. `auto` takes cohorts for dense models of which
    many fit into the processor's cache, if the local rule is one for clients side by side. `cohort` trains
    any model together whose examples do not see each other: dense ones in numpy, numba or jax, others in
    torch."""
    chunk: int | Literal["auto"] = "auto"
    """Clients of a cohort that train together; `auto` goes by the size of the model."""
    gradients: Gradients = "auto"
    """In torch: `plain` writes the gradient of the whole model; `fused`, where the local rule is SGD without
    momentum or weight decay, subtracts each tensor's as it is made; `factored` is fused, and the gradients of
    linear layers that are wide beside the batch stay two thin factors. `auto`: the last that can be."""
    layout: Layout = "auto"
    """In torch: how images lie in memory between layers. `auto`: channels last where a model has max-pooling
    layers, which are several times as fast so."""
    precision: Precision = "float32"
    """In torch: of the products in training; tf32 is of NVIDIA GPUs. Models, updates and evaluation stay
    float32."""
    device: str = "cpu"
    """In torch: cpu, cuda (all GPUs: worker i is on cuda:i), cuda:N for one of them, or auto, a GPU where
    there is one. The machine then decides about the last digits, so it is never chosen unasked."""
    convolutions: Convolutions = "auto"
    """In torch's cohorts: `direct` makes grouped convolutions of many clients' own; `unfolded` one product of
    matrices for each, from the patches of its images. `auto`: unfolded on a GPU, direct on the CPU."""
    graphs: bool = False
    """In torch's cohorts on a GPU: a step is recorded as a CUDA graph, and all its kernels are started by one
    call. It has not been run on a GPU yet."""
    workers: int | Literal["auto"] = "auto"
    """Processes that train clients side by side; the result is the same for any number of them."""
    max_worker_mb: int | Literal["auto"] = "auto"
    """Memory of its own at which a worker is replaced by a new one; `auto`: twice what it held after its
    first chunk, and 512 MB more. The result does not change."""

    def __post_init__(self) -> None:
        self.check_choice("backend", ASKED)
        self.check_choice("mode", ("auto", "sequential", "cohort"))
        self.check_choice("gradients", get_args(Gradients))
        self.check_choice("layout", get_args(Layout))
        self.check_choice("precision", get_args(Precision))
        self.check_choice("convolutions", get_args(Convolutions))
        if not isinstance(self.device, str) or not DEVICES.fullmatch(self.device):
            raise FieldError("engine", "device", self.device, ALLOWED)
        for name in ("chunk", "workers", "max_worker_mb"):
            value = getattr(self, name)
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise FieldError("engine", name, value, "an integer at least 1 or auto")

    @property
    def numerics(self) -> Numerics:
        """What is asked for of what changes rounding."""
        rounded = (self.gradients, self.layout, self.precision, self.device, self.convolutions)
        return Numerics(*rounded, self.graphs)

    def with_numerics(self, numerics: Numerics) -> Engine:
        """The same with what was chosen of it."""
        return replace(self, **asdict(numerics))


@dataclass(frozen=True)
class Target(Part):
    """A metric of the test set that ends the run once a model reaches it."""

    value: float
    """What the metric must reach."""
    metric: str = "accuracy"
    """A metric of the task; `loss` must fall to the value, all others must rise to it."""

    def __post_init__(self) -> None:
        self.check_number("value")


@dataclass(frozen=True)
class Stop(Part):
    """When the run ends: at whichever limit comes first. One besides `target` must be given."""

    rounds: int | None = 100
    """Versions of the model."""
    virtual_secs: float | None = None
    """Seconds on the virtual clock."""
    wall_secs: float | None = None
    """Seconds of real time."""
    target: Target | None = None
    """Stop early when the model is good enough."""

    def __post_init__(self) -> None:
        self.check_number("rounds", at_least=1)
        self.check_number("virtual_secs", above=0, at_most=1e9)
        self.check_number("wall_secs", above=0)
        if self.rounds is None and self.virtual_secs is None and self.wall_secs is None:
            allowed = "given, or stop.virtual_secs or stop.wall_secs, since a target may never be reached"
            raise FieldError(
                "stop", "rounds", None, allowed if self.target else allowed.partition(", since")[0]
            )


@dataclass(frozen=True)
class Track(Part):
    """How often the model is evaluated and the run's state saved."""

    evaluate_every: int = 1
    """Versions from one evaluation to the next; the last version is always evaluated."""
    evaluate_sample: int = 0
    """Test examples that a model is evaluated on, drawn once by the seed; records say so. 0: all of them."""
    evaluate_overlap: bool = False
    """With worker processes: evaluate a version while the next is trained. The same numbers, told later."""
    checkpoint_every: int = 10
    """Versions from one checkpoint to the next."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints are kept."""
    timeline: int = 200
    """Clients, drawn by the seed, whose tasks are recorded one by one, for the report's timeline."""
    per_client: int = 0
    """Test examples, of each client's own mix of labels, on which the client's own model is evaluated: the
    records' metrics then have mean, deciles and worst tenth over clients. 0: none."""

    sinks: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Who else is told of each version: TensorBoard, Weights & Biases (offline unless WANDB_MODE says)."""

    def __post_init__(self) -> None:
        self.check_number("evaluate_every", at_least=1)
        self.check_number("evaluate_sample", at_least=0)
        self.check_number("checkpoint_every", at_least=1)
        self.check_number("keep_checkpoints", at_least=1)
        self.check_number("timeline", at_least=0)
        self.check_number("per_client", at_least=0, at_most=1_000_000)


@dataclass(frozen=True)
class Participation(Part):
    """How often a client may be asked."""

    rest_secs: float = 0.0
    """Whose task has ended, whatever became of it, gets no other one for so long."""

    def __post_init__(self) -> None:
        self.check_number("rest_secs", at_least=0, at_most=1e9)


@dataclass(frozen=True)
class Seeds(Part):
    """Seeds of single streams of randomness, for who wants one thing varied; default: the job's `seed`."""

    data: int | None = None
    """Who holds which examples."""
    model: int | None = None
    """The untrained model's values."""
    devices: int | None = None
    """How fast each client and its link are."""
    availability: int | None = None
    """When each client is online."""
    clock: int | None = None
    """Which tasks are lost on the way, and the clock's jitter and changes of speed."""
    selection: int | None = None
    """Who is drawn for each round."""
    training: int | None = None
    """In which order clients see their examples, and what else is drawn while they train."""

    def __post_init__(self) -> None:
        for stream in fields(self):
            self.check_number(stream.name, at_least=0)


@dataclass(frozen=True)
class Job(Part):
    """Everything that a run depends on; `load_job` makes one from a job file or a mapping."""

    name: str
    """What the run's folder is called: letters, digits, `.`, `_` and `-`."""
    data: DataSet
    """What the clients hold, and how it is dealt out to them."""
    model: Model
    """What is trained."""
    task: Task
    """What it is trained for: loss and metrics. Default: the data set's own."""
    algorithm: Algorithm
    """How it is trained: one answer to each of the five questions."""
    population: Devices
    """Who the clients are in time: how fast they compute and how fast their links are."""
    train: Work = field(default_factory=Work)
    """How much a client trains in one task."""
    engine: Engine = field(default_factory=Engine)
    """What computes."""
    stop: Stop = field(default_factory=Stop)
    """When the run ends."""
    seed: int = 0
    """All randomness of the run is drawn from it."""
    track: Track = field(default_factory=Track)
    """How often the model is evaluated and the run's state saved."""
    clock: Clock = field(default_factory=Clock)
    """How long a task's training takes on a device."""
    seeds: Seeds = field(default_factory=Seeds)
    """Seeds of single streams, where they are not to be drawn from `seed`."""
    compress: Compress | None = None
    """How clients write their updates for the way up: top_k, quantise or qsgd; null: as they are."""
    attack: Attack | None = None
    """What a share of the clients does instead of what it should, to test defences with; null: nothing."""

    participation: Participation = field(default_factory=Participation)
    """How often a client may be asked."""
    deploy: Deploy = field(default_factory=Deploy)
    """Time-outs and limits of a deployment; simulations do not look at it."""

    @property
    def limits(self) -> Limits:
        """What the server must know of `stop`, `track` and `participation`."""
        stop, virtual = self.stop, self.stop.virtual_secs
        return Limits(
            stop.rounds,
            None if virtual is None else to_ns(virtual),
            self.track.evaluate_every,
            to_ns(self.participation.rest_secs),
        )

    def seed_of(self, stream: str) -> int:
        """The seed of a stream, one of the fields of `Seeds`."""
        own: int | None = getattr(self.seeds, stream)
        return self.seed if own is None else own

    def __post_init__(self) -> None:
        self.check_number("seed", at_least=0)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", self.name):
            raise FieldError("job", "name", self.name, "letters, digits, '.', '_' and '-' (up to 100)")
