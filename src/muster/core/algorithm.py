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
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Mapping, TypeAlias

import numpy as np
import numpy.typing as npt

from .part import Part
from .population import Free, Population
from .tables import Appetite, Ids, Reason, Table, taken

State: TypeAlias = Mapping[str, Any]
"""A part's state: names to numbers, strings or arrays; saved as JSON and safetensors."""

Array: TypeAlias = Any
"""A flat float32 vector of any array library that the array API covers."""


class Select(Part):
    """Who trains? Draws clients from those that are present and free."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Columns of REPORT that `observe` learns from. When empty, who is drawn does not depend on
    training, and a clock-only run is exact."""
    foresees: ClassVar[bool] = False
    """Whether `init` reads `population.task_secs`: how long a first task is expected to take."""

    def init(self, population: Population) -> State:
        """The state before the first draw."""
        return {}

    @abstractmethod
    def draw(self, state: State, k: int, free: Free, rng: np.random.Generator) -> Ids:
        """Up to `k` distinct clients out of `free`."""

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


@dataclass(frozen=True)
class View:
    """What a pace may look at: the instant, the version, and the tasks it has out (TASK rows)."""

    now_ns: int
    version: int
    tasks: Table
    num_lost: int
    """Tasks that were lost in this delivery; they are no longer in `tasks`."""
    due: bool
    """The deadline asked for by `wake_after_ns` has come."""

    @property
    def arrived(self) -> Table:
        """Tasks that reported and wait for a decision."""
        return taken(self.tasks, self.tasks["arrived"])

    @property
    def out(self) -> Table:
        """Tasks that have not reported."""
        return taken(self.tasks, ~self.tasks["arrived"])


class Pace(Part):
    """When is work sent, and when does the model advance?"""

    def init(self) -> State:
        """The state before the first event."""
        return {}

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

    Vectors are flat float32 arrays (NumPy or torch) of the trained prefix of the model. `step` may
    write into the arrays it is given, and returns them.
    """

    keeps: ClassVar[bool] = False
    """Whether the client has state that lasts from task to task (it lives in the client store)."""
    down: ClassVar[tuple[str, ...]] = ("model",)
    up: ClassVar[tuple[str, ...]] = ("delta",)
    """Names of the model-sized vectors that travel: the clock and the byte counts use their number."""

    def init(self, sent: Array) -> Any:
        """What the rule remembers within one task (a momentum buffer, say), from the model sent."""
        return None

    @abstractmethod
    def step(self, params: Array, gradient: Array, sent: Array, memory: Any) -> tuple[Array, Any]:
        """One step: returns the moved `params` and the new memory."""


@dataclass(frozen=True)
class Info:
    """What the data plane tells `Server.apply` about the version that is being made."""

    version: int
    """The version that is being made; the first is 1."""
    num_clients: int
    num_folded: int
    """Updates that were accepted and not refused."""


class Combine(Part):
    """How do many updates become one delta?"""

    @abstractmethod
    def max_weight(self, population: Population) -> float:
        """The largest value that `weights` can give: the exact sums divide by it."""

    @abstractmethod
    def weights(self, reports: Table) -> npt.NDArray[np.float64]:
        """f64[K] >= 0: how much each update (REPORT rows) weighs in the sum."""

    @abstractmethod
    def divisors(self, reports: Table) -> npt.NDArray[np.float64]:
        """f64[K]: what each update adds to the number that the sum is divided by."""


class Server(Part):
    """How does the combined delta move the model? Sees the trained prefix only, never buffers."""

    def init(self, params: Array) -> Mapping[str, Array]:
        """The optimiser's state before the first version."""
        return {}

    @abstractmethod
    def apply(
        self, params: Array, delta: Array, opt: Mapping[str, Array], info: Info
    ) -> tuple[Array, Mapping[str, Array]]:
        """The next parameters and optimiser state, from `delta` = mean of trained - received."""


@dataclass(frozen=True)
class Algorithm:
    """One answer to each of the five questions, and the name under which users ask for it."""

    name: str
    select: Select
    pace: Pace
    local: Local
    combine: Combine
    server: Server

    def but(self, **parts: Any) -> Algorithm:
        """The same algorithm with some parts replaced: `fedavg().but(server=Yogi(lr=0.01))`."""
        return replace(self, **parts)
