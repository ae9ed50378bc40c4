"""Runs side by side: what each took to reach the same goal, and how it treated its clients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from muster.core.errors import RunFolderError, UserError, nearest

from .charts import NUM_COLOURS, Lines, Section, Series
from .folder import write_whole
from .history import gini
from .page import document, section
from .report import Told, told
from .summary import falls, finite, headline
from .units import bytes_text, secs_text, share_text, time_unit, value_text
from .views import bytes_tick, lorenz


@dataclass(frozen=True)
class Compared:
    """One run in numbers. What it took to the target is None if it never reached that."""

    name: str
    algorithm: str
    rounds: int
    best: float | None
    """The metric's best value."""
    rounds_to_target: int | None
    virtual_secs_to_target: float | None
    bytes_to_target: int | None
    device_secs_to_target: float | None
    virtual_secs: float
    wall_secs: float
    num_bytes: int
    device_secs: float
    wasted_share: float | None
    """Of the device seconds; None if no device did anything."""
    coverage: float | None
    """Share of the clients whose updates were folded."""
    gini: float | None
    """Of how often they were: 0 all alike, near 1 all by one."""


@dataclass(frozen=True)
class Comparison:
    """Several runs, and the goal by which they are compared."""

    runs: tuple[Told, ...]
    metric: str
    value: float
    why: str
    """Where the goal comes from."""
    rows: tuple[Compared, ...]

    @property
    def goal(self) -> str:
        """The goal in words."""
        return f"{self.metric} {value_text(self.value)}, {self.why}"

    def to_json(self) -> dict[str, Any]:
        """What `muster compare --json` prints."""
        target = {"metric": self.metric, "value": self.value}
        return dict(finite({"status": "ok", "target": target, "runs": [asdict(row) for row in self.rows]}))


def compare(folders: Sequence[Path], target: tuple[str, float] | None = None) -> Comparison:
    """Reads runs and measures each by one goal.

    Args:
        folders: Two to NUM_COLOURS run folders.
        target: Metric and value; None: the first run's target, else the best that all runs reached.

    Raises:
        UserError: Too few or too many runs, or nothing was measured in all of them.
        RunFolderError: A folder holds no run, or a file in it is damaged.
    """
    if not 2 <= len(folders) <= NUM_COLOURS:
        raise UserError(f"{len(folders)} run folders are given, but 2 to {NUM_COLOURS} can be compared")
    runs = tuple(told(folder) for folder in folders)
    metric, value, why = _goal(runs, target)
    rows = (_row(run, name, metric, value) for run, name in zip(runs, _names(folders), strict=True))
    return Comparison(runs, metric, value, why, tuple(rows))


def _names(folders: Iterable[Path]) -> list[str]:
    """The folders' names, or their paths where two would be called alike."""
    paths = [folder.resolve() for folder in folders]
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _goal(runs: Sequence[Told], target: tuple[str, float] | None) -> tuple[str, float, str]:
    measured = [set(run.history.metrics) for run in runs]
    shared = [name for name in runs[0].history.metrics if all(name in names for names in measured)]
    if target is not None:
        if target[0] not in shared:
            known = ", ".join(shared) or "nothing"
            raise UserError(
                f"--target names {target[0]!r}, but all of these runs measured only {known}"
                f"{nearest(target[0], shared)}"
            )
        return *target, "asked for"
    planned = runs[0].plan.target if runs[0].plan else None
    if planned is not None and planned[0] in shared:
        return *planned, f"the target of {runs[0].name}"
    metric = headline(shared)
    bests = [_best(run, metric) for run in runs] if metric else []
    if metric is None or None in bests:
        raise RunFolderError("these runs have no metric that all of them measured; nothing to compare by")
    known_bests = [best for best in bests if best is not None]
    value = max(known_bests) if falls(metric) else min(known_bests)
    return metric, value, "the best that all of them reached"


def _best(run: Told, metric: str) -> float | None:
    levels = run.history.levels(metric)[1]
    return float(levels[-1]) if len(levels) else None


def _row(run: Told, name: str, metric: str, value: float) -> Compared:
    history, tally = run.history, run.history.tally
    columns, at = history.columns, history.first_row(metric, value)
    total, took_part = sum(tally.device_secs.values()), len(history.participation)
    fairness = gini(history.participation, run.num_clients)
    return Compared(
        name=name,
        algorithm=run.plan.algorithm.rpartition("/")[2] if run.plan else "-",
        rounds=tally.version,
        best=_best(run, metric),
        rounds_to_target=None if at is None else int(columns["version"][at]),
        virtual_secs_to_target=None if at is None else float(columns["now_secs"][at]),
        bytes_to_target=None if at is None else int(history.traffic()[at]),
        device_secs_to_target=None if at is None else float(history.device_secs()[at]),
        virtual_secs=tally.now_secs,
        wall_secs=tally.wall_secs,
        num_bytes=tally.down_bytes + tally.up_bytes,
        device_secs=total,
        wasted_share=tally.device_secs["wasted"] / total if total > 0 else None,
        coverage=took_part / run.num_clients if run.num_clients else None,
        gini=None if math.isnan(fairness) else fairness,
    )


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heads and cells for people: a column a run."""
    goal = f"{comparison.metric} {value_text(comparison.value)}"

    def optional(value: float | None, text: Any) -> str:
        return "-" if value is None else str(text(value))

    def share(value: float) -> str:
        return share_text(value, 1.0)

    lines: list[tuple[str, Any]] = [
        ("algorithm", lambda r: r.algorithm),
        (f"best {comparison.metric}", lambda r: value_text(r.best)),
        (f"rounds to {goal}", lambda r: optional(r.rounds_to_target, "{:,}".format)),
        (f"virtual time to {goal}", lambda r: secs_text(r.virtual_secs_to_target)),
        (f"bytes to {goal}", lambda r: optional(r.bytes_to_target, bytes_text)),
        (f"device time to {goal}", lambda r: secs_text(r.device_secs_to_target)),
        ("rounds", lambda r: f"{r.rounds:,}"),
        ("virtual time", lambda r: secs_text(r.virtual_secs)),
        ("wall time", lambda r: secs_text(r.wall_secs)),
        ("bytes", lambda r: bytes_text(r.num_bytes)),
        ("device time", lambda r: secs_text(r.device_secs)),
        ("of it wasted", lambda r: optional(r.wasted_share, share)),
        ("clients that took part", lambda r: optional(r.coverage, share)),
        ("Gini of participation", lambda r: value_text(r.gini)),
    ]
    heads = ["", *(row.name for row in comparison.rows)]
    return heads, [[head, *(cell(row) for row in comparison.rows)] for head, cell in lines]


def sections(comparison: Comparison) -> list[Section]:
    """The curves of all runs over each other."""
    metric, runs, names = comparison.metric, comparison.runs, [row.name for row in comparison.rows]
    longest = {
        column: max((float(run.history.columns[column].max(initial=0.0)) for run in runs), default=0.0)
        for column in ("now_secs", "wall_secs")
    }
    unit, unit_name = time_unit(longest["now_secs"])
    wall_unit, wall_name = time_unit(longest["wall_secs"])
    device_unit, device_name = time_unit(max(row.device_secs for row in comparison.rows))

    def curves(title: str, x_label: str, x_of: Any, name: str = metric, **how: Any) -> Lines:
        found = []
        for number, run in enumerate(runs):
            rows, y = run.history.points(name)
            found.append(Series(names[number], x_of(run.history)[rows], y, number))
        return Lines(title, tuple(found), x_label, goal=comparison.value if name == metric else None, **how)

    upper = metric[:1].upper() + metric[1:]
    learning = (
        curves(
            f"{upper} against virtual time",
            f"virtual time, {unit_name}",
            lambda h: h.columns["now_secs"] / unit,
        ),
        curves(f"{upper} against rounds", "rounds", lambda h: h.columns["version"]),
        curves(f"{upper} against traffic", "bytes", lambda h: h.traffic(), x_text=bytes_tick),
        curves(
            f"{upper} against device time",
            f"device time, {device_name}",
            lambda h: h.device_secs() / device_unit,
        ),
        curves(
            f"{upper} against wall time",
            f"wall time, {wall_name}",
            lambda h: h.columns["wall_secs"] / wall_unit,
        ),
        curves("Training loss", f"virtual time, {unit_name}", lambda h: h.columns["now_secs"] / unit, ""),
    )
    fair = tuple(lorenz(run.history, run.num_clients, names[i], i) for i, run in enumerate(runs))
    seen = tuple(
        Series(names[i], run.history.columns["version"], run.history.seen, i) for i, run in enumerate(runs)
    )
    note = "Percent of all updates; a straight line if all clients gave alike."
    fairness = (
        Lines("Who gave the updates", fair, "most active clients, %", note, from_zero=True),
        Lines("Coverage", seen, "rounds", "Different clients whose updates were folded.", from_zero=True),
    )
    return [Section("Learning", learning), Section("Participation", fairness)]


def write_page(comparison: Comparison, out: Path) -> None:
    """Writes the comparison as one HTML file that is readable offline.

    Raises:
        RunFolderError: The disk is full, or the file cannot be written.
    """
    heads, lines = table(comparison)
    columns = "".join(f"<th>{escape(head)}</th>" for head in heads)
    cells = "".join(
        f"<tr><th>{escape(line[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:]) + "</tr>"
        for line in lines
    )
    body = [
        f"<h1>{len(comparison.rows)} runs compared</h1>",
        f"<p>Goal: {escape(comparison.goal)}.</p>",
        f'<div class="card compared"><table><tr>{columns}</tr>{cells}</table></div>',
        *(section(shown) for shown in sections(comparison)),
    ]
    write_whole(out, document("Comparison", body).encode())
