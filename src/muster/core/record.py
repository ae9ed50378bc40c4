"""One line of history per model version: every view of a run reads these and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Mapping

import numpy as np

from .tables import Table


@dataclass(frozen=True)
class Span:
    """One task of a client that a timeline shows; a leg that was cut short is as long as it lasted."""

    client: int
    sent_secs: float
    """Time of the run at which it was sent, virtual in a simulation."""
    down_secs: float
    compute_secs: float
    up_secs: float
    outcome: str
    """`accepted`, `measured` (it was asked, and trained nothing), or why it did not count, as in
    `wasted_by_reason`."""

    @property
    def end_secs(self) -> float:
        """Virtual time at which it was over."""
        return self.sent_secs + self.down_secs + self.compute_secs + self.up_secs


@dataclass(frozen=True)
class Record:
    """What happened while one version was made. Counts, bytes and device seconds are of this version.

    Version 0 is the untrained model: it has metrics and nothing else.
    """

    version: int
    now_secs: float
    """Virtual time at which the version was made."""
    wall_secs: float
    """Wall time since the run began; time before a resume included."""
    loss: float | None = None
    """Mean training loss of the updates folded, weighted by examples; None if nothing was folded."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the test set, when this version was evaluated: `accuracy`, `loss`. Else empty."""
    num_tested: int | None = None
    """Test examples of which `metrics` are means, where they are a sample of the test set; else None."""
    num_sent: int = 0
    num_accepted: int = 0
    """Updates that arrived in time and passed the gate."""
    num_refused: int = 0
    """Updates that arrived and were refused by the gate (NaN, too large)."""
    num_late: int = 0
    """Tasks discarded because the round closed without them."""
    num_lost: int = 0
    """Tasks whose client failed before it reported."""
    num_measured: int = 0
    """Clients that were asked how good the model is, and have said it; they trained nothing."""
    num_discarded: int = 0
    """Tasks discarded for another reason (too stale, an abandoned round, the end of the run)."""
    up_bytes: int = 0
    down_bytes: int = 0
    device_secs_used: float = 0.0
    """Seconds that clients spent on tasks that counted."""
    device_secs_wasted: float = 0.0
    """Seconds that clients spent on tasks that did not."""
    wasted_by_reason: Mapping[str, float] = field(default_factory=dict)
    """The same by why they did not: `dropped`, `offline`, `late`, `stale`, `abandoned`, `stopped`."""
    wasted_bytes_by_reason: Mapping[str, int] = field(default_factory=dict)
    """Bytes, both ways, of tasks that did not count, by why."""
    joules_used: float | None = None
    """Energy of tasks that counted, where the job says what devices draw (`clock.compute_watts`)."""
    joules_wasted_by_reason: Mapping[str, float] = field(default_factory=dict)
    """Energy of tasks that did not, by why."""
    clients: tuple[int, ...] = ()
    """Whose updates were folded, in the order in which they were accepted."""
    num_online: int | None = None
    """Clients online at that instant, the busy included; of many, estimated. None: not known."""
    spans: tuple[Span, ...] = ()
    """The tasks of `track.timeline` clients that ended while this version was made, by start."""
    complete: bool = True
    """False: the run ended while this version was being made; the counts are of what that cost, and
    metrics, if there are any, are of the last version that was made."""
    surrogate: bool = False
    """The losses come from a curve, not from training (clock-only runs of a select that reads)."""
    epsilon: float | None = None
    """What the versions so far give away of any client, in a private run (DP-FedAvg); else None."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data, one line of records.jsonl."""
        mappings = ("metrics", "wasted_by_reason", "wasted_bytes_by_reason", "joules_wasted_by_reason")
        plain = {name: dict(getattr(self, name)) for name in mappings}
        rows = {"clients": list(self.clients), "spans": [list(vars(span).values()) for span in self.spans]}
        return {**vars(self), **plain, **rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """The inverse of `to_json`; keys that a later Muster may add are left out."""
        names = {f.name for f in fields(cls)}
        body = {k: v for k, v in data.items() if k in names}
        spans = tuple(Span(*span) for span in body.get("spans", ()))
        return cls(**{**body, "clients": tuple(body.get("clients", ())), "spans": spans})


def mean_loss(reports: Table) -> float | None:
    """Mean training loss weighted by examples, of the REPORT rows whose loss is a number."""
    known = reports[np.isfinite(reports["loss"])]
    weights = known["num_examples"].astype(np.float64)
    if not len(known) or weights.sum() == 0:
        return None
    return math.fsum(known["loss"] * weights) / math.fsum(weights)
