"""How long training takes on a device: from the trace's milliseconds per example to a task's seconds.

A trace knows one number of a device: the milliseconds that one example's forward pass of its own
reference model takes there. What a task of another model takes is said by one of these rules:

    flops                3 x examples really trained x ms x the model's multiply-adds / the reference model's
    examples             the same without the last factor: every model costs what the reference model does
    measured             3 x examples really trained x what an example took on this machine x ms / host's ms
    fedscale             3 x batch size x steps x ms, as FedScale has it (F. Lai et al., ICML 2022)
    fedscale_lognormal   5 ms x batch size x steps x a lognormal draw, its variant without a trace

3, since a backward pass costs two forward. On top come jitter, and changes of speed at given times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from muster.core.errors import FieldError
from muster.core.part import Part
from muster.core.randomness import uniforms
from muster.core.tables import SECOND, Purpose, Table
from muster.core.work import Work

TRAIN_FACTOR = 3.0
"""Cost of training on an example, in forward passes."""

REFERENCE_MACS = 300e6
"""Multiply-adds of one example's forward pass of the trace's model, of MobileNet's class (MobileNetV2: 300
million; M. Sandler et al., CVPR 2018)."""

HOST_MS = 41.0
"""Milliseconds per example of FedScale's median phone, which this machine is taken for by default."""

Floats = npt.NDArray[np.float64]
Rule: TypeAlias = Literal["flops", "examples", "measured", "fedscale", "fedscale_lognormal"]


@dataclass(frozen=True)
class Clock(Part):
    """How a task's computing time follows from its device and its work."""

    compute: Rule = "flops"
    """`flops`: by examples really trained and the model's multiply-adds; `examples`: by examples alone;
    `measured`: by what an example takes on this machine; `fedscale`: by its formula;
    `fedscale_lognormal`: by chance."""
    host_ms: float = HOST_MS
    """Under `measured`: the milliseconds per example, as the population counts them, of a device that is as
    fast as this machine."""
    measured_ms: float | None = None
    """Under `measured`: milliseconds of one example's forward pass of the job's model on this machine, a
    third of what training on it takes; default: measured when the run begins, and written to its job.yml."""
    jitter: float = 0.0
    """Sigma of a lognormal factor of mean 1 on each task's computing time; 0 is none, 0.6 a long tail."""
    changes: tuple[tuple[float, float, float], ...] = ()
    """Changes of speed as [at_secs, factor, share]: tasks sent from virtual time `at_secs` on take `factor`
    times as long, on a `share` of the clients drawn by seed. Later changes come on top of earlier ones."""
    server_down_kbps: float | None = None
    """The server's link towards all clients together, in 1,000 bits a second, shared max-min fairly; default:
    as much as they can take."""
    server_up_kbps: float | None = None
    """The same for what clients send."""
    compute_watts: float | None = None
    """What a device draws while it trains; with `link_watts`, records count joules, used and wasted."""
    link_watts: float | None = None
    """What it draws while it loads or sends; one of the two alone: the other is 0."""
    query_secs: float = 0.0
    """What asking the server whether to go on takes a client (ESync): half there, half back."""

    def __post_init__(self) -> None:
        self.check_choice("compute", get_args(Rule))
        self.check_number("host_ms", above=0, at_most=1e9)
        self.check_number("measured_ms", above=0, at_most=1e9)
        if self.measured_ms is not None and self.compute != "measured":
            raise FieldError(
                "clock", "measured_ms", self.measured_ms, "null unless clock.compute is measured"
            )
        self.check_number("jitter", at_least=0, at_most=3)
        self.check_number("server_down_kbps", above=0)
        self.check_number("server_up_kbps", above=0)
        self.check_number("compute_watts", at_least=0)
        self.check_number("link_watts", at_least=0)
        self.check_number("query_secs", at_least=0, at_most=1e6)
        listed = self.changes
        if not isinstance(listed, (tuple, list)) or not all(_is_change(change) for change in listed):
            allowed = (
                "a list of [at_secs, factor, share] with at_secs at least 0, factor above 0, share 0 to 1"
            )
            raise FieldError("clock", "changes", listed, allowed)
        object.__setattr__(self, "changes", tuple(tuple(change) for change in listed))

    @property
    def shared(self) -> bool:
        """Whether tasks share the server's link."""
        return self.server_down_kbps is not None or self.server_up_kbps is not None

    @property
    def bits_per_kbit(self) -> float:
        """1,000; but FedScale makes kbit of bytes by 8/1024 and divides them by a trace's kbit a second."""
        return 1024.0 if self.compute.startswith("fedscale") else 1000.0

    def secs(
        self,
        tasks: Table,
        seed: int,
        work: Work,
        num_examples: npt.NDArray[np.int64],
        ms_per_example: Floats,
        macs: float,
        passes: int = 1,
        looks: int = 0,
    ) -> Floats:
        """Seconds of computing of TASK rows, f64[K].

        Who only measures makes one forward pass over all its examples: a third of what training on each of
        them once takes, by the same rule.

        Args:
            tasks: The tasks.
            seed: Keys what is drawn.
            work: What a task trains.
            num_examples: i64[K], what the client of each task holds.
            ms_per_example: f64[K], of its device.
            macs: Multiply-adds of one example's forward pass of the model; read by `flops` only.
            passes: How often what the work says is trained on.
            looks: Forward passes over all the client's examples beforehand; FedScale's formulas know none.

        """
        factor = self._factor(tasks, seed)
        measures = tasks["work"] == Purpose.MEASURE
        asked = tasks["steps"] if len(tasks) != 1 else int(tasks["steps"][0])
        if self.compute.startswith("fedscale"):
            batch = num_examples if work.batch_size == 0 else np.int64(work.batch_size)
            count = np.asarray(passes * batch * work.num_steps(num_examples, asked), np.int64)
            count = np.where(measures, num_examples, count)
            factor = factor * np.where(measures, 1 / TRAIN_FACTOR, 1.0)
            if self.compute == "fedscale":
                return np.asarray(TRAIN_FACTOR * count * ms_per_example / 1000.0 * factor, np.float64)
            attempt = tasks["attempt"].astype(np.int64)
            return lognormal_secs(normals(seed, "compute", tasks["client"], attempt), count) * factor
        forward = TRAIN_FACTOR * passes * work.num_trained(num_examples, asked) + looks * num_examples
        secs = np.where(measures, num_examples, forward) * ms_per_example / 1000.0
        if self.compute == "flops":
            secs = secs * (macs / REFERENCE_MACS)
        elif self.compute == "measured":
            assert self.measured_ms is not None, "measured before anything is timed"
            secs = secs * (self.measured_ms / self.host_ms)
        return np.asarray(secs * factor, np.float64)

    def _factor(self, tasks: Table, seed: int) -> Floats | float:
        """How many times as long as without jitter and changes each of TASK rows takes, f64[K] > 0."""
        if not self.jitter and not self.changes:
            return 1.0
        factor = np.ones(len(tasks))
        client, attempt = tasks["client"], tasks["attempt"].astype(np.int64)
        if self.jitter:
            factor *= np.exp(self.jitter * normals(seed, "jitter", client, attempt) - self.jitter**2 / 2)
        for number, (at_secs, times, share) in enumerate(self.changes):
            late = tasks["sent_at"] >= round(at_secs * SECOND)
            meant = uniforms(seed, "change", client, np.full_like(client, number)) < share
            factor[late & meant] *= times
        return factor


def lognormal_secs(normal: Floats, num_examples: npt.NDArray[np.int64]) -> Floats:
    """FedScale's variant: 5 ms an example (batch size x steps of them) x exp(1 + 0.6 z), at least 1e-4."""
    return np.asarray(np.maximum(1e-4, np.exp(1.0 + 0.6 * normal)) * 0.005 * num_examples, np.float64)


def normals(seed: int, stream: str, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> Floats:
    """One standard normal number for each pair (a[i], b[i]), f64[K]: the same pair, the same number.

    Box and Muller, Annals of Mathematical Statistics 29, 1958, from two keyed uniform numbers.
    """
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(seed, f"{stream} radius", a, b)))
    return np.asarray(radius * np.cos(2 * np.pi * uniforms(seed, f"{stream} angle", a, b)), np.float64)


def _is_change(change: Any) -> bool:
    if not isinstance(change, (tuple, list)) or len(change) != 3:
        return False
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in change):
        return False
    at_secs, factor, share = change
    return bool(0 <= at_secs < 9e9 and 0 < factor < float("inf") and 0 <= share <= 1)
