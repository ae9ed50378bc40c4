"""Clients drawn from imported traces: real devices, links and habits, dealt out by seed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from muster.core.errors import FieldError
from muster.core.population import Population
from muster.core.randomness import rng
from muster.core.tables import SECOND

from .availability import Availability, Intervals
from .devices import Devices
from .links import Links, Series
from .mobile import Mobile
from .trace_folder import INTERVALS, Arrays, conditions, num_rows, open_traces

LEAST_SHARE = 0.1
"""A link drawn from a normal distribution has at least this share of its mean speed."""


@dataclass(frozen=True)
class Imported(Devices):
    """Devices of a folder that `muster devices import` made.

    Compute times or links that it lacks are drawn as `mobile` does; without availability all are there.
    """

    path: str
    """The folder, from where the command is run."""
    join: Literal["independent", "by_row", "by_rank"] = "independent"
    """`independent`: compute, link and availability of a client are drawn apart; `by_row`: they are of
    one row of the traces; `by_rank`: so, and the fastest device drawn goes to the client of most data."""
    conditions: tuple[str, ...] = ()
    """Where availability is told by condition (charging, wifi, ...): those that must hold for a client to be
    there; default: all that the folder has."""
    dropout: float = 0.0
    """Chance that a task is lost, besides those of clients that go offline."""

    def __post_init__(self) -> None:
        self.check_choice("join", ("independent", "by_row", "by_rank"))
        self.check_number("dropout", at_least=0, at_most=1)
        if not isinstance(self.path, str) or not self.path:
            raise FieldError("imported", "path", self.path, "the folder that muster devices import made")
        object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def draw(self, num_examples: npt.NDArray[np.int32], seed: int) -> Population:
        """Rows by seeded draw, never in the order of the file; no row twice while there are enough.

        Columns are f64: numbers keep all digits of the trace.

        Raises:
            DataError: The folder is missing or damaged.
            FieldError: `by_rank`, and the folder has no compute times.

        """
        arrays = open_traces(Path(self.path))
        chosen = self._rows(num_rows(arrays), arrays, num_examples, seed)
        columns: dict[str, Any] = {}
        for table, names in {
            "compute": ("ms_per_example", "memory_mb"),
            "link": ("down_kbps", "up_kbps"),
        }.items():
            for name in names:
                if table in chosen and name in arrays:
                    columns[name] = np.asarray(arrays[name][chosen[table]], np.float64)
        for way, number in (("down", 0), ("up", 1)):
            if f"{way}_sigma" in arrays:
                mean = columns[f"{way}_kbps"]
                z = rng(seed, "imported link", number).standard_normal(len(mean))
                drawn = mean + arrays[f"{way}_sigma"][chosen["link"]] * z
                columns[f"{way}_kbps"] = np.maximum(drawn, LEAST_SHARE * mean)
        if "series_down" in arrays:
            series = Series(arrays["kbps"], arrays["kbps_offsets"])
            down, up = (arrays[f"series_{way}"][chosen["link"]] for way in ("down", "up"))
            secs = rng(seed, "imported link", 2).integers(0, np.diff(series.offsets)[down])
            columns["links"] = Links(series, down, up, SECOND * secs)
        if "availability" in chosen:
            shift = np.zeros(len(num_examples), np.int64)
            row = chosen["availability"].astype(np.int32)
            columns["availability"] = Availability(self._intervals(arrays), row, shift)
        known = {field.name for field in fields(Population)}
        phones = None
        for name in ("ms_per_example", "down_kbps", "up_kbps"):
            if name not in columns:
                phones = phones or Mobile().draw(num_examples, seed)
                columns[name] = getattr(phones, name)
        return Population(num_examples, **{name: column for name, column in columns.items() if name in known})

    def _intervals(self, arrays: Arrays) -> Intervals:
        """When each trace is there.

        Raises:
            FieldError: A condition is asked for that the folder does not have.

        """
        known = conditions(arrays)
        for condition in self.conditions:
            if condition not in known:
                allowed = f"some of {', '.join(known)}" if known else "empty: these traces tell no conditions"
                raise FieldError("imported", "conditions", list(self.conditions), allowed)
        period = arrays["period"].astype(np.int64)
        parts = [f"{name}." for name in self.conditions or known] or [""]
        told = ([arrays[part + name].astype(np.int64) for name in INTERVALS] for part in parts)
        found = [Intervals(starts, ends, offsets, period) for starts, ends, offsets in told]
        return found[0] if len(found) == 1 else Intervals.all_of(found)

    def _rows(
        self, rows: dict[str, int], arrays: Any, num_examples: npt.NDArray[np.int32], seed: int
    ) -> dict[str, npt.NDArray[np.int64]]:
        """The row of each table that each client has, i64[C]."""
        count = len(num_examples)
        if self.join == "independent":
            return {table: _draw(num, count, seed, table) for table, num in rows.items()}
        shared = _draw(min(rows.values()), count, seed, "row")
        if self.join == "by_rank":
            if "compute" not in rows:
                raise FieldError(
                    "imported", "join", "by_rank", "independent or by_row: there are no compute times"
                )
            fastest = shared[np.argsort(arrays["ms_per_example"][shared], kind="stable")]
            most = np.argsort(-num_examples.astype(np.int64), kind="stable")
            shared = np.empty_like(shared)
            shared[most] = fastest
        return dict.fromkeys(rows, shared)


def _draw(num_rows: int, count: int, seed: int, table: str) -> npt.NDArray[np.int64]:
    """`count` of the rows in random order: none twice, unless there are too few."""
    draw = rng(seed, f"imported {table}")
    if count > num_rows:
        return draw.integers(0, num_rows, count)
    return draw.permutation(num_rows)[:count]
