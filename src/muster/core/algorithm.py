"""The five questions that every FL server answers, and `Algorithm`, which is one answer to each.

| plane   | part      | question                                            |
| control | `Select`  | who trains?                                         |
| control | `Pace`    | when is work sent, and when does the model advance? |
| data    | `Local`   | what does a client do?                              |
| data    | `Combine` | how do many updates become one delta?               |
| data    | `Server`  | how does the delta move the model?                  |

An answer is a frozen dataclass with pure methods: state goes in and comes out. The control plane sees
tables of metadata, never a tensor. The data plane's rules are written against the array API, so the
same lines run on NumPy and torch arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Mapping, Self, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .errors import FieldError
from .params import ParamSpec
from .part import Part
from .population import Draw, Free, FreeInTurn, Population
from .randomness import rng
from .tables import EVENT, Appetite, Ids, Reason, Table, rows, taken
from .work import Work

State: TypeAlias = Mapping[str, Any]
"""A part's state: names to numbers, strings or arrays; saved as JSON and safetensors."""

Array: TypeAlias = Any
"""A flat float32 vector of any array library that the array API covers."""

P = TypeVar("P", bound=Part)

Vectors: TypeAlias = Mapping[str, Array]
"""Vectors by name."""


class Select(Part):
    """Who trains? Draws clients from those that are present and free."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Columns of REPORT that `observe` learns from. When empty, who is drawn does not depend on
    training, and a clock-only run is exact."""
    foresees: ClassVar[bool] = False
    """Whether `init` reads `population.task_secs`: how long a first task is expected to take."""
    may_draw_nobody: ClassVar[bool] = False
    """Whether a draw of nobody, where somebody could be drawn, makes a version without updates."""

    def init(self, population: Population) -> State:
        """The state before the first draw."""
        return {}

    @property
    def asks(self) -> bool:
        """Whether clients may be asked how good the model is on their examples, before a draw."""
        return type(self).ask is not Select.ask

    def ask(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """Distinct clients out of `free` who are to say how good the model is before `k` are drawn.

        They get tasks of their own, which take time. Nobody is drawn until all have reported or are lost.
        """
        return np.zeros(0, np.int64)

    def told(self, state: State, now_ns: int, measured: Table) -> State:
        """Learns what they found (MEASURED rows; the lost are missing). The draw follows."""
        return state

    @abstractmethod
    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """Up to `k` distinct clients out of `free`."""

    def draw_in_turn(self, state: State, free: FreeInTurn, rngs: Draw) -> Ids:
        """What `draw` gives for one client at each of several turns, the i-th by `rngs(i)`.

        It ends before the first turn at which nobody is free. Written only for speed; `draws_in_turn` says
        whether it is.
        """
        raise NotImplementedError

    @property
    def draws_in_turn(self) -> bool:
        """Whether `draw_in_turn` was written for this `draw`, and not for one that it replaces."""
        written = [
            next(c for c in type(self).__mro__ if name in vars(c)) for name in ("draw", "draw_in_turn")
        ]
        return written[0] is written[1] is not Select

    def observe(self, state: State, now_ns: int, reports: Table) -> State:
        """Learns from the reports (REPORT rows) of the version that has just been made."""
        return state


@dataclass(frozen=True)
class Plan:
    """What a pace wants done now. `step` carries it out, and adds what keeps any pace from hanging."""

    accept: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    discard: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    reason: Reason = Reason.NONE
    """Why `discard` is discarded."""
    advance: bool = False
    failed: bool = False
    """A round ended with too little to advance: `step` backs off before work goes out again."""
    send: int = 0
    """Tasks to send now."""
    min_start: int = 1
    """Send nothing while fewer clients than this are free."""
    top_up: bool = False
    """If fewer than `send` are free, call again when there are more."""
    wake_after_ns: int | None = None
    """Call again so long after work goes out now (a deadline); it ends with the version or failure."""
    named: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """Clients that `send` goes to first, if they are free; the select draws the others."""
    spared: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """Clients that the select may not draw now."""
    steps: int = 0
    """Mini-batch steps of what is sent; 0: what the job's train section says."""
    in_turn: bool = False
    """Of a delivery of several rows: the first task goes out at the instant of the first row, and so on, even
    if the version advances with the last."""
    leased: bool = False
    """What is sent asks again when its steps are made: answer with `go_on` or `finish`."""
    go_on: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """Leased tasks that make more steps,"""
    go_on_steps: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """and how many each, i64[K] >= 1."""
    finish: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    """Leased tasks that send their updates."""


@dataclass(frozen=True)
class View:
    """What a pace may look at: the instant, the version, and the tasks it has out (TASK rows)."""

    now_ns: int
    version: int
    tasks: Table
    """Without those of clients that the select has asked."""
    num_lost: int
    """Tasks that were lost in this delivery; they are no longer in `tasks`."""
    due: bool
    """The deadline asked for by `wake_after_ns` has come."""
    progress: Table = field(default_factory=lambda: rows(EVENT, 0))
    """The `Progressed` rows of this delivery: who asks, and how long its steps and its sending take."""

    @property
    def arrived(self) -> Table:
        """Tasks that reported and wait for a decision."""
        return self.tasks.compress(self.tasks["arrived"])  # faster where there are few

    @property
    def out(self) -> Table:
        """Tasks that have not reported."""
        return taken(self.tasks, ~self.tasks["arrived"])


class Pace(Part):
    """When is work sent, and when does the model advance?"""

    foresees: ClassVar[bool] = False
    """Whether `believe` reads `population.foreseen`: how long the legs of tasks are expected to take."""

    def init(self) -> State:
        """The state before the first event."""
        return {}

    def believe(self, state: State, population: Population) -> State:
        """The first state with what is known of the clients beforehand."""
        return state

    @property
    @abstractmethod
    def max_accepts(self) -> int:
        """The most updates that one version can fold; it sets the scale of the exact sums."""

    @property
    @abstractmethod
    def max_out(self) -> int:
        """The most tasks that can be out at once; the population must have as many clients."""

    @abstractmethod
    def appetite(self, state: State, tasks: Table) -> Appetite:
        """How far the shell may deliver events in one call, given the tasks that are not decided."""

    @abstractmethod
    def plan(self, state: State, view: View) -> tuple[State, Plan]:
        """What to do now. Called after every delivery; must not depend on how rows were batched."""


class Local(Part):
    """What a client does with one gradient; how many there are is the job's `train` section.

    Rules are written against the array API on flat float32 vectors of the trained prefix of the model:
    one client's `[P]`, or a cohort's `[K, P]`. So norms are over the last axis, a client's own number is
    `[..., 1]`, and no method looks at a value. `enter` and `step` may write into the `params` and the
    gradient that they are given; nobody writes into `sent`.
    """

    keeps: ClassVar[bool] = False
    """Whether the client has state that lasts from task to task (it lives in the client store): read when
    a task trains, written when its update has been accepted."""
    down: ClassVar[tuple[str, ...]] = ("model",)
    """Vectors that travel to the client: `model`, then names of what the server part remembers."""
    up: ClassVar[tuple[str, ...]] = ("delta",)
    """Vectors that travel back: `delta`, then names of what `finish` returns beside it. The clock and the
    byte counts use the numbers of both."""
    passes: ClassVar[int] = 1
    """How often a task's batches are gone through, from the first to the last."""
    repeats: int = 1
    """Steps on each batch before the next."""
    needs_mask: ClassVar[bool] = False
    """Whether `sent` has `personal` too, f32[P]: 1 at the entries that stay at the client, else 0."""
    needs_loss: ClassVar[bool] = False
    """Whether the loss of the model received, over all the client's examples, is reported."""

    def work(self, asked: Work) -> Work:
        """What a task trains, from what the job asks for."""
        return asked

    def personal(self, spec: ParamSpec) -> tuple[str, ...]:
        """Names of the entries that stay at the client: they do not travel, and their delta is 0."""
        return ()

    def check_model(self, spec: ParamSpec) -> None:
        """Refuses a model that the rule can make nothing of.

        Raises:
            UserError: Says what it lacks, and which would do.
        """
        return None

    def worth(self, num_steps: int) -> float:
        """‖a‖₁ of so many steps: the delta is lr times a sum of gradients with coefficients a, FedNova's."""
        return float(num_steps)

    def fresh(self, sent: Vectors) -> Vectors:
        """The lasting state of a client that has none yet, f32[..., n] by name."""
        return {}

    def begin(self, sent: Vectors, kept: Vectors) -> tuple[Array, Vectors]:
        """Where training starts, and what the rule remembers within the task, [..., n] by name."""
        return sent["model"], {}

    def enter(self, number: int, params: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """Before each pass, of which the first is number 0."""
        return params, memory

    @abstractmethod
    def step(self, params: Array, gradient: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """One step: returns the moved `params` and the new memory."""

    def stride(self, norm: Callable[[], float]) -> float | None:
        """s, if `step` is no more than y ← y - s·g, where s may depend on ‖g‖, which `norm` gives; else None.

        An engine then need not write the gradient out.
        """
        return None

    def settle(self, params: Array, sent: Vectors, memory: Vectors) -> tuple[Array, Vectors]:
        """After the last of the `repeats` on a batch."""
        return params, memory

    def finish(
        self, params: Array, sent: Vectors, memory: Vectors, num_steps: Array
    ) -> tuple[Array, Vectors, Vectors]:
        """After at least one step.

        Args:
            params: After the last one, [..., P].
            sent: What travelled to the client, by name.
            memory: After the last step.
            num_steps: Batches of a pass, [..., 1].

        Returns:
            The parameters whose difference to the model sent is the delta; the other vectors of `up`, by
            name; and the client's new lasting state.

        """
        return params, {}, {}

    def own(self, params: Array, kept: Vectors) -> Array:
        """The parameters that the client itself uses, from the newest model's and what it keeps."""
        return params


def borrowed(part: P, field: str, local: Local) -> P:
    """The part with `field` as the clients' rule has it, unless it is given.

    Raises:
        FieldError: Neither has it.
    """
    if getattr(part, field) is not None:
        return part
    if getattr(local, field, None) is None:
        allowed = f"given, since the clients' rule, {local.part_name()}, has no {field}"
        raise FieldError(part.part_name(), field, None, allowed)
    return cast(P, replace(cast(Any, part), **{field: getattr(local, field)}))


@dataclass(frozen=True)
class Info:
    """What the data plane tells the server's side of the version that is being made."""

    version: int
    """The version that is being made; the first is 1."""
    num_clients: int
    num_folded: int
    """Updates that were accepted and not refused."""
    seed: int = 0
    folded: Vectors = field(default_factory=dict)
    """What `Combine.finish` made of the vectors that came beside the deltas, by their names in `up`."""

    def rng(self, stream: str) -> np.random.Generator:
        """The version's own randomness for `stream`."""
        return rng(self.seed, stream, self.version)


class Combine(Part):
    """How do many updates become one delta?

    Updates are weighed and added as they come, in whatever process trained them. `shift` sees each before
    that, `finish` sees what they came to. A rule that must see all of them at once says `needs_all`, and
    writes `relate` and `fold`.
    """

    keeps: ClassVar[bool] = False
    """Whether `shift` remembers something of each client (on the server, in the client store)."""
    averages: ClassVar[bool] = True
    """Whether identical fresh updates combine to that very update, as law 2 wants."""
    moves_alone: ClassVar[bool] = False
    """Whether a version without a single update moves the model too: `finish` then gets means of 0."""
    needs_all: ClassVar[bool] = False
    """Whether the rule sees all updates: `fold` is called instead of summing."""
    needs_products: ClassVar[bool] = False
    """Whether `relate` is given the updates' inner products."""
    elementwise: ClassVar[bool] = False
    """Whether a `finish` of its own treats each coordinate by itself, and leaves the rule's state alone."""

    @property
    def shifts(self) -> bool:
        """Whether the rule changes updates before they are added: it has a `shift` of its own."""
        return type(self).shift is not Combine.shift

    def fitted(self, local: Local) -> Self:
        """The same with what it must have in common with the clients' rule filled in."""
        return self

    def init(self, population: Population, params: Array) -> Vectors:
        """State of its own before the first version, arrays by name; it is told to all workers."""
        return {}

    @abstractmethod
    def max_weight(self, population: Population) -> float:
        """The largest value that `weights` can give: the exact sums divide by it.

        An update that weighs more is refused.
        """

    @abstractmethod
    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """f64[K] >= 0: how much each update (REPORT rows) weighs in the sum."""

    @abstractmethod
    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """f64[K]: what each update adds to the number that the sum is divided by."""

    def shift(
        self, up: Vectors, sent: Vectors, now: Vectors, report: Table, kept: Vectors
    ) -> tuple[Vectors, Vectors]:
        """Transforms an update before it is weighed.

        Args:
            up: The trained prefixes of the vectors that came back, f32[P] by name.
            sent: What the client had been sent.
            now: `model`, the newest, and the rule's state.
            report: The update's REPORT row; its norm is that of the update as it came.
            kept: What the rule remembers of this client; empty at first.

        Returns:
            The vectors, of which those left out stay as they are; and what to remember of the client.

        """
        return {}, {}

    def relate(
        self, products: npt.NDArray[np.float64], reports: Table, state: Vectors
    ) -> npt.NDArray[np.float64]:
        """How the updates stand to each other, f64[K]: what `fold` needs to know beyond its block.

        `products` f64[K, K] holds the inner products of the deltas' parameters, if asked for.
        """
        return self.weights(reports)

    def fold(self, updates: Array, related: npt.NDArray[np.float64]) -> Array:
        """One block of coordinates of all updates, [K, B], to one, [B]; rows are in order of tickets."""
        raise NotImplementedError(f"{type(self).__name__} needs all updates, and so a method fold")

    def finish(self, mean: Vectors, reports: Table, state: Vectors, info: Info) -> tuple[Vectors, Vectors]:
        """From the weighted means (or what `fold` made), f32[P] by name, to what the server applies.

        Returns:
            The vectors, of which those left out stay as they are; and the rule's new state.

        """
        return {}, state


class Server(Part):
    """How does the combined delta move the model? Sees the trained prefix only, never buffers."""

    reads: ClassVar[tuple[str, ...]] = ("delta",)
    """Vectors of `local.up` that the rule cannot do without."""
    elementwise: ClassVar[bool] = False
    """Whether `init` and `apply` treat each coordinate by itself. A deployed server then moves the model a
    block after another: it holds no more of it, and a model may be larger than its memory."""

    def fitted(self, local: Local) -> Self:
        """The same with what it must have in common with the clients' rule filled in."""
        return self

    def init(self, params: Array) -> Vectors:
        """The optimiser's state before the first version."""
        return {}

    @abstractmethod
    def apply(self, params: Array, delta: Array, opt: Vectors, info: Info) -> tuple[Array, Vectors]:
        """The next parameters and optimiser state, from `delta` = mean of trained - received."""

    def reported(self, params: Array, opt: Vectors) -> Array:
        """The parameters that are evaluated and saved as the result."""
        return params


@dataclass(frozen=True)
class Algorithm:
    """One answer to each of the five questions, and the name under which users ask for it."""

    name: str
    select: Select
    pace: Pace
    local: Local
    combine: Combine
    server: Server

    def fitted(self) -> Algorithm:
        """The same with what the server's side must have in common with the clients' rule filled in."""
        return self.but(combine=self.combine.fitted(self.local), server=self.server.fitted(self.local))

    def but(self, **parts: Any) -> Algorithm:
        """The same algorithm with some parts replaced: `fedavg().but(server=Yogi(lr=0.01))`."""
        return replace(self, **parts)
