"""A run in a dozen numbers: `summary.json`, and what `--json` prints."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Iterable, Mapping

from muster.core.record import Record

STATUSES = ("rounds", "virtual_secs", "wall_secs", "target", "interrupted", "stalled")
"""Which stop rule ended the run, or that the user did, or that no client could take part any more."""

TASK_COUNTS = ("accepted", "late", "lost", "discarded", "refused")

_FALLING = ("loss", "error", "perplexity", "mse", "rmse", "mae")


@dataclass(frozen=True)
class Summary:
    """How a run ended. Bytes, device seconds and tasks are totals over all versions."""

    status: str
    """One of STATUSES."""
    rounds: int
    """The last version."""
    virtual_secs: float
    wall_secs: float
    metrics: Mapping[str, float]
    """Of the last version that was evaluated; empty if none was."""
    best: Mapping[str, Mapping[str, float]]
    """By metric: its best `value` and the first `version` that had it."""
    time_to_target_secs: float | None
    """Virtual time of the first version that met the target; None if none did or there is none."""
    num_tasks: Mapping[str, int]
    """accepted, late, lost, discarded; and refused."""
    up_bytes: int
    down_bytes: int
    device_secs: Mapping[str, float]
    """used: on tasks that counted; wasted: on tasks that did not."""
    peak_rss_bytes: int
    model_sha256: str | None
    """None if nothing was trained."""
    seed: int
    why: str = ""
    """The status as a sentence."""
    time_to_target_wall_secs: float | None = None
    wasted_by_reason: Mapping[str, float] = field(default_factory=dict)
    """Device seconds of tasks that did not count, by why: `dropped`, `offline`, `late`, `stale` and so on."""
    wasted_bytes_by_reason: Mapping[str, int] = field(default_factory=dict)
    """Their bytes, both ways."""
    joules: Mapping[str, float] = field(default_factory=dict)
    """used and wasted, where the job says what devices draw; else empty."""
    tasks_together: float | None = None
    """Tasks that were handed to the workers at once, on average; None: nothing was trained here."""
    privacy: Mapping[str, Any] = field(default_factory=dict)
    """Of a private run: epsilon, delta, the sampler it is reckoned for, whether that amplifies, and why."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; numbers that JSON does not know (NaN, infinity) become null."""
        return dict(finite(asdict(self)))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Summary:
        """The inverse of `to_json`, but that null metrics are NaN; unknown keys are left out.

        Raises:
            TypeError: A key is missing.
        """
        names = {f.name for f in fields(cls)}
        body = {k: v for k, v in data.items() if k in names}
        metrics = {k: math.nan if v is None else v for k, v in body.get("metrics", {}).items()}
        return cls(**{**body, "metrics": metrics})


def finite(value: Any) -> Any:
    """JSON data with None for every float that strict JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def falls(metric: str) -> bool:
    """Whether lower is better: `loss`, `perplexity`, `rmse`, `top5_error`; all else should rise."""
    return metric.lower().rsplit("_", 1)[-1] in _FALLING


def meets(metric: str, value: float, target: float) -> bool:
    """Whether a metric is at least as good as its target; NaN never is."""
    return value <= target if falls(metric) else value >= target


def headline(metrics: Iterable[str], target: str | None = None) -> str | None:
    """The metric to show where there is room for one: the target's, accuracy, or the first that rises."""
    names = list(metrics)
    if target in names:
        return target
    if "accuracy" in names:
        return "accuracy"
    return next((name for name in names if not falls(name)), names[0] if names else None)


class Tally:
    """A running fold of records into a summary; keeps no record, so its size does not grow.

    Args:
        target: Metric and value to reach, or None.
    """

    def __init__(self, target: tuple[str, float] | None = None) -> None:
        self.target = target
        self.version = 0
        self.now_secs = 0.0
        self.wall_secs = 0.0
        self.metrics: dict[str, float] = {}
        self.best: dict[str, dict[str, float]] = {}
        self.num_tasks = dict.fromkeys(TASK_COUNTS, 0)
        self.up_bytes = 0
        self.down_bytes = 0
        self.device_secs = {"used": 0.0, "wasted": 0.0}
        self.wasted_by_reason: dict[str, float] = {}
        self.wasted_bytes_by_reason: dict[str, int] = {}
        self.joules: dict[str, float] = {}
        self.reached: tuple[float, float] | None = None
        """Virtual and wall seconds at which the target was first met."""

    def add(self, record: Record) -> None:
        """Folds in the next version."""
        self.version = record.version if record.complete else record.version - 1
        self.now_secs, self.wall_secs = record.now_secs, record.wall_secs
        for name in TASK_COUNTS:
            self.num_tasks[name] += getattr(record, f"num_{name}")
        self.up_bytes += record.up_bytes
        self.down_bytes += record.down_bytes
        self.device_secs["used"] += record.device_secs_used
        self.device_secs["wasted"] += record.device_secs_wasted
        for reason, secs in record.wasted_by_reason.items():
            self.wasted_by_reason[reason] = self.wasted_by_reason.get(reason, 0.0) + secs
        for reason, count in record.wasted_bytes_by_reason.items():
            self.wasted_bytes_by_reason[reason] = self.wasted_bytes_by_reason.get(reason, 0) + count
        if record.joules_used is not None:
            wasted = sum(record.joules_wasted_by_reason.values())
            for name, joules in (("used", record.joules_used), ("wasted", wasted)):
                self.joules[name] = self.joules.get(name, 0.0) + joules
        if not record.metrics:
            return
        self.metrics = dict(record.metrics)
        for name, value in record.metrics.items():
            old = self.best.get(name)
            better = old is None or (value < old["value"] if falls(name) else value > old["value"])
            if better and not math.isnan(value):
                self.best[name] = {"value": value, "version": self.version}
        if self.target is not None and self.reached is None:
            metric, goal = self.target
            if meets(metric, record.metrics.get(metric, math.nan), goal):
                self.reached = record.now_secs, record.wall_secs

    def summary(
        self,
        status: str,
        why: str,
        peak_rss_bytes: int,
        model_sha256: str | None,
        seed: int,
        wall_secs: float | None = None,
        virtual_secs: float | None = None,
    ) -> Summary:
        """The summary of all that was folded in; times are the last record's unless given.

        Raises:
            ValueError: `status` is not one of STATUSES.
        """
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}, but must be one of {', '.join(STATUSES)}")
        reached = self.reached or (None, None)
        return Summary(
            status=status,
            rounds=self.version,
            virtual_secs=self.now_secs if virtual_secs is None else virtual_secs,
            wall_secs=self.wall_secs if wall_secs is None else wall_secs,
            metrics=dict(self.metrics),
            best={name: dict(best) for name, best in self.best.items()},
            time_to_target_secs=reached[0],
            num_tasks=dict(self.num_tasks),
            up_bytes=self.up_bytes,
            down_bytes=self.down_bytes,
            device_secs=dict(self.device_secs),
            peak_rss_bytes=peak_rss_bytes,
            model_sha256=model_sha256,
            seed=seed,
            why=why,
            time_to_target_wall_secs=reached[1],
            wasted_by_reason=dict(self.wasted_by_reason),
            wasted_bytes_by_reason=dict(self.wasted_bytes_by_reason),
            joules=dict(self.joules),
        )
