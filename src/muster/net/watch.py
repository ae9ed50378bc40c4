"""A run, simulated or deployed, as its folder shows it now: what the status page and `/metrics` are made of.

Only what has been added to records.jsonl since the last look is read. A server writes `live.json` beside it
(`write_live`): clients by state and the last errors, which no record holds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muster.core.errors import RunFolderError
from muster.core.record import Record
from muster.track.folder import LOG, RECORDS, TRACEBACK, RunFolder, disk_errors, write_whole
from muster.track.sink import RunPlan
from muster.track.summary import TASK_COUNTS, Tally, finite
from muster.track.units import secs_text

LIVE = "live.json"
STATES = ("idle", "training", "lost", "left", "quarantined")
"""What a deployed client can be, as `live.json` counts them."""
MAX_ERRORS, MAX_TEXT, MAX_METRICS = 10, 300, 16
_TAIL_BYTES = 8192


@dataclass
class Snapshot:
    """A run at a moment."""

    name: str
    state: str
    """waiting (no version yet), running, failed, or the summary's status: rounds, target, interrupted, ..."""
    why: str
    tally: Tally
    plan: RunPlan | None
    loss: float | None
    """Training loss of the newest version."""
    clients: Mapping[str, int]
    """By state while a server is at work, else what came of the newest version's tasks."""
    live: bool
    """Whether `clients` are of a server."""
    errors: Sequence[str]
    age_secs: float
    """Since the newest record was written."""
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    """(version, value) by metric; `""` is the training loss."""

    def text(self) -> str:
        """A few lines for a terminal."""
        tally, of = self.tally, f" of {self.plan.rounds:,}" if self.plan and self.plan.rounds else ""
        lines = [f"{self.name}: {self.state}" + (f", {self.why}" if self.why else "")]
        lines.append(f"round {tally.version:,}{of}, {secs_text(tally.now_secs)} of the run's time")
        lines += [f"test {name} {value:.4g}" for name, value in tally.metrics.items()]
        shown = ", ".join(f"{num:,} {state}" for state, num in self.clients.items() if num)
        lines.append(f"{'clients' if self.live else 'tasks of the newest round'}: {shown or 'none'}")
        return "\n".join([*lines, *self.errors])

    def to_json(self) -> dict[str, Any]:
        """What `/status.json` says."""
        tally = self.tally
        body = {
            "name": self.name,
            "state": self.state,
            "why": self.why,
            "round": tally.version,
            "rounds": self.plan.rounds if self.plan else None,
            "now_secs": tally.now_secs,
            "wall_secs": tally.wall_secs,
            "age_secs": round(self.age_secs, 3),
            "loss": self.loss,
            "metrics": tally.metrics,
            "best": tally.best,
            "clients": dict(self.clients),
            "live": self.live,
            "num_tasks": tally.num_tasks,
            "up_bytes": tally.up_bytes,
            "down_bytes": tally.down_bytes,
            "errors": list(self.errors),
        }
        return dict(finite(body))


def write_live(folder: Path, clients: Mapping[str, int], errors: Sequence[str]) -> None:
    """Says what the clients are doing; for a server, about once a second.

    Args:
        folder: The run's folder.
        clients: How many are in each of STATES.
        errors: One line each; the last ones are kept.
    """
    known = {state: int(clients.get(state, 0)) for state in STATES}
    kept = [_short(line) for line in errors[-MAX_ERRORS:]]
    write_whole(folder / LIVE, json.dumps({"clients": known, "errors": kept}).encode())


class Watch:
    """Looks at a run folder again and again; it may come to be later."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = RunFolder(folder), threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._offset, self._inode = 0, -1
        self._tally, self._last = Tally(), Record(0, 0.0, 0.0)
        self._curves: dict[str, list[tuple[int, float]]] = {}

    def look(self) -> Snapshot:
        """The run as it is now; may be called from several threads.

        Raises:
            RunFolderError: There is no run in the folder, or what is there cannot be read.
        """
        with self._lock:
            RunFolder.open(self._folder.path)
            self._read_on()
            return self._snapshot()

    def _snapshot(self) -> Snapshot:
        folder = self._folder.path
        plan, summary = self._folder.read_plan(), self._folder.read_summary()
        live = self._live()
        at_work = live is not None and summary is None
        outcome = {name: getattr(self._last, f"num_{name}") for name in TASK_COUNTS}
        state = "running" if self._offset else "waiting"
        if summary is not None:
            state = summary.status
        elif _written(folder / TRACEBACK) > _written(folder / RECORDS):
            state = "failed"
        return Snapshot(
            name=plan.name if plan else folder.name,
            state=state,
            why=summary.why if summary else "",
            tally=self._tally,
            plan=plan,
            loss=self._last.loss,
            clients=live["clients"] if live is not None and at_work else outcome,
            live=at_work,
            errors=[*(live["errors"] if live else []), *self._notices()][-MAX_ERRORS:],
            age_secs=max(time.time() - (_written(folder / RECORDS) or time.time()), 0.0),
            curves={name: tuple(points) for name, points in self._curves.items()},
        )

    def _read_on(self) -> None:
        path = self._folder.path / RECORDS
        if not path.exists():
            self._forget()
            return
        with disk_errors(self._folder.path), path.open("rb") as file:
            facts = path.stat()
            if facts.st_ino != self._inode or facts.st_size < self._offset:
                self._forget()  # the run was cut back to a checkpoint
                self._inode = facts.st_ino
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._add(line)
                self._offset += len(line)

    def _add(self, line: bytes) -> None:
        try:
            body = json.loads(line)
            metrics = {k: v for k, v in (body.get("metrics") or {}).items() if v is not None}
            record = Record.from_json({**body, "metrics": dict(list(metrics.items())[:MAX_METRICS])})
        except (ValueError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"{self._folder.path / RECORDS} holds a line that is no record ({error})"
            ) from error
        self._tally.add(record)
        self._last = record
        for name, value in [("", record.loss), *record.metrics.items()]:
            if value is not None:
                self._curves.setdefault(name, []).append((record.version, value))

    def _live(self) -> dict[str, Any] | None:
        try:
            body = json.loads((self._folder.path / LIVE).read_bytes())
            clients = {state: int(body["clients"][state]) for state in STATES}
            return {"clients": clients, "errors": [_short(str(line)) for line in body["errors"]]}
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a simulation, or not written yet

    def _notices(self) -> list[str]:
        """The last lines of log.txt."""
        try:
            with (self._folder.path / LOG).open("rb") as file:
                file.seek(max(file.seek(0, 2) - _TAIL_BYTES, 0))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        return [_short(line) for line in lines[-MAX_ERRORS:]]


def _written(path: Path) -> float:
    """When a file was last written, in seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _short(line: str) -> str:
    line = " ".join(line.split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"
