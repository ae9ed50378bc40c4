"""The door between a run and those who watch it: console, run folder, and what users bring."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Mapping, Protocol

from muster.core.record import Record

from .summary import Summary


@dataclass(frozen=True)
class RunPlan:
    """What will happen, as known before the first round. Rules that are None do not stop the run."""

    name: str
    algorithm: str
    data: str
    model: str
    num_clients: int
    num_parameters: int
    model_bytes: int
    """What one download of the model carries."""
    rounds: int | None = None
    virtual_secs: float | None = None
    wall_secs: float | None = None
    target_metric: str | None = None
    target_value: float | None = None
    out: Path | None = None
    """The run folder; None if the run leaves nothing on disk."""
    conf: str = ""
    """The job file as the user named it; the next commands to try name it again."""
    choices: tuple[str, ...] = ()
    """What was chosen for the user: "backend: torch (installed)", "workers: 2 of 2 cores"."""
    clock_only: bool = False
    surrogate: bool = False
    """Selection reads losses that come from a curve, not from training."""
    deployed: str = ""
    """The command that serves it and goes on with it; "" in a simulation. Its time is the wall's."""
    resumed_from: int | None = None
    """The version of the checkpoint from which the run goes on; None for a new run."""

    @property
    def target(self) -> tuple[str, float] | None:
        """Metric and value that end the run, if any."""
        if self.target_metric is None or self.target_value is None:
            return None
        return self.target_metric, self.target_value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "out": str(self.out) if self.out else None, "choices": list(self.choices)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunPlan:
        """The inverse of `to_json`; keys that a later Muster may add are left out."""
        names = {f.name for f in fields(cls)}
        body = {k: v for k, v in data.items() if k in names}
        out = Path(body["out"]) if body.get("out") else None
        return cls(**{**body, "out": out, "choices": tuple(body.get("choices", ()))})


class Sink(Protocol):
    """Somebody who watches a run. Keeps no records: a run may have 100,000 versions."""

    def begin(self, plan: RunPlan) -> None:
        """The run starts, or goes on after `plan.resumed_from`."""
        ...

    def tell(self, record: Record) -> None:
        """A version was made."""
        ...

    def say(self, line: str) -> None:
        """A notice: one line that the user should read."""
        ...

    def end(self, summary: Summary) -> None:
        """The run ended as the summary says. Not called if it failed."""
        ...
